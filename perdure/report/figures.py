"""Figures of a report: curves over the stream, average against tasks seen, cost, retention.

Every figure is returned as a matplotlib `Figure` with its alternative text. Colours follow Paul Tol's
"bright" scheme, which stays apart for all common kinds of colour blindness; markers tell the methods apart a
second time.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from perdure.core.intervals import bootstrap
from perdure.core.matrix import ScoreMatrix
from perdure.report.collect import Collection, Group, RunResult
from perdure.report.drawing import GRID, INK, QUIET, Picture
from perdure.report.dreams import dreaming
from perdure.report.matrices import heat_map, leaning, mean_matrix

COLOURS = ("#4477AA", "#228833", "#AA3377", "#66CCEE", "#EE8866", "#332288", "#999933")
MARKERS = ("o", "D", "^", "P", "<", ">", "p")

FIXED = {
    "finetune": ("#EE6677", "s"),
    "er": ("#4477AA", "o"),
    "packnet": ("#228833", "D"),
    "ewc": ("#AA3377", "^"),
    "independent": ("#777777", "X"),
    "joint": ("#CCBB44", "v"),
}
"""Methods in almost every report look the same in all of them; the two references are grey and yellow."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b8c0c8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.hashsalt": "perdure",
    # A task name with dollar signs is a name and no formula.
    "text.parse_math": False,
}


def encode(picture: Picture, kind: str) -> bytes:
    """The figure as "svg" or "png"; the same figure always gives the same bytes."""
    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        picture.figure.savefig(
            out, format=kind, dpi=200, bbox_inches="tight", pad_inches=0.08, metadata=metadata
        )
    return out.getvalue()


def styles(collection: Collection) -> dict[str, tuple[str, str]]:
    """Row -> (colour, marker); by name, so that a method keeps its colour however the rows are sorted."""
    names = sorted(group.name for group in collection.groups)
    taken = {FIXED[name] for name in names if name in FIXED}
    count = len(COLOURS)
    # With more rows than colours the markers move on by one, so that no two rows look the same before 49.
    pairs = [(COLOURS[i % count], MARKERS[(i + i // count) % count]) for i in range(count * count)]
    free = [pair for pair in pairs if pair not in taken]
    others = [name for name in names if name not in FIXED]
    look = {name: FIXED[name] for name in names if name in FIXED}
    return look | {name: free[i % len(free)] for i, name in enumerate(others)}


def limits(collection: Collection, margin: float) -> tuple[float, float]:
    """Range of the score axis: the score's scale, and more where scores lie outside of it."""
    scale = collection.first.score
    arrays = [run.matrix.as_array() for run in collection.runs]
    known = np.concatenate([array[np.isfinite(array)] for array in arrays])
    low, high = min([scale["low"], *known]), max([scale["high"], *known])
    return float(low - margin * (high - low)), float(high + margin * (high - low))


def pictures(collection: Collection) -> list[Picture]:
    """All figures of the report, laid out."""
    with matplotlib.rc_context(STYLE):
        drawn = [stream_curves(collection), tasks_seen(collection), retention(collection), cost(collection)]
        drawn += [heat_map(group) for group in collection.groups]
        drawn += [leaning(group) for group in collection.groups if group.first.leans]
        drawn += [dreaming(group) for group in collection.groups if group.first.fidelity]
        for picture in drawn:
            # Laid out once and then fixed: the layout engine moves things a little on every further drawing.
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")
        return drawn


# -- curves over the stream ---------------------------------------------------------------------------


def stream_curves(collection: Collection) -> Picture:
    """One panel per task over the whole stream; the shaded stretch is the task's own training."""
    tasks = collection.first.tasks
    n = len(tasks)
    columns = 1 if n <= 6 else 2
    rows = -(-n // columns)
    figure = Figure(figsize=(8.6, 0.9 + 1.35 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for extra in range(n, rows * columns):
        panels.T.flat[extra].set_visible(False)
    look, bounds = styles(collection), limits(collection, 0.07)
    for task, axes in zip(range(n), panels.T.flat, strict=False):
        axes.axvspan(task, task + 1, color="#f1f4f7", zorder=0, lw=0)
        axes.grid(axis="x", visible=False)
        for boundary in range(1, n):
            axes.axvline(boundary, color="#c7ced5", lw=0.8, ls=(0, (2, 2)), zorder=1)
        for group in collection.groups:
            _task_line(axes, group, task, *look[group.name])
        axes.set(xlim=(-0.04, n + 0.04), ylim=bounds)
        axes.set_title(tasks[task], fontsize=9, pad=3)
        axes.set_xticks(
            np.arange(n) + 0.5, [_clip(t, 34 // n + 8) for t in tasks], fontsize=8 if n <= 6 else 6
        )
        axes.tick_params(axis="x", rotation=0 if n <= 4 else 60)
    figure.supylabel("score", fontsize=9)
    _legend(figure, collection)
    caption = (
        "Score of each task while the stream is learned. Shaded: the task's own training, curve on the "
        "second list of goals; markers: cells of the score matrix, final goals. Bands: 95 % bootstrap over "
        "seeds; with fewer than 5 seeds thin lines are single seeds."
    )
    alt = f"Learning curves of {', '.join(look)} over the stream of {n} tasks: {', '.join(tasks)}."
    return Picture("curves", figure, caption, alt)


def _task_line(axes: Axes, group: Group, task: int, colour: str, marker: str) -> None:
    """Cells before, the learning curve during, and cells after the task's own training."""
    n = group.first.n
    before = [(float(k), _cell(k, task)) for k in (0, task) if k <= task]
    fractions = sorted({f for run in group.runs for t, f in run.matrix.curve if t == task})
    during = [(task + fraction, _curve(task, fraction)) for fraction in fractions]
    after = [(float(k), _cell(k, task)) for k in range(task + 1, n + 1)]
    for points, style in ((dict(before).items(), ":"), (during, "-"), (after, "-")):
        xs, values = _by_seed(group, list(points))
        if not xs.size:
            continue
        mark = None if points is during else marker
        _line(axes, xs, values, colour, mark, style)


def _cell(learned: int, task: int) -> Callable[[ScoreMatrix], float | None]:
    return lambda matrix: matrix.mean(learned, task)


def _curve(task: int, fraction: float) -> Callable[[ScoreMatrix], float | None]:
    return lambda matrix: matrix.curve_mean(task, fraction)


def _by_seed(
    group: Group, points: list[tuple[float, Callable[[ScoreMatrix], float | None]]]
) -> tuple[np.ndarray, np.ndarray]:
    """(P,) positions and (seeds, P) values of the points that every seed has."""
    xs, columns = [], []
    for x, read in points:
        values = [value for run in group.runs if (value := read(run.matrix)) is not None]
        if len(values) == len(group.runs):
            xs.append(x)
            columns.append(values)
    return np.array(xs), np.array(columns).T


def _line(
    axes: Axes, xs: np.ndarray, values: np.ndarray, colour: str, marker: str | None, style: str
) -> None:
    """Mean over seeds, with a band (5 seeds or more) or the single seeds as thin lines."""
    intervals = [bootstrap(column) for column in values.T]
    if intervals[0]:
        low, high = [i.low for i in intervals if i], [i.high for i in intervals if i]
        axes.fill_between(xs, low, high, color=colour, alpha=0.16, lw=0)
    elif len(values) > 1:
        axes.plot(xs, values.T, color=colour, lw=0.6, alpha=0.45, ls=style)
    axes.plot(
        xs, values.mean(axis=0), color=colour, lw=1.7, ls=style, marker=marker, ms=4, mec="white", mew=0.6
    )


# -- average against tasks seen -----------------------------------------------------------------------


def tasks_seen(collection: Collection) -> Picture:
    """Mean score of the tasks learned so far, after each task."""
    n = collection.first.n
    figure = Figure(figsize=(5.6, 3.3), layout="constrained")
    axes = figure.subplots()
    look = styles(collection)
    parts = []
    for group in collection.groups:
        xs, values = _by_seed(group, [(float(k), _average(k)) for k in range(1, n + 1)])
        if xs.size:
            _line(axes, xs, values, *look[group.name], "-")
            parts.append(f"{group.name} {', '.join(f'{value:.2f}' for value in values.mean(axis=0))}")
    axes.set(xlabel="tasks learned", ylabel="mean score of the tasks learned", xlim=(0.8, n + 0.2))
    axes.set_ylim(limits(collection, 0.05))
    axes.set_xticks(range(1, n + 1))
    _legend(figure, collection)
    caption = "Average performance against tasks seen: mean over the tasks learned so far."
    return Picture("tasks-seen", figure, caption, f"Average performance after each task. {'; '.join(parts)}.")


def _average(k: int) -> Callable[[ScoreMatrix], float | None]:
    """Mean of a[k, 1..k]; None if a cell is not defined."""

    def read(matrix: ScoreMatrix) -> float | None:
        means = [mean for task in range(k) if (mean := matrix.mean(k, task)) is not None]
        return sum(means) / k if len(means) == k else None

    return read


# -- retention and cost -------------------------------------------------------------------------------


def retention(collection: Collection) -> Picture:
    """Every task right after it was learned (hollow) and at the end of the stream (filled)."""
    tasks = collection.first.tasks
    n, groups = len(tasks), collection.groups
    figure = Figure(figsize=(8.6, 0.75 + n * (0.1 + 0.17 * len(groups))), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="y", visible=False)
    look = styles(collection)
    step = 0.8 / max(len(groups), 1)
    for task in range(n):
        if task % 2:
            axes.axhspan(task - 0.5, task + 0.5, color="#f6f8fa", lw=0, zorder=0)
        for i, group in enumerate(groups):
            values = mean_matrix(group)
            first, last, y = values[task + 1, task], values[n, task], task - 0.4 + step * (i + 0.5)
            colour, marker = look[group.name]
            axes.plot([first, last], [y, y], color=colour, lw=1.8, alpha=0.55, solid_capstyle="round")
            axes.plot(first, y, marker=marker, ms=5.5, mfc="white", mec=colour, mew=1.4, clip_on=False)
            axes.plot(last, y, marker=marker, ms=5.5, color=colour, mec="white", mew=0.5, clip_on=False)
    axes.set(xlim=limits(collection, 0.02), ylim=(n - 0.5, -0.5), xlabel="score")
    axes.set_yticks(range(n), tasks)
    _legend(figure, collection)
    caption = "Each task right after it was learned (hollow) and at the end (filled), mean over seeds."
    return Picture(
        "retention", figure, caption, "Each task right after learning and at the end; numbers in the table."
    )


def cost(collection: Collection) -> Picture:
    """Average performance against parameters, bytes kept and training time."""
    panels: list[tuple[str, Callable[[RunResult], float | None]]] = [
        ("parameters", lambda run: run.matrix.footprint.get("parameters")),
        ("bytes of the agent and its memory", _bytes_kept),
        ("training seconds", lambda run: run.seconds("train_seconds")),
    ]
    figure = Figure(figsize=(8.6, 2.9), layout="constrained")
    look = styles(collection)
    for i, (axes, (title, read)) in enumerate(zip(figure.subplots(1, 3, sharey=True), panels, strict=True)):
        for group in collection.groups:
            pairs = [(read(run), run.metrics["average_performance"].value) for run in group.runs]
            known = np.array([(x, y) for x, y in pairs if x is not None and y is not None], dtype=float)
            if known.size:
                colour, marker = look[group.name]
                axes.plot(
                    *known.mean(axis=0), marker=marker, color=colour, ms=8, mec="white", mew=0.8, ls="none"
                )
        axes.set(xlabel=title, ylim=limits(collection, 0.06))
        axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if i == 0:
            axes.set_ylabel("average performance")
    _legend(figure, collection)
    caption = "Average performance against what it costs. Up and to the left is better."
    return Picture(
        "cost", figure, caption, "Average performance against parameters, bytes kept and training time."
    )


def _bytes_kept(run: RunResult) -> float | None:
    footprint = run.matrix.footprint
    if "agent_bytes" not in footprint:
        return None
    return float(footprint["agent_bytes"])  # a memory is part of the agent


# -- shared -------------------------------------------------------------------------------------------


def _legend(figure: Figure, collection: Collection) -> None:
    look = styles(collection)
    lines = [
        Line2D([], [], color=look[g.name][0], marker=look[g.name][1], lw=1.7, mec="white")
        for g in collection.groups
    ]
    names = [group.name for group in collection.groups]
    figure.legend(
        lines, names, loc="outside upper left", ncols=min(len(names), 6), fontsize=8.5, handlelength=1.8
    )


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
