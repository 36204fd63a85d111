"""Score matrix of one run: every evaluation episode, cell by cell, read from and written to `scores.json`.

Cell (k, j) holds the episodes of task j (column, 0..N-1) evaluated after k tasks were learned (row, 0..N;
row 0 is before any learning). A cell that was not or could not be evaluated is absent or null with a
reason, and never 0: the metrics of `perdure.core.metrics` are then "not defined". Raw episodes are kept, so
that every metric and interval can be computed again. No wall times: two runs with the same seed write
identical bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.core.fidelity import Fidelity
from perdure.core.files import read_json
from perdure.core.json_fields import entries_of, get_field, is_kind

FORMAT = 1
"""Version of `scores.json` that this library writes; newer ones are refused."""

PROTOCOL = {"heads": str, "normaliser": str, "task_id_at_test": bool, "past_data": bool}
"""Fields of the protocol: what a method is told, and thus which runs may be compared."""

COUNTS = ("parameters", "used_parameters", "copies", "memory_bytes", "agent_bytes", "environment_steps")
"""Fields of the footprint that are whole numbers; `parameters_per_task` is a list of them, and so is `modules`: the tasks that
got a module of their own, of methods that choose."""

LISTS = ("cells", "curve", "action_error", "leans", "fidelity")
"""Fields of `scores.json` that are lists of places with what was measured there."""

MOST_TASKS = 300
"""Most tasks of a run: with more, a checkpoint's scores are larger than the largest JSON that is read."""


@dataclass(frozen=True)
class Episode:
    """One evaluation episode: reported score, success (None: not defined), length in environment steps, raw
    return (None where the episode was ended at its first success, so that its return would not be comparable),
    and, where the return is the score, the clipped one: the sum of the signs of the rewards."""

    score: float
    success: bool | None = None
    length: int = 0
    raw_return: float | None = None
    clipped_return: float | None = None
    trace: str = field(default="", compare=False)
    """Digest of actions and rewards, which tells episodes apart; not in `scores.json`."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise UsageError(f"score of an episode is {self.score}; it must be a finite number")
        for name in ("raw_return", "clipped_return"):
            value = self.__dict__[name]
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name} of an episode is {value}; it must be finite or null")

    def to_json(self) -> dict[str, Any]:
        clipped = {} if self.clipped_return is None else {"clipped_return": float(self.clipped_return)}
        return {
            "score": float(self.score),
            "success": None if self.success is None else bool(self.success),
            "length": int(self.length),
            "raw_return": None if self.raw_return is None else float(self.raw_return),
            **clipped,
        }


@dataclass(frozen=True)
class Cell:
    """Episodes in the order of the goal list `goals`; or none and the reason why."""

    episodes: tuple[Episode, ...]
    goals: str = "final"
    reason: str | None = None
    distinct: int | None = None
    """How many of the episodes differ from one another, where some do not."""


@dataclass
class ScoreMatrix:
    """Scores of one run with what is needed to compare it: stream, method, protocol, footprint, data."""

    stream: str
    stream_version: int
    tasks: tuple[str, ...]
    method: str
    policy: str
    profile: str
    seed: int
    config_hash: str
    protocol: dict[str, Any]
    score: dict[str, Any]
    complete: bool = False
    bit_exact: bool = True
    footprint: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    cells: dict[tuple[int, int], Cell] = field(default_factory=dict)
    curve: dict[tuple[int, float], tuple[Episode, ...]] = field(default_factory=dict)
    action_error: dict[tuple[int, int], tuple[float, int]] = field(default_factory=dict)
    """(learned, task) -> mean held-out action error, number of transitions."""
    leans: dict[tuple[int, int], float] = field(default_factory=dict)
    """(task, earlier task) -> how much the first acts with what was learned for the other, 0 to 1; of methods that say so."""

    fidelity: dict[tuple[int, int], Fidelity] = field(default_factory=dict)
    """(learned, task) -> how near what would be replayed of the task is to its data; of methods that make what they replay."""

    def __post_init__(self) -> None:
        self.tasks = tuple(self.tasks)
        if not self.tasks:
            raise UsageError("tasks is empty; a score matrix needs at least one task")
        if len(self.tasks) > MOST_TASKS:
            raise UsageError(f"the stream {self.stream} has {len(self.tasks)} tasks; a run has {MOST_TASKS} at most")

    @property
    def n(self) -> int:
        """Number of tasks N."""
        return len(self.tasks)

    # -- writing ----------------------------------------------------------------------------------

    def set_cell(self, learned: int, task: int, episodes: Iterable[Episode], goals: str = "final") -> None:
        """Store the episodes of `task` after `learned` tasks, in goal order; replaces the cell."""
        self._check_place(learned, task)
        kept = _some(episodes, f"cell (learned {learned}, task {task})")
        traces = {episode.trace for episode in kept}
        same = "" not in traces and len(traces) < len(kept)
        self.cells[learned, task] = Cell(kept, goals, distinct=len(traces) if same else None)

    def null_cell(self, learned: int, task: int, reason: str) -> None:
        """Store that the cell has no score and why, in words."""
        self._check_place(learned, task)
        self.cells[learned, task] = Cell((), reason=reason)

    def set_curve(self, task: int, fraction: float, episodes: Iterable[Episode]) -> None:
        """Store a point of the learning curve of `task`: after `fraction` (0..1) of its own training."""
        self._check_place(0, task)
        if not 0 <= fraction <= 1:
            raise UsageError(f"curve fraction is {fraction}; it lies between 0 and 1")
        self.curve[task, float(fraction)] = _some(episodes, f"curve point (task {task}, fraction {fraction})")

    def set_action_error(self, learned: int, task: int, value: float, n: int) -> None:
        """Store the mean held-out action error of `task` over `n` transitions after `learned` tasks."""
        self._check_place(learned, task)
        if not math.isfinite(value):
            raise UsageError(f"action_error of task {task} is {value}; it must be a finite number")
        self.action_error[learned, task] = (float(value), int(n))

    def set_leans(self, leans: Mapping[tuple[int, int], float]) -> None:
        """Store which earlier tasks each task leans on, and how much."""
        for (task, source), weight in leans.items():
            if not 0 <= source < task < self.n or not 0 <= weight <= 1 + 1e-6:
                raise UsageError(f"task {task} leans on task {source} with weight {weight}; it leans on earlier tasks, by 0 to 1")
        self.leans = dict(leans)

    def set_fidelity(self, learned: int, task: int, value: Fidelity) -> None:
        """Store how near dreams of `task` after `learned` tasks are to its data."""
        self._check_place(learned, task)
        self.fidelity[learned, task] = value

    def _check_place(self, learned: int, task: int) -> None:
        if not 0 <= learned <= self.n or not 0 <= task < self.n:
            raise UsageError(f"cell (learned {learned}, task {task}) lies outside the matrix; with {self.n} tasks"
                             f" learned is 0 to {self.n} and task 0 to {self.n - 1}")

    # -- reading ----------------------------------------------------------------------------------

    def known(self, learned: int, task: int) -> bool:
        """Whether the cell was evaluated or declared null (a resumed run then skips it)."""
        return (learned, task) in self.cells

    def cell(self, learned: int, task: int) -> np.ndarray | None:
        """Scores of the cell's episodes, (episodes,) float64 in goal order; None if absent or null."""
        stored = self.cells.get((learned, task))
        return _scores(stored.episodes) if stored and stored.episodes else None

    def reason(self, learned: int, task: int) -> str:
        """Why the cell has no scores; empty if it has."""
        stored = self.cells.get((learned, task))
        if stored is None:
            return "not evaluated"
        return "" if stored.episodes else stored.reason or "no reason given"

    def mean(self, learned: int, task: int) -> float | None:
        """Mean score of the cell's episodes; None where it has none."""
        scores = self.cell(learned, task)
        return None if scores is None else float(scores.mean())

    def curve_mean(self, task: int, fraction: float) -> float | None:
        """Mean score of one point of the learning curve; None if absent."""
        episodes = self.curve.get((task, float(fraction)))
        return float(_scores(episodes).mean()) if episodes else None

    def as_array(self) -> np.ndarray:
        """(N+1, N) float64 of mean scores; NaN where a cell is absent or null."""
        return self._array(self.mean)

    def raw_returns(self, clipped: bool = False) -> np.ndarray:
        """(N+1, N) float64 of mean raw returns in environment units, or of clipped ones; NaN where an episode of the cell has
        none."""
        return self._array(lambda learned, task: self.mean_return(learned, task, clipped))

    def _array(self, mean: Callable[[int, int], float | None]) -> np.ndarray:
        values = np.full((self.n + 1, self.n), np.nan)
        for place in self.cells:
            if (value := mean(*place)) is not None:
                values[place] = value
        return values

    def mean_return(self, learned: int, task: int, clipped: bool = False) -> float | None:
        """Of a cell, in environment units; None where it has no episodes, or one without a return."""
        episodes = self.cells[learned, task].episodes if (learned, task) in self.cells else ()
        found = [episode.clipped_return if clipped else episode.raw_return for episode in episodes]
        return float(np.mean(np.asarray(found, np.float64))) if found and None not in found else None

    # -- scores.json ------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The dictionary of `scores.json`; cells are sorted, so the order of evaluation leaves no trace."""
        head = {f.name: self.__dict__[f.name] for f in fields(self) if f.name not in LISTS}
        curve = [
            {"task": task, "fraction": fraction, "episodes": [e.to_json() for e in episodes]}
            for (task, fraction), episodes in sorted(self.curve.items())
        ]
        errors = [
            {"learned": learned, "task": task, "value": value, "n": n}
            for (learned, task), (value, n) in sorted(self.action_error.items())
        ]
        cells = [_cell_to_json(*place, cell) for place, cell in sorted(self.cells.items())]
        lists = {"cells": cells, "curve": curve, "action_error": errors}
        if self.leans:
            lists["leans"] = [{"task": t, "source": s, "weight": weight} for (t, s), weight in sorted(self.leans.items())]
        if self.fidelity:
            lists["fidelity"] = [{"learned": k, "task": t, "dreams": found.to_json()}
                                 for (k, t), found in sorted(self.fidelity.items())]
        return {"format": FORMAT, **head, "tasks": list(self.tasks), **lists}

    @classmethod
    def from_json(cls, value: Any) -> ScoreMatrix:
        """The matrix in a `scores.json` dictionary.

        Raises:
            UsageError: naming the field, for anything that is not a complete, well-formed score matrix.
        """
        _check_head(value)
        matrix = cls(**{k: v for k, v in value.items() if k not in (*LISTS, "format")})
        for entry in entries_of(value, "cells"):
            learned, task = get_field(entry, "learned", int, "cells"), get_field(entry, "task", int, "cells")
            if matrix.known(learned, task):
                raise UsageError(f"cells names (learned {learned}, task {task}) twice; a cell appears once")
            if "null" in entry:
                matrix.null_cell(learned, task, get_field(entry, "null", str, "cells"))
            else:
                goals = get_field(entry, "goals", str, "cells") if "goals" in entry else "final"
                matrix.set_cell(learned, task, _read_episodes(entry, "cells"), goals)
                if "distinct" in entry:
                    distinct = get_field(entry, "distinct", int, "cells")
                    matrix.cells[learned, task] = replace(matrix.cells[learned, task], distinct=distinct)
        for entry in entries_of(value, "curve"):
            point = get_field(entry, "task", int, "curve"), float(get_field(entry, "fraction", float, "curve"))
            if point in matrix.curve:
                raise UsageError(f"curve names (task, fraction) = {point} twice; a point appears once")
            matrix.set_curve(*point, _read_episodes(entry, "curve"))
        for entry in entries_of(value, "action_error"):
            place = get_field(entry, "learned", int, "action_error"), get_field(entry, "task", int, "action_error")
            error = get_field(entry, "value", float, "action_error")
            matrix.set_action_error(*place, error, get_field(entry, "n", int, "action_error"))
        kinds = {"task": int, "source": int, "weight": float}
        leans = [[get_field(entry, name, kind, "leans") for name, kind in kinds.items()] for entry in entries_of(value, "leans")]
        matrix.set_leans({(task, source): float(weight) for task, source, weight in leans})
        for entry in entries_of(value, "fidelity"):
            place = get_field(entry, "learned", int, "fidelity"), get_field(entry, "task", int, "fidelity")
            matrix.set_fidelity(*place, Fidelity.from_json(get_field(entry, "dreams", dict, "fidelity")))
        return matrix

    @classmethod
    def load(cls, path: Path) -> ScoreMatrix:
        """The matrix in the file `scores.json` at `path`; UsageError names the file."""
        try:
            return cls.from_json(read_json(path))
        except UsageError as problem:
            known = str(problem).startswith(str(path))
            raise UsageError(str(problem) if known else f"{path}: {problem}") from None


def _scores(episodes: Sequence[Episode]) -> np.ndarray:
    return np.array([episode.score for episode in episodes], dtype=np.float64)


def _some(episodes: Iterable[Episode], place: str) -> tuple[Episode, ...]:
    kept = tuple(episodes)
    if not kept:
        raise UsageError(f"{place} has no episodes; give one or more, or the reason with null_cell")
    return kept


def _cell_to_json(learned: int, task: int, cell: Cell) -> dict[str, Any]:
    if cell.reason is not None:
        return {"learned": learned, "task": task, "null": cell.reason}
    episodes = [episode.to_json() for episode in cell.episodes]
    distinct = {} if cell.distinct is None else {"distinct": cell.distinct}
    return {"learned": learned, "task": task, "goals": cell.goals, **distinct, "episodes": episodes}


def _read_episodes(entry: dict[str, Any], where: str) -> list[Episode]:
    episodes = []
    for e in entries_of(entry, "episodes"):
        success = None if e.get("success") is None else get_field(e, "success", bool, where)
        raw, clipped = (None if e.get(name) is None else float(get_field(e, name, float, where))
                        for name in ("raw_return", "clipped_return"))
        length = get_field(e, "length", int, where)
        if length < 0:
            raise UsageError(f"{where}.length is {length}; an episode has 0 or more environment steps")
        episodes.append(Episode(float(get_field(e, "score", float, where)), success, length, raw, clipped))
    return episodes


def _check_head(value: Any) -> None:
    """Everything but the episodes: format, names, protocol, scale, footprint, data."""
    if not isinstance(value, dict):
        raise UsageError("scores is no JSON object; give the content of a scores.json")
    form = get_field(value, "format", int)
    if form != FORMAT:
        raise UsageError(f"scores.format is {form}; this version of perdure reads {FORMAT}")
    names = {f.name for f in fields(ScoreMatrix)} | {"format"}
    for name in value:
        if name not in names:
            raise UsageError(f"scores has the unknown field {ascii(name)[:60]}{nearest(name, names)}")
    for name in ("stream", "method", "policy", "profile", "config_hash"):
        get_field(value, name, str)
    for name in ("stream_version", "seed"):
        get_field(value, name, int)
    for name in ("complete", "bit_exact"):
        get_field(value, name, bool)
    tasks = get_field(value, "tasks", list)
    if not 1 <= len(tasks) <= MOST_TASKS or not all(is_kind(task, str) for task in tasks):
        raise UsageError(f"scores.tasks must be a list of 1 to {MOST_TASKS} task names")
    protocol, scale = get_field(value, "protocol", dict), get_field(value, "score", dict)
    for name, kind in PROTOCOL.items():
        get_field(protocol, name, kind, "protocol")
    for name in ("kind", "source"):
        get_field(scale, name, str, "score")
    if not get_field(scale, "low", float, "score") < get_field(scale, "high", float, "score"):
        raise UsageError("score.low is not below score.high; the scale needs low < high")
    _check_footprint(get_field(value, "footprint", dict) if "footprint" in value else {})
    for entry in entries_of(value, "data"):
        means = {name: float for name in ("mean_return", "mean_score") if name in entry}
        for name, kind in ({"task": str, "digest": str, "quality": str} | means).items():
            get_field(entry, name, kind, "data")


def _check_footprint(footprint: dict[str, Any]) -> None:
    for name in COUNTS:
        if name in footprint and get_field(footprint, name, int, "footprint") < 0:
            raise UsageError(f"footprint.{name} is {footprint[name]}; it must be 0 or more")
    for name in ("parameters_per_task", "modules"):
        numbers = footprint.get(name, [])
        if type(numbers) is not list or not all(is_kind(n, int) and n >= 0 for n in numbers):
            raise UsageError(f"footprint.{name} must list whole numbers, 0 or more")
