"""Print when runs took earlier modules for a new task, side by side, as Markdown: `python tools/reuse.py RUN RUN ...`.

The runs are of methods that choose (compoformer), on one stream; the first one is compared with each of the others: tasks that
both gave a module, that neither did, and that one of them did. Decisions are about the same modules only as long as both made the
same ones before, so agreement is also counted among these tasks alone. What parameters bring is counted from the run that adds
the fewest (success per parameter would be highest for one that adds next to none). A column is named by the options in which the
runs differ. In brackets, of runs whose agents are still in their folders, what a choice was made from: the share of what a module
of the task's own had gained that the best earlier one gives up (`offline`), or the success of the trial (`rollout`).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from perdure.core.files import read_json
from perdure.core.matrix import ScoreMatrix

OF_ONE_RULE = ("tolerance", "threshold", "probe_share")
"""Options that tell runs apart only if nothing else does."""


def names(configs: list[dict[str, Any]]) -> list[str]:
    """Each run by the options of its method that are not the same in all."""
    options = [config["method_config"] for config in configs]
    differing = [key for key in options[0] if len({str(one[key]) for one in options}) > 1]
    differing = [key for key in differing if key not in OF_ONE_RULE] or differing
    return [", ".join(f"{key} {one[key]}" for key in differing) or "run" for one in options]


def choices(folder: Path) -> dict[int, str]:
    """Task -> what its choice was made from, in words; nothing where the folder holds no agent."""
    metas = sorted(folder.glob("agent/*/meta.json"), key=lambda path: int(path.parent.name))
    decisions = read_json(metas[-1])["architecture"]["decisions"] if metas else []
    return {task: words for task, decision in decisions if (words := made_from(decision))}


def made_from(decision: dict[str, Any]) -> str:
    if "success" in decision:
        return f" ({decision['success']:.2f})"
    if "alone_error" not in decision:
        return ""
    gained = math.log(decision["constant_error"] / decision["own_error"])
    if gained <= 0:
        return " (nothing gained)"
    return f" ({math.log(decision['alone_error'] / decision['own_error']) / gained:.2f})"


def rows(matrices: list[ScoreMatrix], made: list[dict[int, str]]) -> list[list[str]]:
    """Per task: whether it got a module in each run, from what that was chosen, and its success at the end."""
    found = []
    for task, name in enumerate(matrices[0].tasks):
        cells = [name]
        for matrix, words in zip(matrices, made, strict=True):
            mean = matrix.mean(matrix.n, task)
            chosen = "module" if task in matrix.footprint["modules"] else "reuse"
            cells.append(f"{chosen}{words.get(task, '')}, {'-' if mean is None else f'{mean:.2f}'}")
        found.append(cells)
    return found


def agreement(first: ScoreMatrix, other: ScoreMatrix) -> list[int]:
    """Tasks but the first that: both gave a module, neither did, only the first run did, only the other."""
    mine, theirs = (set(matrix.footprint["modules"]) for matrix in (first, other))
    later = range(1, first.n)
    return [sum((task in mine, task in theirs) == pair for task in later)
            for pair in ((True, True), (False, False), (True, False), (False, True))]


def comparable(first: ScoreMatrix, other: ScoreMatrix) -> list[bool]:
    """Whether both decided alike, for every task but the first before which both had the same modules."""
    mine, theirs = (set(matrix.footprint["modules"]) for matrix in (first, other))
    alike = [(task in mine) == (task in theirs) for task in range(first.n)]
    return [alike[task] for task in range(1, first.n) if all(alike[:task])]


def success(matrix: ScoreMatrix) -> float:
    """Mean over tasks at the end."""
    means = [mean for task in range(matrix.n) if (mean := matrix.mean(matrix.n, task)) is not None]
    return sum(means) / len(means)


def parameters(matrix: ScoreMatrix) -> int:
    """Added after the first task."""
    return sum(matrix.footprint["parameters_per_task"][1:])


def added(matrix: ScoreMatrix, least: ScoreMatrix) -> str:
    """Success at the end, modules, parameters after the first task, and what those beyond the run with the least brought."""
    more = parameters(matrix) - parameters(least)
    modules = len(matrix.footprint["modules"])
    said = f"{success(matrix):.3f} with {modules} modules and {parameters(matrix):,} parameters after the first task"
    return said + (f": {(success(matrix) - success(least)) / (more / 1e6):+.3f} per million more than the least" if more else "")


def check(folders: list[Path], matrices: list[ScoreMatrix]) -> None:
    """Only finished runs on the same tasks and data are compared, whose parameters per task are all that a task adds."""
    for folder, matrix in zip(folders, matrices, strict=True):
        if "modules" not in matrix.footprint:
            raise SystemExit(f"{folder} does not say which tasks got a module; give runs of a method that chooses, such as"
                             " compoformer")
        if read_json(folder / "config.json")["method_config"].get("variant") == "prune":
            raise SystemExit(f"{folder} shares out the weights that are there, which are not counted per task; give runs of"
                             " variant grow")
        if not matrix.complete:
            raise SystemExit(f"{folder} is not finished; resume it first")
        mine, first = ([entry["digest"] for entry in one.data] for one in (matrix, matrices[0]))
        if (matrix.stream, mine) != (matrices[0].stream, first):
            raise SystemExit(f"{folder} is of other tasks or data than {folders[0]}; give runs on the same stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    folders = parser.parse_args().runs
    matrices = [ScoreMatrix.load(folder / "scores.json") for folder in folders]
    check(folders, matrices)
    titles = names([read_json(folder / "config.json") for folder in folders])
    print("| task | " + " | ".join(titles) + " |\n|---" + "|---" * len(titles) + "|")
    for row in rows(matrices, [choices(folder) for folder in folders]):
        print("| " + " | ".join(row) + " |")
    print()
    for title, matrix in zip(titles, matrices, strict=True):
        print(f"- {title}: {added(matrix, min(matrices, key=parameters))}")
    print(f"\n| against {titles[0]} | both a module | both reuse | only {titles[0]} a module | only the other | agree"
          " | agree where both had the same modules |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for title, matrix in zip(titles[1:], matrices[1:], strict=True):
        counts, same = agreement(matrices[0], matrix), comparable(matrices[0], matrix)
        agreed = f"{sum(counts[:2])} of {sum(counts)} | {sum(same)} of {len(same)}"
        print(f"| {title} | " + " | ".join(map(str, counts)) + f" | {agreed} |")


if __name__ == "__main__":
    main()
