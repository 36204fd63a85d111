"""Which cells of the score matrix and which points of the learning curve are evaluated, on how many episodes.

All cells use one frozen list of goals, from its start: the diagonal and the last row all of it, the others
its first part. So diagonal minus last row compares equal episodes, and so do all cells cut to the part they
share.
"""

from __future__ import annotations

from perdure.core.errors import UsageError
from perdure.core.metrics import CURVE_POINTS


def cells_after(learned: int, n_tasks: int, *, joint: bool = False, final: int = 50, shared: int = 10) -> list[tuple[int, int]]:
    """(task, episodes) of the cells to evaluate once `learned` tasks (0 to n_tasks) are learned, in the order of the tasks.

    Sequential methods: in row 0 all tasks; then the tasks learned so far and the one that comes next
    (zero-shot); in the end all. `final` episodes for the task just learned and for the whole last row,
    `shared` elsewhere. Joint methods: the last row only.
    """
    if not 0 <= learned <= n_tasks:
        raise UsageError(f"learned is {learned}; with {n_tasks} tasks it lies between 0 and {n_tasks}")
    if not 1 <= shared <= final:
        raise UsageError(f"shared is {shared} and final is {final}; give 1 <= shared <= final")
    if learned == n_tasks:
        return [(task, final) for task in range(n_tasks)]
    if joint:
        return []
    tasks = range(n_tasks) if learned == 0 else range(learned + 1)
    return [(task, final if task == learned - 1 else shared) for task in tasks]


def curve_points(total_steps: int) -> list[tuple[int, float]]:
    """(step, fraction) of the learning curve within a task of `total_steps` updates, in order.

    A point is evaluated when `step` updates are done; fewer updates than points give the same step more than
    once.
    """
    return [(round(fraction * total_steps), fraction) for fraction in CURVE_POINTS]
