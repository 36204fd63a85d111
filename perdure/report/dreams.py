"""Figure of generative replay: real against dreamed data, generation by generation, and how far apart they are."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perdure.core.fidelity import Fidelity
from perdure.core.words import counted
from perdure.report.collect import Group
from perdure.report.drawing import QUIET, Picture, file_name

REAL, DREAMED = "#9aa5b1", "#AA3377"

MOST = 4
"""Tasks with a row of their own, the first ones: they are dreamed most often."""


def dreaming(group: Group) -> Picture:
    """Of the first seed: a row per task; a column per number of times that the generators learned from their own dreams."""
    matrix = group.first
    tasks = sorted({task for _, task in matrix.fidelity})[:MOST]
    rows = [[matrix.fidelity[k, task] for k in range(task + 1, matrix.n + 1) if (k, task) in matrix.fidelity] for task in tasks]
    width = max(len(row) for row in rows)
    figure = Figure(figsize=(1.75 * width + 2.6, 1.75 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), width + 1, squeeze=False, width_ratios=[1] * width + [1.5])
    for place, (task, row) in enumerate(zip(tasks, rows, strict=True)):
        for column in range(width):
            axes = grid[place][column]
            if column < len(row):
                _cloud(axes, row[column], row[0])
            else:
                axes.set_axis_off()
            if place == 0:
                axes.set_title(f"{counted(column, 'task')} later" if column else "just learned", fontsize=8.5)
        grid[place][0].set_ylabel(matrix.tasks[task], fontsize=8.5)
        _distances(grid[place][width], row, place == 0)
    grid[0][0].legend(loc="upper left", fontsize=7, handletextpad=0.1, borderpad=0.1)
    last = rows[0][-1]
    caption = (f"{group.name}, seed {matrix.seed}. Grey: held-out data of the task, observations with actions, along the two"
               " directions in which they vary most. Purple: what the method would replay of it; points on a frame lie beyond it."
               " The further right, the more often the generators have learned from their own dreams. Curve: sliced Wasserstein"
               " distance between both, in standard deviations; dashed: between data and data, which perfect dreams reach.")
    alt = (f"Dreams of {group.name}. After all tasks, the dreams of {matrix.tasks[tasks[0]]} are {last.distance:.2f} standard"
           f" deviations from its data, where data themselves are {last.floor:.2f} apart; they cover {last.coverage:.0%} of it.")
    return Picture(f"dreams-{file_name(group.name)}", figure, caption, alt)


def _cloud(axes: Axes, found: Fidelity, first: Fidelity) -> None:
    """Real and dreamed points, in the frame of the task's first panel."""
    real, dreamed, frame = (np.asarray(points) for points in (found.real, found.dreamed, first.real))
    axes.scatter(real[:, 0], real[:, 1], s=5, color=REAL, lw=0, label="data")
    margin = 0.35 * (frame.max(0) - frame.min(0)) + 1e-6
    low, high = frame.min(0) - margin, frame.max(0) + margin
    dreamed = dreamed.clip(low, high)
    axes.scatter(dreamed[:, 0], dreamed[:, 1], s=5, color=DREAMED, lw=0, alpha=0.7, label="dreams", clip_on=False)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    axes.text(0.97, 0.03, f"{found.distance:.2f}", transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5, color=QUIET)


def _distances(axes: Axes, found: list[Fidelity], named: bool) -> None:
    axes.plot(range(len(found)), [one.distance for one in found], color=DREAMED, marker="o", markersize=3.5, lw=1.4)
    axes.plot(range(len(found)), [one.floor for one in found], color=REAL, ls="--", lw=1.2)
    top = max(max(one.distance, one.floor) for one in found)
    axes.set(ylim=(0, 1.15 * top + 1e-6), xticks=range(len(found)))
    axes.tick_params(labelsize=7)
    axes.yaxis.tick_right()
    if named:
        axes.set_title("distance to the data", fontsize=8.5)
