"""What a run is given to show its progress and to score a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from perdure.core.fidelity import Fidelity
from perdure.core.matrix import Episode
from perdure.core.method import Method


class Progress(Protocol):
    """Shows what is being done, how far, and how long still."""

    def say(self, text: str) -> None: ...

    def step(self, task: int, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None: ...

    def evaluating(self, learned: int, task: int) -> None: ...

    def evaluated(self, learned: int, task: int, episodes: list[Episode]) -> None: ...


class Evaluator(Protocol):
    """Scores a method on a task without changing it; which cells and curve points belong to a schedule."""

    def cells(self, learned: int) -> list[tuple[int, int]]:
        """(task, episodes) of every cell of the matrix row `learned`."""
        ...

    def cell(self, method: Method, learned: int, task: int, episodes: int) -> list[Episode]: ...

    def action_error(self, method: Method, task: int) -> tuple[float, int] | None: ...

    def fidelity(self, method: Method, learned: int, task: int) -> Fidelity | None: ...

    def curve_points(self, steps: int) -> list[tuple[int, float]]: ...

    def curve(self, method: Method, task: int, step: int) -> list[Episode]: ...
