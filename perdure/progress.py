"""Progress on a terminal (one live line) or in a log file (a line every half minute), with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from perdure.core.matrix import Episode
from perdure.core.words import duration

QUIET_SECONDS = 30.0
"""Between two lines of progress where the output is not a terminal."""


class Quiet:
    """Says nothing; for tests and for use as a library."""

    def say(self, text: str) -> None:
        pass

    def step(self, task: int, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        pass

    def evaluating(self, learned: int, task: int) -> None:
        pass

    def evaluated(self, learned: int, task: int, episodes: list[Episode]) -> None:
        pass


class Terminal:
    """Task, phase, step, loss and time left of one run."""

    def __init__(self, label: str, tasks: list[str], steps_per_task: int, joint: bool = False, console: Console | None = None):
        """`joint`: all tasks are learned in one go, which counts as the last task."""
        self.console = console or Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self.label, self.tasks, self.joint = label, tasks, joint
        self.total = max(1, steps_per_task * len(tasks))
        self.live: Live | None = None
        self.last_line = time.monotonic()
        self.seen: tuple[float, int] | None = None
        self.step_seconds = 0.0
        """Of all steps so far, on average; what is left of the first task is judged by it."""
        self.timed = 0
        self.paces: dict[str, float] = {}
        """Phase -> seconds per step."""
        self.phases: dict[str, int] = {}
        """Phase of this task -> its steps."""
        self.earlier: dict[str, int] = {}
        """The same of the task before, where this process saw all of it."""
        self.place: tuple[int, str, int] | None = None
        """Task, phase and steps of the phase that runs."""
        self.before = 0
        """Steps of the run before this phase; one that resumes inside a later phase begins to count there."""

    def __enter__(self) -> Terminal:
        if self.console.is_terminal:
            self.live = Live(Text(self.label), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def step(self, task: int, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        done = self._before(task, phase, steps) + step
        if self.seen is not None and done > self.seen[1]:
            self._pace(phase, now - self.seen[0], done - self.seen[1])
        self.seen = (now, done)
        left = self._left(task, phase, steps - step, done)
        losses = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._show(f"task {task + 1}/{len(self.tasks)} {self.tasks[task]} | {phase} {step}/{steps} | {losses}"
                   + (f" | training {duration(left)} left" if self.step_seconds else ""))

    def _before(self, task: int, phase: str, steps: int) -> int:
        """Steps of the run before this phase."""
        if self.place is None or self.place[0] != task:
            if sum(self.phases.values()) >= self.total // len(self.tasks):
                self.earlier = self.phases
            self.phases = {}
            self.before = 0 if self.joint else task * self.total // len(self.tasks)
        elif self.place[1] != phase:
            self.before += self.place[2]
        self.place = (task, phase, steps)
        self.phases[phase] = steps
        return self.before

    def _pace(self, phase: str, seconds: float, steps: int) -> None:
        """Take note of how long some steps took."""
        self.step_seconds = (self.step_seconds * self.timed + seconds) / (self.timed + steps)
        self.timed += steps
        pace = seconds / steps
        self.paces[phase] = 0.9 * self.paces.get(phase, pace) + 0.1 * pace

    def _left(self, task: int, phase: str, steps: int, done: int) -> float:
        """Seconds of training after this step: phases of later tasks are taken to be those of the task before."""
        if not self.earlier:
            return self.step_seconds * max(0, self.total - done)
        costs = {name: count * self.paces.get(name, self.step_seconds) for name, count in self.earlier.items()}
        rest = sum(cost for name, cost in costs.items() if name not in self.phases)
        return steps * self.paces.get(phase, self.step_seconds) + rest + (len(self.tasks) - 1 - task) * sum(costs.values())

    def evaluating(self, learned: int, task: int) -> None:
        self.seen = None
        self._show(f"evaluating {self.tasks[task]} after {learned} of {len(self.tasks)} tasks")

    def evaluated(self, learned: int, task: int, episodes: list[Episode]) -> None:
        self.seen = None
        if episodes and learned and task == learned - 1:
            mean = sum(e.score for e in episodes) / len(episodes)
            self.say(f"{self.label} | learned {self.tasks[task]}: score {mean:.2f} over {len(episodes)} episodes")

    def _show(self, text: str) -> None:
        if self.live is not None:
            self.live.update(Text(f"{self.label} | {text}"))
        elif time.monotonic() - self.last_line >= QUIET_SECONDS:
            self.last_line = time.monotonic()
            self.console.print(f"{self.label} | {text}", soft_wrap=True)
