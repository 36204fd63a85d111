"""What checkpoints cost in a run of the real driver, and how long a resume takes until its first update."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perdure.bench.measure import Bench, Clock, Figure, Spread, Target, alternate
from perdure.bench.workload import Learner, Scale, policy_maker, recipe, stream
from perdure.core.matrix import Episode, ScoreMatrix
from perdure.core.method import Method, Phase
from perdure.core.run import SAVE_COST_SHARE, Run
from perdure.core.task import Stream
from perdure.data.access import Access, Views
from perdure.methods.finetune import Finetune
from perdure.progress import Quiet

BYTES_PER_WEIGHT = 12
"""In a checkpoint: the weight and two moments of AdamW."""


class Enough(Exception):
    """The run has done what was to be timed."""


class NoEvaluation:
    """An evaluator with an empty schedule: only learning and saving are timed."""

    def cells(self, learned: int) -> list[tuple[int, int]]:
        return []

    def cell(self, method: Method, learned: int, task: int, episodes: int) -> list[Episode]:
        return []

    def action_error(self, method: Method, task: int) -> tuple[float, int] | None:
        return None

    def fidelity(self, method: Method, learned: int, task: int) -> None:
        return None

    def curve_points(self, steps: int) -> list[tuple[int, float]]:
        return []

    def curve(self, method: Method, task: int, step: int) -> list[Episode]:
        return []


@dataclass
class TimedRun(Run):
    """The driver, with a clock around its saves and an end after some updates."""

    stop_at: int | None = None
    """Save at this many updates and stop; None runs to the end."""
    save_at_stop: bool = False
    saves: list[tuple[float, float]] = field(default_factory=list)
    """(CPU, wall) seconds of each save while learning."""
    learning: tuple[float, float] = (0.0, 0.0)
    """(CPU, wall) seconds of the phase, saves included."""

    def _save(self) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        super()._save()
        if self.cursor.began:
            self.saves.append((time.process_time() - cpu, time.perf_counter() - wall))

    def _phase(self, index: int, phase: Phase, points: list[tuple[int, float]]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        super()._phase(index, phase, points)
        self.learning = (time.process_time() - cpu, time.perf_counter() - wall)

    def _attend(self) -> None:
        super()._attend()
        if self.stop_at is not None and self.cursor.step >= self.stop_at:
            if self.save_at_stop:
                self._save()
            raise Enough


def width_of(megabytes: float) -> int:
    """Width of the bc MLP whose checkpoint has about this size: 2 w^2 + 46 w weights."""
    weights = megabytes * 1e6 / BYTES_PER_WEIGHT
    return max(4, round((-46 + (46**2 + 8 * weights) ** 0.5) / 4))


def run_of(scale: Scale, tasks: Stream, folder: Path, steps: int, device: str, **limits: Any) -> TimedRun:
    """A run of `finetune` on the first of the tasks, from scratch or from what the folder holds."""
    views = Views(tasks, device)
    config = Finetune.Config(**recipe("bc", "cpu", scale) | {"steps": steps})
    method = Finetune(config, policy_maker("bc", "cpu", scale), seed=0)
    matrix = ScoreMatrix(
        tasks.name, 1, tuple(t.name for t in tasks.tasks), "finetune", "bc", "cpu", 0, "00000000",
        protocol={"heads": "per task", "normaliser": "per task", "task_id_at_test": True, "past_data": False},
        score={"kind": "success", "low": 0.0, "high": 1.0, "source": "none"},
    )  # fmt: skip
    return TimedRun(
        folder=folder, method=method, stream=tasks, access=lambda index: Access(views, index, frozenset()),
        evaluator=NoEvaluation(), matrix=matrix, progress=Quiet(), agent_facts={}, resume_command="", **limits,
    )  # fmt: skip


def saving(bench: Bench) -> list[Figure]:
    """Share of the training time spent in saves at the default cadence, for checkpoints of several sizes."""
    figures = []
    tasks = stream(bench.scale, tasks=1)
    two = stream(bench.scale, tasks=2)
    for megabytes in bench.scale.save_megabytes:
        scale = replace(bench.scale, policy={"bc": {"width": width_of(megabytes), "layers": 3}})
        step = Learner("finetune", "bc", "cpu", scale, Views(two, bench.device)).step
        pace = alternate({"step": step}, 3, bench.scale.steps_per_round, bench.device).milliseconds("step", "wall").median / 1e3
        with tempfile.TemporaryDirectory(dir=bench.folder, prefix="bench-") as name:
            run = run_of(scale, tasks, Path(name), max(20, round(bench.scale.save_seconds / pace)), bench.device)
            run.execute()
            size = sum(path.stat().st_size for path in (Path(name) / "agent" / "1").iterdir()) * BYTES_PER_WEIGHT / 4 / 1e6
        figures.append(_overhead(run, size))
    return [*figures, resume(bench)]


def _overhead(run: TimedRun, megabytes: float) -> Figure:
    values: dict[Clock, Spread] = {}
    clocks: tuple[Clock, ...] = ("cpu", "wall")
    for place, clock in enumerate(clocks):
        shares = [100 * sum(save[place] for save in run.saves) / max(run.learning[place], 1e-9)]
        values[clock] = Spread.of(shares)
    walls = [1e3 * wall for _, wall in run.saves] or [0.0]
    return Figure(
        f"checkpoints of {megabytes:.1f} MB: share of the training time", "%", values, Target(1, at_least=False), details={
            "saves": len(run.saves), "save_ms": Spread.of(walls).median, "save_ms_highest": max(walls),
            "training_seconds": run.learning[1], "next_save_after": f"{SAVE_COST_SHARE} times the cost of the last",
        },
    )  # fmt: skip


def resume(bench: Bench) -> Figure:
    """From the folder to the first update: build, verify, load, put the data on the device, one step."""
    tasks, largest = stream(bench.scale, tasks=1), max(bench.scale.save_megabytes)
    scale = replace(bench.scale, policy={"bc": {"width": width_of(largest), "layers": 3}})
    with tempfile.TemporaryDirectory(dir=bench.folder, prefix="bench-") as name:
        until(Enough, run_of(scale, tasks, Path(name), 100, bench.device, stop_at=3, save_at_stop=True).execute)
        timed = alternate(
            {"resume": lambda: until(Enough, run_of(scale, tasks, Path(name), 100, bench.device, stop_at=4).execute)},
            bench.rounds, 0.0, bench.device,
        )  # fmt: skip
    return Figure(f"resume of {largest:g} MB until the first update", "s", timed.map("resume", lambda seconds: seconds),
                  Target(1, at_least=False))


def until(problem: type[Exception], call: Callable[[], object]) -> None:
    """Call and expect the exception."""
    try:
        call()
    except problem:
        return
    raise AssertionError(f"expected {problem.__name__}")
