"""Make the tables of docs/results: run what is missing, keep the score matrices, write the tables.

    python tools/results.py cw3-v3             # run what is missing (a killed run resumes), then write the table
    python tools/results.py cw3-v3 --only er ewc --seeds 0    # the same for these methods, policies or labels, and seeds
    python tools/results.py cw3-v3 --write     # only keep what is finished and write the table

Two processes may work on one table at the same time: a run that another one holds is left to it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tables import BASELINES, TABLES, Row

from perdure.api import execute
from perdure.core.errors import GuardError, Held, Interrupted
from perdure.core.files import write_atomic
from perdure.core.matrix import ScoreMatrix
from perdure.core.metrics import measure
from perdure.report.write import write_report
from perdure.run_config import RunConfig, load_config

RESULTS = Path("docs/results")
REPRODUCTION = Path("docs/reproduction.md")
FIGURES = ("leaning-", "dreams-")
"""Kept beside the table; `perdure report` draws the others."""
KEPT = ("config.json", "environment.json", "scores.json")


def kept_folder(table: str, config: RunConfig) -> Path:
    """Where the records of a finished run are kept; a run that is kept is not run again.

    Found by its config, as it reads today, so that an option added later with the old behaviour as default changes nothing.
    """
    place = RESULTS / table / "runs"
    for path in place.glob(f"{config.method}-{config.policy}-*-seed{config.seed}/config.json"):
        if load_config(path) == config:
            return path.parent
    return place / f"{config.method}-{config.policy}-{config.hash}-seed{config.seed}"


def finished(config: RunConfig) -> bool:
    scores = config.default_folder / "scores.json"
    return scores.exists() and ScoreMatrix.load(scores).complete


def work(table: str, only: list[str], seeds: list[int]) -> None:
    """Run every unfinished run of the table, seed by seed, so that an early stop leaves every method with some seeds."""
    configs = [c for row in TABLES[table] for c in row.configs()
               if not only or {row.method, row.policy, row.label} & set(only)
               if c.seed in (seeds or [c.seed])]
    for config in sorted(configs, key=lambda c: c.seed):
        if finished(config) or (kept_folder(table, config) / "scores.json").exists():
            continue
        print(f"{config.method} {config.stream} {config.policy} seed {config.seed}: {config.default_folder}", flush=True)
        try:
            execute(config, config.default_folder, workers=0)
        except Held:
            print("left to the process that holds it", flush=True)
        except GuardError as stop:
            print(f"stopped, and left out of the table: {stop}", flush=True)
        except Interrupted as signal:
            raise SystemExit(f"{signal}; or start this command again") from None


def shown(row: Row, table: str) -> str:
    """What sets a row apart in the table from others of its method."""
    several = any(other.method == row.method and other.policy != row.policy for other in TABLES[table])
    return ", ".join(filter(None, [row.label, row.policy if several else None]))


def row_name(row: Row, table: str) -> str:
    """As it stands in the table."""
    marks = ", ".join(filter(None, ["compat" if row.options.get("compat") else "", shown(row, table)]))
    return row.method + (f" ({marks})" if marks else "")


def write(table: str) -> None:
    """Keep the finished score matrices under docs/results/<table>/runs and write the table from them."""
    target = RESULTS / table
    labels: dict[str, str] = {}
    folders: list[Path] = []
    names: set[str] = set()
    for row in TABLES[table]:
        for config in row.configs():
            kept = kept_folder(table, config)
            if finished(config):
                kept.mkdir(parents=True, exist_ok=True)
                for name in KEPT:
                    shutil.copy(config.default_folder / name, kept / name)
            if (kept / "scores.json").exists():
                folders.append(kept)
                names.add(row_name(row, table))
                if label := shown(row, table):
                    labels[str(kept)] = label
    if not folders:
        raise SystemExit(f"no finished run of {table} yet")
    baseline = BASELINES.get(table, "")
    report = write_report(folders, Path("runs") / "tables" / table, labels=labels, title=table,
                          baseline=baseline if baseline in names else "")
    shutil.copy(report.page.parent / "table.md", target / "table.md")
    shutil.copy(report.page.parent / "table.csv", target / "table.csv")
    shutil.rmtree(target / "figures", ignore_errors=True)
    for file in report.files:
        if file.suffix == ".png" and file.name.startswith(FIGURES):
            (target / "figures").mkdir(exist_ok=True)
            shutil.copy(file, target / "figures")
    print(f"{target / 'table.md'} from {len(folders)} runs; the page is {report.page}")


def fill_reproduction() -> None:
    """Write every kept result into the rows of docs/reproduction.md: mean performance and forgetting, seeds, config hash.

    A row of which no run is kept with the settings of today says that it was not run.
    """
    kept: dict[tuple[str, str], list[ScoreMatrix]] = {}
    declared: set[tuple[str, str]] = set()
    for table, its_rows in TABLES.items():
        for row in its_rows:
            scores = [kept_folder(table, config) / "scores.json" for config in row.configs()]
            found = [ScoreMatrix.load(path) for path in scores if path.exists()]
            declared.add((_section(table), _name(row)))
            if len(found) > len(kept.get((_section(table), _name(row)), [])):  # a row may stand in several tables
                kept[_section(table), _name(row)] = found
    section, lines, filled = "", [], set()
    for line in REPRODUCTION.read_text().splitlines():
        if line.startswith("### "):
            section = line.split()[1]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and (section, cells[0]) in kept:
            filled.add((section, cells[0]))
            line = f"| {cells[0]} | {cells[1]} | {' | '.join(_ours(kept[section, cells[0]]))} |"
        elif len(cells) == 7 and (section, cells[0]) in declared:
            line = f"| {cells[0]} | {cells[1]} | not run | not run | - | - | not run |"
        lines.append(line)
    write_atomic(REPRODUCTION, ("\n".join(lines) + "\n").encode())
    for section, name in kept.keys() - filled:
        if any(line.startswith(f"### {section} ") for line in lines):
            print(f"{REPRODUCTION} has no row '{name}' under {section}")


def _section(table: str) -> str:
    """The heading in docs/reproduction.md that the rows of a table stand under."""
    return table.partition("-order")[0].partition("-dreams")[0].removesuffix("-dt")


def _name(row: Row) -> str:
    """The method with what sets this row apart: released behaviour, a label, another policy, another order of the tasks."""
    marks = ", ".join(filter(None, ["compat" if row.options.get("compat") else "", row.label or ""]))
    order = row.stream_options.get("order", "default")
    policy = "" if row.policy == "bc" else f", `{row.policy}`"
    return row.method + (f" ({marks})" if marks else "") + policy + ("" if order == "default" else f", order {order}")


def _ours(matrices: list[ScoreMatrix]) -> list[str]:
    """Performance, forgetting, seeds, config hash and status of one row."""
    values = []
    for name in ("average_performance", "forgetting"):
        metrics = [measure(matrix)[name].value for matrix in matrices]
        known = [x for x in metrics if x is not None]
        values.append(f"{sum(known) / len(known):.3f}" if len(known) == len(matrices) else "not defined")
    seeds = ", ".join(str(matrix.seed) for matrix in sorted(matrices, key=lambda m: m.seed))
    return [*values, seeds, ", ".join(sorted({f"`{matrix.config_hash}`" for matrix in matrices})), "measured"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=list(TABLES))
    parser.add_argument("--only", nargs="+", default=[], help="run these methods, policies or labels alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="run these seeds alone")
    parser.add_argument("--write", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    for table in arguments.tables:
        if not arguments.write:
            work(table, arguments.only, arguments.seeds)
        write(table)
    fill_reproduction()


if __name__ == "__main__":
    main()
