"""Run: the one loop over tasks, phases and steps, which saves at any step and resumes by itself.

What makes a resumed run bit-identical: all randomness is keyed by place, `phases` is pure, `begin` and `end` are
deterministic, `end` and the cursor's advance are one transaction, and evaluation never changes the learner.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from perdure.core.checkpoint import Generations, write_folder
from perdure.core.config import first_difference
from perdure.core.errors import Interrupted, UsageError
from perdure.core.files import write_json, writing
from perdure.core.log import MetricsLog
from perdure.core.matrix import ScoreMatrix
from perdure.core.method import Method, Phase, Step
from perdure.core.rng import seed_everything
from perdure.core.roles import Evaluator, Progress
from perdure.core.state import capture, restore
from perdure.core.task import Stream

SAVE_COST_SHARE = 100
"""A save is due after this many times the cost of the last one, which keeps the overhead at about 1 %."""

FIRST_SAVE = 2.0
"""Seconds until the first save of a process."""

CLOCK = ("train_seconds", "train_cpu_seconds", "evaluate_seconds")
"""Timed over all starts of a run: wall time, and the CPU time of training, which other work on the machine hardly moves."""


@dataclass
class Cursor:
    """Where a run stands; with the tensors it is all that a resume needs."""

    task: int = 0
    phase: int = 0
    """Position in the task's list of phases; its length once the task is learned and not yet evaluated."""
    step: int = 0
    began: bool = False
    """Whether the phase's `begin` ran."""
    runs: bool | None = None
    """The stored answer of the phase's `when`."""
    steps: int | None = None
    """The stored number of steps of the phase."""
    trained: int = 0
    """Policy-training steps of this task so far: the axis of its learning curve."""
    position: int = 0
    """Steps of the whole run so far."""
    parameters: list[int] = field(default_factory=list)
    """Parameters of the agent after each finished task."""
    environment_steps: int = 0
    """That the method took itself, in all tasks so far."""


class _Stop(BaseException):
    """Raised by a signal inside an evaluation, which may be thrown away. No fault, so that no environment's `except
    Exception` takes it for one."""


@dataclass
class Run:
    """One method on one stream in one folder. `execute` resumes if the folder holds a checkpoint."""

    folder: Path
    method: Method
    stream: Stream
    access: Callable[[int], Any]
    """Task index -> what the method may see while learning it."""
    evaluator: Evaluator
    matrix: ScoreMatrix
    progress: Progress
    agent_facts: dict[str, Any]
    """Written into each agent's meta.json: how to build the method again."""
    resume_command: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    log_every: int = 50
    sinks: Callable[[Path, int], list[Any]] = lambda folder, position: []
    """(folder, position) -> log sinks, opened after the position is known."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CLOCK, 0.0))
    by_phase: dict[str, float] = field(default_factory=dict)
    """Phase -> CPU seconds of training in it, all tasks together."""

    def execute(self) -> ScoreMatrix:
        """Learn and evaluate what is missing.

        Raises:
            Interrupted: a signal came; a checkpoint was written and the message says how to resume.
            GuardError: NaN or infinity in a loss, gradient or tensor.
        """
        self.generations = Generations(self.folder / "resume")
        self.cursor = Cursor()
        self.signal: int | None = None
        self.may_abort = False
        self.next_save = time.monotonic() + FIRST_SAVE
        offset = self._resume()
        self.log = MetricsLog(self.folder / "metrics.jsonl", offset)
        self.log.sinks = self.sinks(self.folder, self.cursor.position)
        with self._signals():
            try:
                self._all_tasks()
            except _Stop:
                self._interrupt()
            finally:
                self.log.close()
        self._finish()
        return self.matrix

    # -- learning -----------------------------------------------------------------------------------------

    def _all_tasks(self) -> None:
        joint = self.method.schedule == "joint"
        last = len(self.stream) - 1
        if self.cursor == Cursor() and not joint:
            self._evaluate(0)
        if joint:
            self.cursor.task = max(self.cursor.task, last)
        while self.cursor.task <= last:
            task = self.cursor.task
            self._learn(task)
            self._evaluate(task + 1)
            self._publish(task + 1)
            self.method.forget_optimizers()
            self.cursor = self._moved(task=task + 1)
            self._save()

    def _learn(self, index: int) -> None:
        task = self.stream.tasks[index]
        phases = self.method.phases(task, self.access(index))
        lengths = [p.steps if p.trains and isinstance(p.steps, int) else 0 for p in phases]
        known = all(isinstance(p.steps, int) for p in phases if p.trains)  # otherwise the axis of the curve is not known either
        points = self.evaluator.curve_points(sum(lengths)) if known and self.method.schedule == "sequential" else []
        while self.cursor.phase < len(phases):
            phase = phases[self.cursor.phase]
            if self.cursor.runs is None:
                self.cursor.runs = bool(phase.when())
            if self.cursor.runs:
                self._phase(index, phase, points)
                if phase.end is not None:
                    seed_everything(self.method.seed, index, phase.name, "end")
                    with self._timed(phase.name):
                        phase.end()
            elif known and phase.trains:
                self._pass_over(index, phase, points, sum(lengths[: self.cursor.phase + 1]))
            self.cursor.environment_steps += self.access(index).environment_steps
            self.access(index).environment_steps = 0
            self.cursor = self._moved(task=index, phase=self.cursor.phase + 1, trained=self.cursor.trained)
            self._attend()

    def _moved(self, task: int, phase: int = 0, trained: int = 0) -> Cursor:
        """The cursor at another place, with what it counts throughout the run."""
        at = self.cursor
        return Cursor(task, phase, trained=trained, position=at.position, parameters=at.parameters,
                      environment_steps=at.environment_steps)

    def _pass_over(self, index: int, phase: Phase, points: list[tuple[int, float]], end: int) -> None:
        """Of a phase that does not happen: the points of the learning curve up to `end`, where nothing is learned any more."""
        for step, _ in points:
            if self.cursor.trained < step <= end:
                self.cursor.trained = step
                self._curve(index, phase, points)
        self.cursor.trained = end

    def _phase(self, index: int, phase: Phase, points: list[tuple[int, float]]) -> None:
        cursor, seed = self.cursor, self.method.seed
        if not cursor.began:
            seed_everything(seed, index, phase.name, "begin")
            with self._timed(phase.name):
                if phase.begin is not None:
                    phase.begin()
            self.method.to(self.device)
            cursor.began = True
        if cursor.steps is None:
            cursor.steps = phase.steps if isinstance(phase.steps, int) else int(phase.steps())
        self._attend()
        self._curve(index, phase, points)
        while cursor.step < cursor.steps:
            with self._timed(phase.name):
                seed_everything(seed, index, phase.name, cursor.step)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    values = phase.update(Step(seed, index, phase.name, cursor.step))
                cursor.step += 1
                cursor.position += 1
                cursor.trained += phase.trains
                if cursor.step % self.log_every == 0 or cursor.step == cursor.steps:
                    self._report(index, phase, values)
            self._curve(index, phase, points)
            self._attend()

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Counts as training: updates, and what a phase does before and after them."""
        started, cpu = time.monotonic(), time.process_time()
        yield
        spent = time.process_time() - cpu
        self.clock["train_seconds"] += time.monotonic() - started
        self.clock["train_cpu_seconds"] += spent
        self.by_phase[phase] = self.by_phase.get(phase, 0.0) + spent

    def _report(self, index: int, phase: Phase, values: Mapping[str, Any]) -> None:
        cursor = self.cursor
        self.method.check_health(f"task {self.stream.tasks[index].name}, phase {phase.name}, step {cursor.step}")
        numbers = {name: float(value) for name, value in values.items()}
        self.log.write(index, phase.name, cursor.step, cursor.position, numbers)
        self.progress.step(index, phase.name, cursor.step, cursor.steps or 0, numbers)

    # -- evaluating ---------------------------------------------------------------------------------------

    def _curve(self, task: int, phase: Phase, points: list[tuple[int, float]]) -> None:
        if not phase.trains:
            return
        for step, fraction in points:
            if step == self.cursor.trained and (task, float(fraction)) not in self.matrix.curve:
                with self._evaluating():
                    episodes = self.evaluator.curve(self.method, task, step)
                if episodes:
                    self.matrix.set_curve(task, fraction, episodes)
                    self._attend()

    def _evaluate(self, learned: int) -> None:
        for task, episodes in self.evaluator.cells(learned):
            if self.matrix.known(learned, task):
                continue
            self.progress.evaluating(learned, task)
            with self._evaluating():
                scores = self.evaluator.cell(self.method, learned, task, episodes)
                error = self.evaluator.action_error(self.method, task) if task < learned else None
                dreams = self.evaluator.fidelity(self.method, learned, task) if task < learned else None
            if scores:
                self.matrix.set_cell(learned, task, scores)
                if len(scores) > 1 and self.matrix.cells[learned, task].distinct == 1:
                    self.progress.say(f"all {len(scores)} episodes of {self.stream.tasks[task].name} are the same, action by"
                                      " action, so they say no more than one")
            else:
                self.matrix.null_cell(learned, task, "the task has neither a simulator nor a holdout split")
            if error is not None:
                self.matrix.set_action_error(learned, task, *error)
            if dreams is not None:
                self.matrix.set_fidelity(learned, task, dreams)
            self.progress.evaluated(learned, task, scores)
            self._attend()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.method.check_health(f"task {self.stream.tasks[self.cursor.task].name}, before an evaluation")
        started = time.monotonic()
        self.may_abort = True
        try:
            if self.signal is not None:
                raise _Stop
            yield
        finally:
            self.may_abort = False
            self.clock["evaluate_seconds"] += time.monotonic() - started

    # -- saving and resuming ------------------------------------------------------------------------------

    def _attend(self) -> None:
        """After every step and every evaluation: stop if a signal came, save if one is due."""
        if self.signal is not None:
            self._interrupt()
        if time.monotonic() >= self.next_save:
            self._save()

    def _save(self) -> None:
        started = time.monotonic()
        self.method.check_health(f"task {self.cursor.task}, before saving")
        meta, tensors = capture(self.method)
        meta |= {"cursor": asdict(self.cursor), "scores": self.matrix.to_json(), "log_offset": self.log.offset,
                 "clock": self.clock, "by_phase": self.by_phase, "fingerprint": self.fingerprint}
        self.generations.write(meta, tensors)
        self.next_save = time.monotonic() + SAVE_COST_SHARE * (time.monotonic() - started)

    def _resume(self) -> int:
        """Restore the newest good generation; returns the log's offset.

        Raises:
            UsageError: a task's dataset is another one than when the run was begun.
        """
        found = self.generations.newest(self.progress.say)
        if found is None:
            self.method.to(self.device)
            return 0
        meta, tensors = found
        saved = ScoreMatrix.from_json(meta["scores"])
        now, then = ({entry["task"]: entry["digest"] for entry in m.data} for m in (self.matrix, saved))
        if changed := first_difference(now, then):
            raise UsageError(f"the data of {self.stream.name} changed since {self.folder} was begun ({changed}); bring the old"
                             " data back, or choose another --out")
        restore(self.method, meta, tensors, self.device)
        self.cursor = Cursor(**meta["cursor"])
        self.matrix = saved
        self.clock.update(meta["clock"])
        self.by_phase.update(meta.get("by_phase", {}))
        moved = [f"{k} was {meta['fingerprint'].get(k)!r} and is {v!r}" for k, v in self.fingerprint.items()
                   if meta["fingerprint"].get(k) != v]
        if moved:
            self.matrix.bit_exact = False
            self.progress.say(f"resuming under another fingerprint ({'; '.join(moved)}): the result is not bit-exact and is"
                              " marked so")
        self.progress.say(f"resuming at task {self.cursor.task + 1} of {len(self.stream)}, step {self.cursor.step} of phase"
                          f" {self.cursor.phase + 1}")
        return int(meta["log_offset"])

    def _publish(self, learned: int) -> None:
        """Write the agent after `learned` tasks and its footprint."""
        self.cursor.parameters.append(sum(p.numel() for p in self.method.parameters()))
        folder = self.folder / "agent" / str(learned)
        self.matrix.set_leans(self.method.leans())
        meta, tensors = capture(self.method)
        facts = self.agent_facts | {"learned": learned, "architecture": meta["architecture"]}
        write_folder(folder, facts, {"tensors": tensors["agent"]})
        sizes = self.cursor.parameters
        self.matrix.footprint = {
            "parameters": sizes[-1],
            "used_parameters": sizes[-1] - self.method.unused_parameters(),
            "copies": self.method.copies(),
            **({"from_words": True} if self.method.knows_from_words(self.method.config) else {}),
            **({} if (modules := self.method.modules_added()) is None else {"modules": modules}),
            "parameters_per_task": [b - a for a, b in zip([0, *sizes], sizes, strict=False)],
            "memory_bytes": self.method.memory_bytes(),
            "agent_bytes": sum(path.stat().st_size for path in folder.iterdir()),
            "environment_steps": self.cursor.environment_steps,
        }

    def _finish(self) -> None:
        self.matrix.complete = True
        with writing(self.folder):
            write_json(self.folder / "scores.json", self.matrix.to_json())
        shutil.rmtree(self.folder / "resume", ignore_errors=True)

    # -- signals ------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a checkpoint; a second one leaves at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.signal = number
            if self.may_abort:
                raise _Stop

        try:
            before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        except ValueError:  # not in the main thread: the caller handles its own signals
            yield
            return
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def _interrupt(self) -> None:
        self._save()
        assert self.signal is not None
        name = signal.Signals(self.signal).name
        raise Interrupted(f"stopped by {name} after a clean checkpoint; resume with: {self.resume_command}", self.signal)


def newest_agent(folder: Path) -> Path:
    """The agent of a run folder after the most tasks, or `folder` itself if it is an agent."""
    if (folder / "meta.json").is_file():
        return folder
    numbers = [int(p.name) for p in (folder / "agent").glob("*") if p.name.isdigit()] if (folder / "agent").is_dir() else []
    return folder / "agent" / str(max(numbers, default=0))

