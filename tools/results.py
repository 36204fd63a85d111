"""Make the tables of docs/results: run what is missing, keep the score matrices, write the tables.

    python tools/results.py cw3-v3             # run what is missing (a killed run resumes), then write the table
    python tools/results.py cw3-v3 --only er ewc --seeds 0    # the same for these methods, policies or labels, and seeds
    python tools/results.py cw3-v3 --write     # only keep what is finished and write the table

Two processes may work on one table at the same time: a run that another one holds is left to it.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perdure.api import execute
from perdure.core.errors import GuardError, Held
from perdure.core.files import write_atomic
from perdure.core.matrix import ScoreMatrix
from perdure.core.metrics import measure
from perdure.methods.cugro import OWN_POLICY
from perdure.report.write import write_report
from perdure.run_config import RunConfig, load_config, resolve

RESULTS = Path("docs/results")
REPRODUCTION = Path("docs/reproduction.md")
FIGURES = ("leaning-", "dreams-")
"""Kept beside the table; `perdure report` draws the others."""
KEPT = ("config.json", "environment.json", "scores.json")


@dataclass(frozen=True)
class Row:
    """Runs of one method on one stream."""

    method: str
    stream: str
    policy: str = "bc"
    seeds: tuple[int, ...] = (0,)
    options: dict[str, Any] = field(default_factory=dict)
    stream_options: dict[str, Any] = field(default_factory=dict)
    policy_options: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    label: str | None = None

    def configs(self) -> list[RunConfig]:
        return [resolve(self.method, self.stream, policy=self.policy, seed=seed, method_options=self.options,
                        policy_options=self.policy_options, stream_options_=self.stream_options, evaluation=self.evaluation)
                for seed in self.seeds]


def rows(stream: str, methods: str, policy: str = "bc", seeds: int = 1) -> list[Row]:
    return [Row(method, stream, policy, tuple(range(seeds))) for method in methods.split()]


REPLAY = {"memory_bytes": 3_000_000}
"""For all tasks together, so that replay methods are compared at the same number of bytes (about 5 % of the data of cw10-v3)."""


AS_DREAMS = {"memory_bytes": 2_000_000}
"""What the state generator of cugro takes in an agent, for all tasks together."""


ENDS = {"episodes": 20, "shared": 10, "curve": 0}
"""Evaluation without learning curves, where every task is learned alone and an episode has a thousand steps."""


def on_bodies(quality: str) -> list[Row]:
    """One model per body, as in offline reinforcement learning of single tasks."""
    options = {"quality": quality, "episodes": 500}
    seeds = {"bc": (0, 1, 2), "td3bc": (0, 1, 2), "iql": (0, 1, 2), "dt": (0,)}
    alone = [Row("independent", "hopper-walker-cheetah-v5", policy, its, stream_options=options, evaluation=ENDS)
             for policy, its in seeds.items()]
    return [*alone, Row("independent", "hopper-walker-cheetah-v5", "sfbc", options={"steps": 13_000}, stream_options=options,
                        policy_options={"behaviour_share": 3 / 13, "averaging": 0.001}, evaluation=ENDS)]


def in_order(order: str) -> list[Row]:
    """Two methods on a shuffled order of cw10-v3."""
    return [Row("packnet", "cw10-v3", stream_options={"order": order}),
            Row("er", "cw10-v3", options=REPLAY, stream_options={"order": order})]


RELEASED: dict[str, dict[str, Any]] = {"ewc": {"strength": 5000.0}, "mas": {"strength": 10.0}, "agem": {}, "perfect_memory": {}}
"""Strengths in the code released with CompoFormer, for the rows with `compat`."""


def routed(stream: str, policy: str, seeds: tuple[int, ...] = (0,), **options: Any) -> Row:
    """tsn_affinity with options that name the row."""
    label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    return Row("tsn_affinity", stream, policy, seeds, options, label=label)


def small(stream: str, method: str, policy: str = "bc", seeds: tuple[int, ...] = (0,), **sizes: int) -> Row:
    """One model per task, of a size at which all together have as many parameters as a method uses (`tools/match_size.py`)."""
    return Row("independent", stream, policy, seeds, policy_options=sizes, label=f"as large as {method}")


def composed(stream: str, seeds: tuple[int, ...] = (0,), stream_options: dict[str, Any] | None = None, **options: Any) -> Row:
    """compoformer with options that name the row; the default variant is named too."""
    named = {"variant": options.get("variant", "grow")} | options
    label = ", ".join(value if name == "variant" else f"{name} {value}" for name, value in named.items())
    return Row("compoformer", stream, "dt", seeds, options, stream_options or {}, label=label)


MUJOCO = {"episodes": 20, "shared": 10}
"""Evaluation on MuJoCo streams, whose returns differ little between episodes."""


GO_ON: dict[str, Any] = {"on_collapse": "go_on"}
"""So that what a control makes of the task can be seen where its dreams are bad."""


def dreamed(stream: str, seeds: tuple[int, ...] = (0,), stream_options: dict[str, Any] | None = None, **options: Any) -> Row:
    """cugro with options that name the row; both generators and the policy take `evaluations` of the solver."""
    named = {name: value for name, value in (options | (stream_options or {})).items() if name not in ("compat", *GO_ON)}
    label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items()) or None
    evaluation = {} if stream.startswith("metaworld") else MUJOCO
    policy = {name: value for name, value in options.items() if name == "evaluations"}
    return Row("cugro", stream, "sfbc", seeds, options, stream_options or {}, policy, evaluation, label)


def with_sfbc(stream: str, methods: str, **options: Any) -> list[Row]:
    """Other methods on the same policy and protocol."""
    evaluation = {} if stream.startswith("metaworld") else MUJOCO
    return [Row(method, stream, "sfbc", options=options, policy_options=OWN_POLICY, evaluation=evaluation)
            for method in methods.split()]


def published(stream: str) -> list[Row]:
    """One of CuGRO's sequences."""
    controls = [dreamed(stream, replay=replay) for replay in ("oracle", "none")]
    return [dreamed(stream), *controls, *with_sfbc(stream, "independent")]


AS_CLONING = {"steps": 5000}
"""Of every policy the updates of cloning: those of iql stand at their end after a quarter of that on cheetah-vel."""

ROLLOUTS = {"rollouts": True}
"""Of Meta-World streams: a method may try its policy in the simulator; the steps are counted."""

PUBLISHED, PADDED = {"variant": "published"}, {"layout": "compat"}
"""Of Panda streams: episodes that end with success; observations and actions padded to one size."""

FEW = {"episodes": 100}
"""Of MuJoCo streams: the reference mode dreams as much as there are data, at 100 evaluations each."""

TABLES: dict[str, list[Row]] = {
    "cwtune-v3-ewc": [
        *(Row("ewc", "cwtune-v3", options={"strength": s}, label=f"strength {s:g}") for s in (0.001, 0.01, 0.1, 1.0, 10.0)),
        *rows("cwtune-v3", "independent finetune"),
    ],
    "cw3-v3": rows("cw3-v3", "independent finetune packnet er joint ewc", seeds=5),
    "cw3b-v3": rows("cw3b-v3", "independent finetune packnet er joint ewc", seeds=5),
    "cw10-v3": [
        *rows("cw10-v3", "independent finetune packnet joint l2 ewc mas", seeds=3),
        *(Row(method, "cw10-v3", seeds=(0, 1, 2), options=REPLAY) for method in ("er", "clonex")),
        *(Row(method, "cw10-v3", options=REPLAY) for method in ("der", "agem")),
        Row("tsn", "cw10-v3"),
        Row("tsn", "cw10-v3", options={"schedule": "equal_remaining"}, label="equal shares"),
        Row("tsn_affinity", "cw10-v3"),
        *(routed("cw10-v3", "bc", task_id=task_id) for task_id in ("inferred", "random")),
        routed("cw10-v3", "bc", router="random"),
        small("cw10-v3", "tsn", width=78),
        small("cw10-v3", "tsn_affinity", width=144),
        *rows("cw10-v3", "si rwalk vcl lwf lora pnn frozen_trunk perfect_memory scratch incremental_joint"),
        *(Row(method, "cw10-v3", options={"compat": True, **released}) for method, released in RELEASED.items()),
    ],
    "cw10-v3-order-1": in_order("1"),
    "cw10-v3-order-2": in_order("2"),
    "cw10-v3-order-3": in_order("3"),
    "cw10-v3-dt": [
        *rows("cw10-v3", "independent finetune lora joint tsn_affinity", policy="dt"),
        *rows("cw10-v3", "packnet", policy="dt", seeds=3),
        Row("er", "cw10-v3", "dt", options=REPLAY),
        composed("cw10-v3", (0, 1, 2)),
        composed("cw10-v3", (0, 1, 2), variant="prune"),
        *(composed("cw10-v3", attention=attention) for attention in ("uniform", "cosine", "ones")),
        composed("cw10-v3", stream_options=ROLLOUTS, reuse="rollout"),
        *(composed("cw10-v3", variant="prune", join=join) for join in ("sharing", "addition")),
        composed("cw10-v3", variant="prune", attention="uniform"),
        composed("cw10-v3", variant="prune", share="geometric"),
        Row("packnet", "cw10-v3", "dt", options={"share": "geometric"}, label="share geometric"),
    ],
    "cw10-v3-dt-order-1": [Row("packnet", "cw10-v3", "dt", stream_options={"order": "1"}),
                           composed("cw10-v3", stream_options={"order": "1"}, variant="prune")],
    "cw20-v3-dt": [
        *rows("cw20-v3", "independent packnet", policy="dt"),
        *(composed("cw20-v3", variant=variant) for variant in ("grow", "prune")),
    ],
    "cwpairs-v3-dt": [
        Row("independent", "cwpairs-v3", "dt"),
        composed("cwpairs-v3"),
        composed("cwpairs-v3", stream_options=ROLLOUTS, reuse="rollout"),
        replace(composed("cwpairs-v3", reuse="never", tolerance=0.3), label="grow, reuse never"),  # it has no part in that
        composed("cwpairs-v3", reuse="always"),
        composed("cwpairs-v3", meaning="data"),
    ],
    "panda3-v3-dt": [
        *rows("panda3-v3", "independent tsn finetune er packnet joint", "dt", seeds=3),
        Row("er", "panda3-v3", "dt", (0, 1, 2), {"memory_share": 1.0}, label="cumulative"),
        Row("tsn_affinity", "panda3-v3", "dt", (0, 1, 2)),
        *(routed("panda3-v3", "dt", (0, 1, 2), router=router) for router in ("latent", "hybrid")),
        *(routed("panda3-v3", "dt", router=router) for router in ("always", "never", "random")),
        routed("panda3-v3", "dt", task_id="inferred"),
        Row("tsn", "panda3-v3", "dt", options={"keep_ratio": 0.5}, label="keep ratio 0.5"),
        *rows("panda3-v3", "ewc perfect_memory", "dt"),
        small("panda3-v3", "tsn", "dt", (0, 1, 2), width=32, mlp_width=131),
        small("panda3-v3", "tsn_affinity", "dt", (0, 1, 2), width=36, mlp_width=166),
    ],
    "panda3-v3-padded-dt": [
        Row("independent", "panda3-v3", "dt", stream_options=PADDED),
        *(Row("tsn_affinity", "panda3-v3", "dt", options={"compat": True, "router": router}, stream_options=PADDED,
              label=f"router {router}") for router in ("action", "latent", "hybrid")),
        Row("tsn_replaykl", "panda3-v3", "dt", stream_options=PADDED),
        *(Row("tsn_affinity", "panda3-v3", "dt", options={"task_id": task_id}, stream_options=PADDED, label=f"task id {task_id}")
          for task_id in ("given", "inferred")),
    ],
    "panda3-v3-published-dt": [Row(method, "panda3-v3", "dt", stream_options=PUBLISHED)
                               for method in ("independent", "tsn_affinity")],
    "atari5-v5-dt": [Row(method, "atari5-v5", "dt", evaluation={"episodes": 10, "shared": 5, "curve": 0})
                     for method in ("independent", "tsn_affinity", "tsn", "finetune")],
    "hopper-walker-cheetah-v5": on_bodies("medium"),
    "hopper-walker-cheetah-v5-replay": on_bodies("medium-replay"),
    "cheetah-vel-v5": [Row(method, "cheetah-vel-v5", policy, options=AS_CLONING, evaluation=MUJOCO)
                       for policy in ("bc", "td3bc", "iql")
                       for method in ("independent", "finetune", "er", "ewc", "packnet", "joint")],
    "cheetah-vel-v5-dreams": [
        dreamed("cheetah-vel-v5", (0, 1, 2, 3, 4)),
        *(dreamed("cheetah-vel-v5", (0, 1, 2, 3, 4), replay=replay) for replay in ("oracle", "none", "noise")),
        *(dreamed("cheetah-vel-v5", replay=replay, **GO_ON) for replay in ("vae", "gan")),
        *with_sfbc("cheetah-vel-v5", "er", **AS_DREAMS),
        *with_sfbc("cheetah-vel-v5", "ewc independent joint"),
        *(Row(method, "cheetah-vel-v5", evaluation=MUJOCO) for method in ("dgr", "tdgr", "cril", "independent")),
    ],
    "swimmer-dir-v5-dreams": published("swimmer-dir-v5"),
    "walker-params-v5-dreams": published("walker-params-v5"),
    "metaworld5-v3-dreams": published("metaworld5-v3"),
    "ant-dir-4-v5-dreams": [dreamed("ant-dir-4-v5"), *with_sfbc("ant-dir-4-v5", "er", **AS_DREAMS),
                            *with_sfbc("ant-dir-4-v5", "independent joint")],
    "cheetah-vel-v5-dreams-ablations": [
        dreamed("cheetah-vel-v5"), *with_sfbc("cheetah-vel-v5", "independent"),
        dreamed("cheetah-vel-v5", stream_options=FEW), dreamed("cheetah-vel-v5", stream_options=FEW, compat=True),
        *(dreamed("cheetah-vel-v5", **{name: value}, **GO_ON) for name, value in (
            ("guidance", 1.0), ("evaluations", 5), ("dreams", 2000), ("dreams", 50_000), ("penalty", 0.0), ("penalty", 10.0))),
    ],
    "cw3-v3-dt": rows("cw3-v3", "independent finetune packnet er", policy="dt"),
}


BASELINES = {table: "cugro" for table in TABLES if "-dreams" in table}
BASELINES |= {table: "independent (bc)" for table in TABLES if table.startswith("hopper")} | {"cheetah-vel-v5": "finetune (bc)"}
"""Table -> the row that the others are compared with, where it is not `finetune`."""


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


def shown(row: Row, table: str) -> str:
    """What sets a row apart in the table from others of its method."""
    several = any(other.method == row.method and other.policy != row.policy for other in TABLES[table])
    return ", ".join(filter(None, [row.label, row.policy if several else None]))


def write(table: str) -> None:
    """Keep the finished score matrices under docs/results/<table>/runs and write the table from them."""
    target = RESULTS / table
    labels: dict[str, str] = {}
    folders: list[Path] = []
    for row in TABLES[table]:
        for config in row.configs():
            kept = kept_folder(table, config)
            if finished(config):
                kept.mkdir(parents=True, exist_ok=True)
                for name in KEPT:
                    shutil.copy(config.default_folder / name, kept / name)
            if (kept / "scores.json").exists():
                folders.append(kept)
                if label := shown(row, table):
                    labels[str(kept)] = label
    if not folders:
        raise SystemExit(f"no finished run of {table} yet")
    report = write_report(folders, Path("runs") / "tables" / table, labels=labels, title=table,
                          baseline=BASELINES.get(table, ""))
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
            if found:
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
