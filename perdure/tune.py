"""Choosing one hyperparameter of a method on tasks that are not in the benchmark, with the evidence of the choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure import __version__
from perdure.benchmarks import STREAMS
from perdure.benchmarks.tuned import settings_file
from perdure.core.config import convert, field_types
from perdure.core.errors import UsageError, nearest
from perdure.core.matrix import ScoreMatrix
from perdure.core.metrics import measure
from perdure.methods import METHODS
from perdure.run_config import find
from perdure.streams import benchmark, outline, stream_options
from perdure.sweep.plan import Axis, Planned, Space, plan


@dataclass(frozen=True)
class Candidate:
    """One value and how well the method did with it."""

    value: Any
    average_performance: float
    forgetting: float
    config_hash: str


@dataclass(frozen=True)
class Question:
    """Which field of which method is tuned for which stream."""

    method: str
    stream: str
    policy: str = "bc"
    profile: str = "cpu"
    seed: int = 0
    name: str = ""
    """Of the method's option; empty: the one that the method names."""
    values: Sequence[Any] = ()
    """Empty: those that the method names."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other options than the profile's, by group."""

    def tried(self) -> str:
        """The stream that the values are tried on.

        Raises:
            UsageError: the benchmark names none, or one that shares a task with it.
        """
        table: dict[str, str] = benchmark(self.stream).__dict__.get("TUNING", {})
        if self.stream not in table:
            known = [name for name in STREAMS if name in benchmark(name).__dict__.get("TUNING", {})]
            raise UsageError(f"{self.stream} has no stream to tune on (its benchmark names none in TUNING); tune for one of"
                             f" {', '.join(known)}")
        other = table[self.stream]
        mine, theirs = ({fact for task in outline(name, stream_options(name, {})) for fact in (task.name, task.folder) if fact}
                        for name in (self.stream, other))  # fmt: skip
        if shared := sorted(map(str, mine & theirs)):
            raise UsageError(f"{self.stream} and {other}, on which it would be tuned, share {shared[0]}; a value may only be"
                             " chosen on tasks that are not in the benchmark")
        return other

    def planned(self, root: Path) -> list[Planned]:
        """One run per value on the stream to tune on.

        Raises:
            UsageError: the method names no field, or a name or value cannot be used.
        """
        name, values = self.settled()
        fixed = {group: dict(options) for group, options in self.options.items() if group != "stream"}
        axis = Axis("method", name, values)
        return plan(Space([self.method], [self.tried()], [self.seed], [self.policy], [axis], fixed, self.profile), root)

    def settled(self) -> tuple[str, tuple[Any, ...]]:
        """The field and the values, the smallest first.

        Raises:
            UsageError: there is none, or a value of the wrong type.
        """
        cls = find(self.method, METHODS, "method")
        name, kinds = self.name or cls.tuned, field_types(cls.Config)
        if not name:
            raise UsageError(f"{self.method} names no field to tune; give --field and --values, or tune a method that does: "
                             + ", ".join(key for key in METHODS if find(key, METHODS, "method").tuned))
        if name not in kinds:
            raise UsageError(f"--field is '{name}', which {self.method} does not have{nearest(name, kinds)}; known:"
                             f" {', '.join(kinds)}")
        given = self.values or (cls.grid if name == cls.tuned else ())
        values = tuple(sorted({convert(value, kinds[name], f"method.{name}") for value in given}))
        if len(values) < 2 or isinstance(values[0], (bool, str)):
            raise UsageError(f"--values is {', '.join(map(str, given)) or 'empty'}; give two different numbers or more with"
                             f" commas between them, for {self.method}'s {name}")
        return name, values

    def file(self) -> Path:
        """Where the choice belongs: beside the stream that it was made on."""
        return settings_file(STREAMS[self.tried()].rpartition(".")[2])


@dataclass(frozen=True)
class Choice:
    """The outcome."""

    question: Question
    matrix: ScoreMatrix
    """Of any candidate, for what all have in common."""
    field: str
    candidates: tuple[Candidate, ...]
    """The smallest value first."""

    @property
    def best(self) -> Candidate:
        """The highest average performance; where several have it, the least forgetting, then the smallest value."""
        return max(self.candidates, key=lambda c: (c.average_performance, -c.forgetting, -c.value))

    @property
    def edge(self) -> str:
        """`lowest` or `highest` if the best value has no neighbour on one side, which may hold a better one."""
        ends = {self.candidates[0].value: "lowest", self.candidates[-1].value: "highest"}
        return ends.get(self.best.value, "")

    def to_json(self) -> dict[str, Any]:
        """As `perdure.benchmarks.tuned.record` keeps it."""
        question, matrix = self.question, self.matrix
        return {
            "method": question.method, "policy": question.policy, "profile": question.profile, "field": self.field,
            "value": self.best.value, "stream": matrix.stream, "stream_version": matrix.stream_version,
            "tasks": list(matrix.tasks), "seed": question.seed,
            "options": {group: dict(values) for group, values in question.options.items() if values},
            "candidates": [_rounded(candidate) for candidate in self.candidates], "perdure": __version__,
        }  # fmt: skip


def _rounded(candidate: Candidate) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) and name != "value" else value
            for name, value in candidate.__dict__.items()}


def choose(question: Question, folders: Sequence[Path], value_of: Callable[[Path], Any]) -> Choice:
    """The choice that follows from finished run folders, one per value.

    Raises:
        UsageError: a score that the choice needs is not defined.
    """
    found: list[Candidate] = []
    matrices = [ScoreMatrix.load(folder / "scores.json") for folder in folders]
    for folder, matrix in zip(folders, matrices, strict=True):
        values = {name: metric.value for name, metric in measure(matrix).items()}
        performance, forgetting = values["average_performance"], values["forgetting"]
        if performance is None or forgetting is None:
            raise UsageError(f"{folder} has no average performance or forgetting; tune on a stream whose tasks are all scored"
                             " after every task")
        found.append(Candidate(value_of(folder), performance, forgetting, matrix.config_hash))
    return Choice(question, matrices[0], question.settled()[0], tuple(sorted(found, key=lambda c: c.value)))
