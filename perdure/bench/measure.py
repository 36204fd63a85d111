"""Timing two or more sides of a comparison alternately in one process, and what comes out of it.

On a shared machine absolute times drift; ratios of rounds that were taken side by side hardly do. Therefore every
claim is a ratio within a round, and its median stands beside the lowest and the highest round.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.bench.workload import FULL, Scale
from perdure.core.errors import GuardError

Clock = Literal["cpu", "wall"]

STEP_ROUNDS = 15
"""Rounds of step overheads, at least: a few percent are at stake."""


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        listed = sorted(values)
        return cls(statistics.median(listed), listed[0], listed[-1])

    def to_json(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


@dataclass
class Rounds:
    """Seconds per call of every side, round by round, on both clocks."""

    seconds: dict[Clock, dict[str, list[float]]]

    def milliseconds(self, side: str, clock: Clock) -> Spread:
        return Spread.of(1e3 * s for s in self.seconds[clock][side])

    def ratio(
        self, over: Mapping[str, float] | str, under: Mapping[str, float] | str, factor: float = 1.0
    ) -> dict[Clock, Spread]:
        """factor * over / under within each round; both may weigh several sides."""
        spreads: dict[Clock, Spread] = {}
        for clock, sides in self.seconds.items():
            above, below = _weighed(sides, over), _weighed(sides, under)
            spreads[clock] = Spread.of(factor * a / b for a, b in zip(above, below, strict=True))
        return spreads

    def map(self, side: str, change: Callable[[float], float]) -> dict[Clock, Spread]:
        """A figure computed from the seconds per call of one side, per clock."""
        return {clock: Spread.of(change(s) for s in sides[side]) for clock, sides in self.seconds.items()}


def _weighed(sides: Mapping[str, list[float]], weights: Mapping[str, float] | str) -> list[float]:
    """Seconds per round of one side, or of several by their weights."""
    if isinstance(weights, str):
        return sides[weights]
    return [sum(w * s for w, s in zip(weights.values(), seconds, strict=True))
            for seconds in zip(*(sides[name] for name in weights), strict=True)]


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, least_seconds: float, device: str = "cpu") -> Rounds:
    """Time all sides in turn, `rounds` times, in alternating order.

    Each side is called as often per round as takes about `least_seconds`. CPU time is that of this process, which
    runs one thread.
    """
    calls = {name: _calls(side, least_seconds, device) for name, side in sides.items()}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    wall: dict[str, list[float]] = {name: [] for name in sides}
    for place in range(rounds):
        names = list(sides) if place % 2 == 0 else list(sides)[::-1]
        for name in names:
            seconds = _time(sides[name], calls[name], device)
            cpu[name].append(seconds[0])
            wall[name].append(seconds[1])
    return Rounds({"cpu": cpu, "wall": wall})


def _calls(side: Callable[[], object], least_seconds: float, device: str) -> int:
    side()  # the first call allocates and compiles
    once = _time(side, 1, device)[0]
    return max(1, min(10_000, round(least_seconds / max(once, 1e-6))))


def _time(side: Callable[[], object], calls: int, device: str) -> tuple[float, float]:
    """(CPU, wall) seconds per call."""
    _wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        side()
    _wait(device)
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Target:
    """What section of the goals a figure must reach."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Equality:
    """That two variants compute the same, checked before they are timed."""

    what: str
    difference: float
    tolerance: float


def check_equal(what: str, mine: Iterable[Tensor], reference: Iterable[Tensor], tolerance: float) -> Equality:
    """The largest difference, relative to the reference's largest value.

    Raises:
        GuardError: it exceeds the tolerance, or shapes differ; a faster variant with another result is no variant.
    """
    worst = 0.0
    for a, b in zip(mine, reference, strict=True):
        if a.shape != b.shape:
            raise GuardError(f"{what}: the shapes {list(a.shape)} and {list(b.shape)} differ, so nothing was timed;"
                             " correct the library or its reference variant")
        gap = (a.detach().double() - b.detach().double()).abs().max() / b.detach().double().abs().max().clamp_min(1e-12)
        worst = max(worst, float(gap) if bool(torch.isfinite(gap)) else float("inf"))
    if not worst <= tolerance:
        raise GuardError(f"{what}: library and reference variant differ by {worst:.3g} where {tolerance:g} is allowed, so nothing"
                         " was timed; correct the library or its reference variant")
    return Equality(what, worst, tolerance)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    values: Mapping[Clock, Spread]
    target: Target | None = None
    equality: Equality | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Milliseconds per side, operations, sizes: what explains the figure."""

    def verdict(self, clock: Clock, trusted: bool) -> str:
        """`met` or `missed`; `reported` without a target; `none` where the load forbids one."""
        if self.target is None:
            return "reported"
        if not trusted:
            return "none"
        return "met" if self.target.met(self.values[clock].median) else "missed"

    def to_json(self, clock: Clock, trusted: bool) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            **{name: spread.to_json() for name, spread in self.values.items()},
            "target": None if self.target is None else str(self.target),
            "verdict": self.verdict(clock, trusted),
            "equality": None if self.equality is None else dict(self.equality.__dict__),
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class Bench:
    """How to measure; given to every measure."""

    rounds: int = 7
    device: str = "cpu"
    scale: Scale = FULL
    ceiling: float = 1.0
    """fp32 GFLOP/s of the machine on one thread."""
    clock: Clock = "wall"
    folder: Path = Path(tempfile.gettempdir())
    """Where runs that are timed write; its disk is part of what is measured."""

    def alternate(self, sides: Mapping[str, Callable[[], object]], rounds: int | None = None) -> Rounds:
        return alternate(sides, rounds or self.rounds, self.scale.steps_per_round, self.device)

    def compare(self, name: str, ours: Callable[[], object], reference: Callable[[], object], *, equality: Equality,
                target: Target | None = None, **details: Any) -> Figure:
        """How many times as fast `ours` is as `reference`."""
        timed = self.alternate({"ours": ours, "reference": reference})
        sizes = {f"{side}_ms": timed.milliseconds(side, self.clock).median for side in ("ours", "reference")}
        counts = {"ours_operations": operations(ours), "reference_operations": operations(reference)}
        return Figure(name, "x", timed.ratio("reference", "ours"), target, equality, sizes | counts | details)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        self.count += not views
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """Tensor operations that one call dispatches, views not counted: on a GPU about the number of kernels."""
    with _Counter() as counter:
        call()
    return counter.count
