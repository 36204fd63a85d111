"""Rows of a report against each other: differences paired by seed, and shares of what one model per task gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.core.errors import UsageError, nearest
from perdure.core.intervals import Summary, paired
from perdure.core.matrix import ScoreMatrix
from perdure.report.collect import Group

LEAST_GAIN = 0.1
"""Of one model per task over an untrained one, where a share of it says something: of less, noise is many times as much."""


@dataclass(frozen=True)
class Difference:
    """Average performance of `row` minus that of `baseline`, seed by seed."""

    row: str
    baseline: str
    summary: Summary


def differences(scored: Mapping[str, Summary | None], baseline: str = "") -> tuple[Difference, ...]:
    """Every row against one of them.

    Args:
        scored: row -> average performance, best first.
        baseline: a row; empty: `finetune`, or the lowest row where there is no `finetune`.

    Raises:
        UsageError: there is no row `baseline`.
    """
    if baseline and baseline not in scored:
        raise UsageError(f"the baseline is '{baseline}'{nearest(baseline, scored)}; the rows are {', '.join(scored)}")
    values = {name: dict(summary.by_seed) for name, summary in scored.items() if summary}
    if len(values) < 2:
        return ()
    against = baseline or ("finetune" if "finetune" in values else list(values)[-1])
    pairs = {name: paired(values[name], values.get(against, {})) for name in values if name != against}
    return tuple(Difference(name, against, summary) for name, summary in pairs.items() if summary)


def normalised(group: Group, groups: Sequence[Group]) -> tuple[dict[int, float], str, tuple[str, ...]]:
    """How much of what one model per task gains the runs of a row have at the end.

    The mean over tasks of (end - untrained) / (independent - untrained), by seed; `untrained` and `independent` are the first
    row of the score matrix of the method `independent` and its last one: with the same policy where there is such a row, of
    the same seed where it has been run. A task where that model gains less than `LEAST_GAIN` is left out.

    Returns:
        Seed -> value, why a value is missing, and which tasks are left out.
    """
    references = [other for other in groups if other.first.method == "independent"]
    if not references:
        return {}, "there is no row `independent`", ()
    same = [other for other in references if other.first.policy == group.first.policy]
    by_seed = {run.seed: run.matrix for run in (same or references)[0].runs}
    first = next(iter(by_seed.values()))
    pairs = {run.seed: (run.matrix, by_seed.get(run.seed, first)) for run in group.runs}
    values = {seed: _gain(matrix, reference) for seed, (matrix, reference) in pairs.items()}
    without = dict.fromkeys(first.tasks[task] for _, reference in pairs.values() for task in range(first.n)
                            if (gain := _gain_of(reference, task)) is not None and gain < LEAST_GAIN)
    notes = (f"without {', '.join(without)}, where one model per task gains less than {LEAST_GAIN:g}",) if without else ()
    return ({seed: value for seed, value in values.items() if value is not None},
            f"a score is missing, or one model per task gains less than {LEAST_GAIN:g} on every task", notes)


def _gain_of(reference: ScoreMatrix, task: int) -> float | None:
    untrained, top = reference.mean(0, task), reference.mean(reference.n, task)
    return None if untrained is None or top is None else top - untrained


def _gain(matrix: ScoreMatrix, reference: ScoreMatrix) -> float | None:
    shares = []
    for task in range(matrix.n):
        untrained, gain, end = reference.mean(0, task), _gain_of(reference, task), matrix.mean(matrix.n, task)
        if untrained is None or gain is None or end is None:
            return None
        if gain >= LEAST_GAIN:
            shares.append((end - untrained) / gain)
    return sum(shares) / len(shares) if shares else None
