"""Score matrix of one run: every evaluation episode, cell by cell, read from and written to `scores.json`.

Cell (k, j) holds the episodes of task j (column, 0..N-1) evaluated after k tasks were learned (row, 0..N;
row 0 is before any learning). A cell that was not or could not be evaluated is absent or null with a
reason, and never 0: the metrics of `perdure.core.metrics` are then "not defined". Raw episodes are kept, so
that every metric and interval can be computed again. No wall times: two runs with the same seed write
identical bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.core.fidelity import Fidelity
from perdure.core.files import read_json

FORMAT = 1
"""Version of `scores.json` that this library writes; newer ones are refused."""

PROTOCOL = {"heads": str, "normaliser": str, "task_id_at_test": bool, "past_data": bool}
"""Fields of the protocol: what a method is told, and thus which runs may be compared."""

COUNTS = ("parameters", "used_parameters", "copies", "memory_bytes", "agent_bytes", "environment_steps")
"""Fields of the footprint that are whole numbers; `parameters_per_task` is a list of them, and so is `modules`: the tasks that
got a module of their own, of methods that choose."""

LISTS = ("cells", "curve", "action_error", "leans", "fidelity")
"""Fields of `scores.json` that are lists of places with what was measured there."""

MOST_TASKS = 1000
"""Most tasks of a stream; more is a damaged or hostile file."""


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

    def mean(self, learned: int, task: int, first: int | None = None) -> float | None:
        """Mean score of the cell's episodes, or of its `first` ones (the goals it shares with others)."""
        scores = self.cell(learned, task)
        return None if scores is None else float(scores[:first].mean())

    def curve_mean(self, task: int, fraction: float) -> float | None:
        """Mean score of one point of the learning curve; None if absent."""
        episodes = self.curve.get((task, float(fraction)))
        return float(_scores(episodes).mean()) if episodes else None

    def as_array(self) -> np.ndarray:
        """(N+1, N) float64 of mean scores; NaN where a cell is absent or null."""
        values = np.full((self.n + 1, self.n), np.nan)
        for learned, task in self.cells:
            mean = self.mean(learned, task)
            values[learned, task] = np.nan if mean is None else mean
        return values

    def raw_returns(self, clipped: bool = False) -> np.ndarray:
        """(N+1, N) float64 of mean raw returns in environment units, or of clipped ones; NaN where an episode of the cell has
        none."""
        values = np.full((self.n + 1, self.n), np.nan)
        for place, cell in self.cells.items():
            found = [episode.clipped_return if clipped else episode.raw_return for episode in cell.episodes]
            if found and None not in found:
                values[place] = np.mean(np.asarray(found, np.float64))
        return values

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
        for entry in _entries(value, "cells"):
            learned, task = _get(entry, "learned", int, "cells"), _get(entry, "task", int, "cells")
            if matrix.known(learned, task):
                raise UsageError(f"cells names (learned {learned}, task {task}) twice; a cell appears once")
            if "null" in entry:
                matrix.null_cell(learned, task, _get(entry, "null", str, "cells"))
            else:
                goals = _get(entry, "goals", str, "cells") if "goals" in entry else "final"
                matrix.set_cell(learned, task, _read_episodes(entry, "cells"), goals)
                if "distinct" in entry:
                    distinct = _get(entry, "distinct", int, "cells")
                    matrix.cells[learned, task] = replace(matrix.cells[learned, task], distinct=distinct)
        for entry in _entries(value, "curve"):
            point = _get(entry, "task", int, "curve"), float(_get(entry, "fraction", float, "curve"))
            if point in matrix.curve:
                raise UsageError(f"curve names (task, fraction) = {point} twice; a point appears once")
            matrix.set_curve(*point, _read_episodes(entry, "curve"))
        for entry in _entries(value, "action_error"):
            place = _get(entry, "learned", int, "action_error"), _get(entry, "task", int, "action_error")
            error = _get(entry, "value", float, "action_error")
            matrix.set_action_error(*place, error, _get(entry, "n", int, "action_error"))
        matrix.set_leans({
            (_get(entry, "task", int, "leans"), _get(entry, "source", int, "leans")): float(_get(entry, "weight", float, "leans"))
            for entry in _entries(value, "leans")
        })  # fmt: skip
        for entry in _entries(value, "fidelity"):
            place = _get(entry, "learned", int, "fidelity"), _get(entry, "task", int, "fidelity")
            matrix.set_fidelity(*place, Fidelity.from_json(_get(entry, "dreams", dict, "fidelity")))
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


WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _get(entry: dict[str, Any], name: str, kind: type, where: str = "scores") -> Any:
    """Field `name` of `entry`, which must be exactly of `kind` (a whole number also counts as a number)."""
    if name not in entry:
        raise UsageError(f"{where} lacks the field '{name}'; it must be {WORDS[kind]}")
    value = entry[name]
    if not _is(value, kind):
        raise UsageError(f"{where}.{name} is {ascii(value)[:60]}; it must be {WORDS[kind]}")
    return value


def _is(value: Any, kind: type) -> bool:
    """Whether `value` is of `kind`, of a size that arithmetic bears, and text that can be written again."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        return False
    if kind is float:
        return bool(-1e300 < value < 1e300)
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    # Half of a surrogate pair is valid JSON but cannot be encoded as UTF-8.
    return kind is not str or not any("\ud800" <= letter <= "\udfff" for letter in str(value))


def _entries(value: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = _get(value, name, list) if name in value else []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(f"{name} holds {ascii(entry)[:60]}; every entry must be an object")
    return entries


def _read_episodes(entry: dict[str, Any], where: str) -> list[Episode]:
    episodes = []
    for e in _entries(entry, "episodes"):
        success = None if e.get("success") is None else _get(e, "success", bool, where)
        raw, clipped = (None if e.get(name) is None else float(_get(e, name, float, where))
                        for name in ("raw_return", "clipped_return"))
        length = _get(e, "length", int, where)
        if length < 0:
            raise UsageError(f"{where}.length is {length}; an episode has 0 or more environment steps")
        episodes.append(Episode(float(_get(e, "score", float, where)), success, length, raw, clipped))
    return episodes


def _check_head(value: Any) -> None:
    """Everything but the episodes: format, names, protocol, scale, footprint, data."""
    if not isinstance(value, dict):
        raise UsageError("scores is no JSON object; give the content of a scores.json")
    form = _get(value, "format", int)
    if form != FORMAT:
        raise UsageError(f"scores.format is {form}; this version of perdure reads {FORMAT}")
    names = {f.name for f in fields(ScoreMatrix)} | {"format"}
    for name in value:
        if name not in names:
            raise UsageError(f"scores has the unknown field {ascii(name)[:60]}{nearest(name, names)}")
    for name in ("stream", "method", "policy", "profile", "config_hash"):
        _get(value, name, str)
    for name in ("stream_version", "seed"):
        _get(value, name, int)
    for name in ("complete", "bit_exact"):
        _get(value, name, bool)
    tasks = _get(value, "tasks", list)
    if not 1 <= len(tasks) <= MOST_TASKS or not all(_is(task, str) for task in tasks):
        raise UsageError(f"scores.tasks must be a list of 1 to {MOST_TASKS} task names")
    protocol, scale = _get(value, "protocol", dict), _get(value, "score", dict)
    for name, kind in PROTOCOL.items():
        _get(protocol, name, kind, "protocol")
    for name in ("kind", "source"):
        _get(scale, name, str, "score")
    if not _get(scale, "low", float, "score") < _get(scale, "high", float, "score"):
        raise UsageError("score.low is not below score.high; the scale needs low < high")
    _check_footprint(_get(value, "footprint", dict) if "footprint" in value else {})
    for entry in _entries(value, "data"):
        means = {name: float for name in ("mean_return", "mean_score") if name in entry}
        for name, kind in ({"task": str, "digest": str, "quality": str} | means).items():
            _get(entry, name, kind, "data")


def _check_footprint(footprint: dict[str, Any]) -> None:
    for name in COUNTS:
        if name in footprint and _get(footprint, name, int, "footprint") < 0:
            raise UsageError(f"footprint.{name} is {footprint[name]}; it must be 0 or more")
    for name in ("parameters_per_task", "modules"):
        numbers = footprint.get(name, [])
        if type(numbers) is not list or not all(_is(n, int) and n >= 0 for n in numbers):
            raise UsageError(f"footprint.{name} must list whole numbers, 0 or more")
