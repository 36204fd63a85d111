"""Metrics of continual learning, each under its own name with formula and source.

Symbols: N tasks; a[k, j] is the mean score of task j after k tasks were learned (row 0: before any). Names
are kept apart because the literature uses "forgetting" and "forward transfer" for different quantities. A
difference compares the same goals on both sides: both cells are cut to the first goals they share. A metric
that needs a cell that is null or was not evaluated is not defined, with the reason; it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.matrix import ScoreMatrix

CURVE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions of a task's training at which its learning curve is evaluated."""

HIGHEST_REFERENCE = 0.95
"""Above this reference area the division by 1 - area makes noise look like transfer."""

NO_REFERENCE = "no run of 'independent' with the same policy, profile, data and seed is among the runs given"


@dataclass(frozen=True)
class Definition:
    """Name, formula in words and symbols, source, and which direction is good (+1 higher, -1 lower)."""

    title: str
    formula: str
    source: str
    good: int


@dataclass(frozen=True)
class Metric:
    """Value of one metric for one run; None with `reason` where it is not defined."""

    name: str
    value: float | None
    reason: str | None
    formula: str
    source: str
    per_task: tuple[float | None, ...] = ()
    note: str = ""


CW = "Wolczyk et al. 2021, Continual World, arXiv 2105.10919"
GEM = "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory, arXiv 1706.08840"
OCW = "Offline Continual World, as in the code of CompoFormer, arXiv 2411.11364"
CHAUDHRY = "Chaudhry et al. 2018, Riemannian Walk, arXiv 1801.10112"

DEFINITIONS = {
    "average_performance": Definition(
        "average performance",
        "(1/N) Σ_j a[N, j]",
        f"{OCW} (P); {CW} (there the mean of the last five evaluations)",
        1,
    ),
    "forgetting": Definition(
        "forgetting",
        "(1/N) Σ_j (a[j, j] - a[N, j])",
        f"{OCW} (F); {CW} (there each score is a mean of five evaluations)",
        -1,
    ),
    "forgetting_max": Definition(
        "forgetting (maximum minus end)",
        "(1/(N-1)) Σ_{j<N} (max_{j≤k<N} a[k, j] - a[N, j]), all cells of a task cut to the goals they share",
        CHAUDHRY + " (there the maximum also covers rows before task j was learned)",
        -1,
    ),
    "backward_transfer": Definition(
        "backward transfer", "(1/(N-1)) Σ_{j<N} (a[N, j] - a[j, j])", f"{GEM}; {OCW} (BWT)", 1
    ),
    "forward_transfer": Definition(
        "forward transfer (area)",
        "mean over tasks of (AUC_j - AUC_j^ref) / (1 - AUC_j^ref); AUC by the trapezoid rule over the points "
        "0, 25, 50, 75 and 100 % of the task; reference: the curve of 'independent', same policy, profile, "
        f"data and seed; a task whose reference area is above {HIGHEST_REFERENCE} is left out",
        CW,
        1,
    ),
    "forward_transfer_difference": Definition(
        "forward transfer (area difference)", "mean over tasks of AUC_j - AUC_j^ref, not normalised", CW, 1
    ),
    "forward_transfer_zero_shot": Definition(
        "forward transfer (zero-shot)",
        "(1/(N-1)) Σ_{j>1} (a[j-1, j] - a[0, j])",
        f"{GEM}; {OCW} (FWT; there a task without a head of its own acts through the newest one, here through a fresh one)",
        1,
    ),
    "intransigence": Definition(
        "intransigence",
        "(1/N) Σ_j (a^ref[j, j] - a[j, j]); reference: 'independent', same policy, profile, data and seed",
        CHAUDHRY + " (there the reference is a model trained jointly on all tasks so far)",
        -1,
    ),
}


class _Undefined(Exception):
    """A cell or curve point that a metric needs has no score; the text is the reason."""


def average_performance(matrix: ScoreMatrix) -> Metric:
    """P = (1/N) sum_j a[N, j]: mean of the last row, all its episodes (Offline Continual World, arXiv 2411.11364).

    Continual World (arXiv 2105.10919) has the same formula over the mean of the last five evaluations.
    """

    def values() -> list[float]:
        return [float(_need(matrix, matrix.n, j).mean()) for j in range(matrix.n)]

    return _metric("average_performance", values)


def forgetting(matrix: ScoreMatrix) -> Metric:
    """F = (1/N) sum_j (a[j, j] - a[N, j]): diagonal minus last row (Continual World, arXiv 2105.10919).

    The mean is over all N tasks, although the last one cannot be forgotten yet and counts 0.
    """
    return _metric("forgetting", lambda: [-change for change in _since_learned(matrix)])


def forgetting_max(matrix: ScoreMatrix) -> Metric:
    """F = (1/(N-1)) sum_{j<N} (max_k a[k, j] - a[N, j]), k from the row in which j was learned to N-1.

    Source: Chaudhry et al. 2018, arXiv 1801.10112. A maximum over noisy cells is biased upwards, more so with
    few episodes, so all cells of a column are cut to the goals that every one of them has.
    """

    def values() -> list[float]:
        _several(matrix)
        drops = []
        for j in range(matrix.n - 1):
            column = [_need(matrix, k, j) for k in range(j + 1, matrix.n + 1)]
            shared = min(len(scores) for scores in column)
            means = [float(scores[:shared].mean()) for scores in column]
            drops.append(max(means[:-1]) - means[-1])
        return drops

    return _metric("forgetting_max", values)


def backward_transfer(matrix: ScoreMatrix) -> Metric:
    """BWT = (1/(N-1)) sum_{j<N} (a[N, j] - a[j, j]) (Lopez-Paz & Ranzato 2017, arXiv 1706.08840)."""

    def values() -> list[float]:
        _several(matrix)
        return _since_learned(matrix)[:-1]

    return _metric("backward_transfer", values)


def forward_transfer_zero_shot(matrix: ScoreMatrix) -> Metric:
    """FWT = (1/(N-1)) sum_{j>1} (a[j-1, j] - a[0, j]): a task's score just before it is learned, over that of
    the untrained agent (Lopez-Paz & Ranzato 2017, arXiv 1706.08840)."""

    def values() -> list[float]:
        _several(matrix)
        return [_change(matrix, (0, j), (j, j)) for j in range(1, matrix.n)]

    return _metric("forward_transfer_zero_shot", values)


def intransigence(matrix: ScoreMatrix, reference: ScoreMatrix | None) -> Metric:
    """I = (1/N) sum_j (a_ref[j, j] - a[j, j]): what learning in sequence costs on the new task itself.

    Source: Chaudhry et al. 2018, arXiv 1801.10112, with `independent` (one model per task) as the reference.
    """

    def values() -> list[float]:
        other = _reference(matrix, reference)
        gaps = []
        for j in range(matrix.n):
            here, there = _need(matrix, j + 1, j), _need(other, j + 1, j)
            shared = min(len(here), len(there))
            gaps.append(float(there[:shared].mean() - here[:shared].mean()))
        return gaps

    return _metric("intransigence", values)


def area(matrix: ScoreMatrix, task: int) -> float | None:
    """Area under the learning curve of `task`, trapezoid over `CURVE_POINTS`; None if one is missing."""
    points = [point for fraction in CURVE_POINTS if (point := matrix.curve_mean(task, fraction)) is not None]
    if len(points) < len(CURVE_POINTS):
        return None
    return float(np.trapezoid(points, CURVE_POINTS))


def forward_transfer(matrix: ScoreMatrix, reference: ScoreMatrix | None) -> Metric:
    """FT = mean of (AUC_j - AUC_ref_j) / (1 - AUC_ref_j) over the tasks where it is defined.

    Source: Continual World, arXiv 2105.10919; there AUC is the mean over 50 evaluations and seeds are
    averaged before the ratio, here it is the trapezoid over five points and every seed has its own
    reference. `note` names how many tasks are in the mean and why the others are not.
    """

    def ratio(own: float, ref: float) -> float:
        if ref > HIGHEST_REFERENCE:
            raise _Undefined(f"the reference area is {ref:.2f}, above {HIGHEST_REFERENCE}")
        return (own - ref) / (1 - ref)

    return _over_defined_tasks("forward_transfer", matrix, reference, ratio)


def forward_transfer_difference(matrix: ScoreMatrix, reference: ScoreMatrix | None) -> Metric:
    """Mean of AUC_j - AUC_ref_j: shown beside `forward_transfer`, whose ratio explodes for easy tasks."""
    return _over_defined_tasks("forward_transfer_difference", matrix, reference, lambda own, ref: own - ref)


def measure(matrix: ScoreMatrix, reference: ScoreMatrix | None = None) -> dict[str, Metric]:
    """All metrics of one run by name; `reference` is the matrix of `independent`, None if there is none."""
    return {
        "average_performance": average_performance(matrix),
        "forgetting": forgetting(matrix),
        "forgetting_max": forgetting_max(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": forward_transfer(matrix, reference),
        "forward_transfer_difference": forward_transfer_difference(matrix, reference),
        "forward_transfer_zero_shot": forward_transfer_zero_shot(matrix),
        "intransigence": intransigence(matrix, reference),
    }


def _metric(name: str, values: Callable[[], Sequence[float]]) -> Metric:
    """The mean of the values per task that the function `values` returns, or the reason why it cannot."""
    definition = DEFINITIONS[name]
    try:
        per_task = tuple(float(value) for value in values())
    except _Undefined as problem:
        return Metric(name, None, str(problem), definition.formula, definition.source)
    return Metric(name, _mean(per_task), None, definition.formula, definition.source, per_task)


def _over_defined_tasks(
    name: str, matrix: ScoreMatrix, reference: ScoreMatrix | None, compare: Callable[[float, float], float]
) -> Metric:
    """Mean over the tasks where `compare(area, reference area)` is defined; the note names the others."""
    definition = DEFINITIONS[name]
    per_task: list[float | None] = []
    missing = []
    for j, task in enumerate(matrix.tasks):
        try:
            own, ref = _curve_area(matrix, j), _curve_area(_reference(matrix, reference), j)
            per_task.append(compare(own, ref))
        except _Undefined as problem:
            per_task.append(None)
            missing.append((task, str(problem)))
    defined = [value for value in per_task if value is not None]
    if not defined:
        return Metric(
            name, None, _joined(missing, matrix.n), definition.formula, definition.source, tuple(per_task)
        )
    note = f"mean over {len(defined)} of {matrix.n} tasks; {_joined(missing, matrix.n)}" if missing else ""
    return Metric(name, _mean(defined), None, definition.formula, definition.source, tuple(per_task), note)


def _joined(missing: list[tuple[str, str]], n: int) -> str:
    """One phrase for the tasks left out; a reason that holds for all N tasks is said once."""
    reasons = {reason for _, reason in missing}
    if len(missing) == n and len(reasons) == 1:
        return reasons.pop()
    return "; ".join(f"{task}: {reason}" for task, reason in missing)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _several(matrix: ScoreMatrix) -> None:
    if matrix.n < 2:
        raise _Undefined("it needs at least two tasks")


def _need(matrix: ScoreMatrix, learned: int, task: int) -> np.ndarray:
    scores = matrix.cell(learned, task)
    if scores is None:
        reason = matrix.reason(learned, task)
        raise _Undefined(f"no score of {matrix.tasks[task]} {when(matrix, learned)}: {reason}")
    return scores


def when(matrix: ScoreMatrix, learned: int) -> str:
    """A row of the matrix in words, such as "after 2 of 3 tasks"."""
    return "before any learning" if learned == 0 else f"after {learned} of {matrix.n} tasks"


def _change(matrix: ScoreMatrix, earlier: tuple[int, int], later: tuple[int, int]) -> float:
    """Score of cell `later` minus cell `earlier`, on the goals they share."""
    before, after = _need(matrix, *earlier), _need(matrix, *later)
    shared = min(len(before), len(after))
    return float(after[:shared].mean() - before[:shared].mean())


def _since_learned(matrix: ScoreMatrix) -> list[float]:
    """(N,) last row minus diagonal."""
    return [_change(matrix, (j + 1, j), (matrix.n, j)) for j in range(matrix.n)]


def _reference(matrix: ScoreMatrix, reference: ScoreMatrix | None) -> ScoreMatrix:
    if reference is None:
        raise _Undefined(NO_REFERENCE)
    if reference.tasks != matrix.tasks:
        raise UsageError(f"reference has the tasks {list(reference.tasks)}; it needs {list(matrix.tasks)}")
    return reference


def _curve_area(matrix: ScoreMatrix, task: int) -> float:
    value = area(matrix, task)
    if value is None:
        absent = [f"{fraction:.0%}" for fraction in CURVE_POINTS if matrix.curve_mean(task, fraction) is None]
        raise _Undefined(f"the learning curve of {matrix.method} lacks the points {', '.join(absent)}")
    return value
