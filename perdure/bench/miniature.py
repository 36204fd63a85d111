"""A complete miniature stream end to end, by phase: what a user waits for."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perdure.bench.measure import Bench, Clock, Figure, Spread
from perdure.core.matrix import Episode
from perdure.experiment import Experiment
from perdure.progress import Quiet
from perdure.run_config import resolve

METHODS = (("finetune", "bc"), ("packnet", "dt"))


class Stopwatch(Quiet):
    """Adds up the wall time between the events of a run, by what the run was doing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now

    def step(self, task: int, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        self._lap(f"task {task + 1} {phase}")

    def evaluating(self, learned: int, task: int) -> None:
        self._lap("between")

    def evaluated(self, learned: int, task: int, episodes: list[Episode]) -> None:
        self._lap(f"evaluation after {learned} tasks")


def miniature(bench: Bench) -> list[Figure]:
    """`toy`, three tasks with all evaluations, once per method. Environments step in worker processes: see the wall clock."""
    figures = []
    options: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    if bench.scale.stream_steps is not None:
        options, evaluation = {"steps": bench.scale.stream_steps}, {"episodes": 2, "shared": 1, "curve": 0, "slots": 2}
    for method, policy in METHODS:
        config = resolve(method, "toy", policy=policy, method_options=options, evaluation=evaluation)
        with tempfile.TemporaryDirectory(dir=bench.folder, prefix="bench-") as folder:
            cpu, wall, watch = time.process_time(), time.perf_counter(), Stopwatch()
            Experiment(config, Path(folder) / "run", watch, device=bench.device).execute()
            spent: dict[Clock, float] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        figures.append(Figure(
            f"toy stream end to end, {method} {policy}, {config.method_config['steps']} updates per task", "s",
            {clock: Spread.of([seconds]) for clock, seconds in spent.items()},
            details={"seconds_per_phase": {name: round(seconds, 3) for name, seconds in watch.seconds.items()}},
        ))  # fmt: skip
    return figures
