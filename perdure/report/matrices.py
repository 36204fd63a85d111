"""Figures with a cell per pair of tasks: the score matrix, and which earlier task each task leans on."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from perdure.report.collect import Group
from perdure.report.drawing import ABSENT, HEAT, INK, QUIET, Picture, file_name, seeds_of


def mean_matrix(group: Group) -> np.ndarray:
    """(N+1, N) mean over seeds; NaN where a seed has no score."""
    return np.asarray(np.mean([run.matrix.as_array() for run in group.runs], axis=0))


def heat_map(group: Group) -> Picture:
    """The score matrix of one row, mean over seeds; hatched grey cells are not defined."""
    tasks, values = group.first.tasks, mean_matrix(group)
    n = len(tasks)
    low, high = group.first.score["low"], group.first.score["high"]
    size = 0.62 if n <= 6 else 0.5
    figure = Figure(figsize=(1.9 + size * n * 1.25, 1.5 + size * (n + 1) * 0.8), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n + 0.5, -0.5))
    for learned in range(n + 1):
        for task in range(n):
            _heat_cell(axes, learned, task, values[learned, task], low, high, small=n > 12)
    for task in np.flatnonzero(np.isfinite(np.diag(values, -1))):
        axes.add_patch(Rectangle((task - 0.46, task + 0.54), 0.92, 0.92, fill=False, ec=INK, lw=1.4))
    axes.set_xticks(range(n), tasks, rotation=35 if n <= 6 else 60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n + 1), ["before any", *(f"after {task}" for task in tasks)])
    axes.spines[:].set_visible(False)
    axes.set_title(group.name)
    axes.set_xlabel("evaluated on", color=QUIET)
    rows = ["before any task", *(f"after {task}" for task in tasks)]
    lines = [f"{rows[k]}: {', '.join(_word(value) for value in values[k])}" for k in range(n + 1)]
    alt = f"Score matrix of {group.name}; columns {', '.join(tasks)}. {'; '.join(lines)}."
    caption = f"{group.name}, mean over {seeds_of(group)}. Framed: the task just learned. Hatched: not defined."
    return Picture(f"matrix-{file_name(group.name)}", figure, caption, alt)


def _heat_cell(axes: Axes, row: int, column: int, value: float, low: float, high: float, small: bool) -> None:
    if np.isnan(value):
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fc=ABSENT, ec="#cfd6dc", hatch="////", lw=0)
        axes.add_patch(box)
        return
    level = float(np.clip((value - low) / (high - low), 0, 1))
    axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fc=HEAT(level), ec="none"))
    ink = "white" if level > 0.55 else INK
    axes.text(
        column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=6.5 if small else 8.5
    )


def leaning(group: Group) -> Picture:
    """Which earlier tasks each task acts with, of the first seed; a column for every task that others can act with."""
    tasks, leans = group.first.tasks, group.first.leans
    n, small = len(tasks), len(tasks) > 12
    sources = sorted({source for _, source in leans})
    size = 0.62 if n <= 6 else 0.5
    figure = Figure(figsize=(1.9 + size * n * 1.25, 1.5 + size * n * 0.8), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    axes.set(xlim=(-0.5, len(sources) - 0.5), ylim=(n - 0.5, 0.5))
    for (task, source), weight in leans.items():
        _heat_cell(axes, task, sources.index(source), weight, 0.0, 1.0, small)
    axes.set_xticks(range(len(sources)), [tasks[source] for source in sources], rotation=35 if n <= 6 else 60, ha="right",
                    rotation_mode="anchor")
    own = group.first.footprint.get("modules")
    names = [task if own is None or i in own else f"{task} (no module)" for i, task in enumerate(tasks)]
    axes.set_yticks(range(1, n), names[1:])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{group.name}: which earlier tasks each task leans on")
    axes.set_xlabel("earlier task", color=QUIET)
    lines = [f"{tasks[task]} on {tasks[source]} {weight:.2f}" for (task, source), weight in sorted(leans.items())]
    alt = f"Which earlier tasks each task of {group.name} leans on: {', '.join(lines)}."
    caption = (f"{group.name}, seed {group.first.seed}. Row: a task; column: an earlier one; a row adds up to 1. Dark: of"
               " what it takes from earlier tasks, most is from that one. A task with a module of its own acts with that too.")
    return Picture(f"leaning-{file_name(group.name)}", figure, caption, alt)


def _word(value: float) -> str:
    return "not defined" if np.isnan(value) else f"{value:.2f}"
