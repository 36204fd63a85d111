"""What the columns of a table read from a run: a number, or None where it has none."""

from __future__ import annotations

from collections.abc import Callable

from perdure.report.collect import RunResult


def footprint(key: str) -> Callable[[RunResult], float | None]:
    return lambda run: run.matrix.footprint.get(key)


def modules(run: RunResult) -> float | None:
    tasks = run.matrix.footprint.get("modules")
    return None if tasks is None else float(len(tasks))


def seconds(key: str) -> Callable[[RunResult], float | None]:
    return lambda run: run.seconds(key)


def raw_return(run: RunResult) -> float | None:
    """Mean over tasks of the mean raw return after the last task; None if an episode has none."""
    means = [run.matrix.mean_return(run.matrix.n, task) for task in range(run.matrix.n)]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if len(known) == len(means) else None


def task_return(task: int, clipped: bool) -> Callable[[RunResult], float | None]:
    def read(run: RunResult) -> float | None:
        return run.matrix.mean_return(run.matrix.n, task, clipped)

    return read


def action_error(run: RunResult) -> float | None:
    """Mean over tasks of the held-out action error after the last task; None if one is missing."""
    errors = [run.matrix.action_error.get((run.matrix.n, task)) for task in range(run.matrix.n)]
    values = [error[0] for error in errors if error]
    return sum(values) / len(values) if len(values) == run.matrix.n else None


def next_task(run: RunResult) -> float | None:
    """Mean over tasks but the first of the score right before they were learned, where that was by their words alone."""
    if not run.matrix.footprint.get("from_words"):
        return None
    means = [run.matrix.mean(task, task) for task in range(1, run.matrix.n)]
    values = [mean for mean in means if mean is not None]
    return sum(values) / len(values) if values and len(values) == len(means) else None


def dreams(name: str) -> Callable[[RunResult], float | None]:
    """A number of `Fidelity`: mean over tasks but the last, of what was dreamed of them after the last task."""

    def read(run: RunResult) -> float | None:
        n = run.matrix.n
        found = [fidelity for (learned, task), fidelity in run.matrix.fidelity.items() if learned == n and task < n - 1]
        return sum(getattr(one, name) for one in found) / len(found) if found else None

    return read
