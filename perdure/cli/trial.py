"""A short trial of a run, for `perdure run --dry-run`: what an update, an environment step and a checkpoint cost.

It learns two tasks for a few steps, because replay, penalties and masks cost nothing in the first task, and rolls a few
episodes. It writes nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from perdure.core.config import build
from perdure.core.environment import EnvFactory
from perdure.core.errors import GuardError
from perdure.core.method import Method, Phase, Step
from perdure.core.state import capture
from perdure.core.task import Stream
from perdure.data.access import Access, Views, grant
from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator
from perdure.experiment import make_method
from perdure.run_config import RunConfig

TRIAL_STEPS = 20
WARM_STEPS = 3
"""First steps of a phase, which are slower and do not count."""

SIMULATED_STEPS = 100


@dataclass
class Trial:
    """Measured seconds and bytes."""

    step: float = 0.0
    """Seconds that all updates of a task take, for each of its `method.steps`; phases may have more updates than these."""
    fixed: float = 0.0
    """Seconds per task outside the updates: begin and end of phases."""
    start: float = 0.0
    """Seconds until the environments of a task can be stepped."""
    action: float = 0.0
    """Seconds per environment step of an evaluation."""
    agent: int = 0
    """Bytes of an agent after the first task."""
    growth: int = 0
    """Bytes that another task adds to it."""
    resume: int = 0
    """Bytes of one checkpoint generation."""


def measure(config: RunConfig, stream: Stream, workers: int, device: str) -> Trial:
    """Learn two tasks for a few steps, or all at once where the method does, and act a little."""
    trial = Trial()
    method = make_method(config)
    method.to(device)
    joint = method.schedule == "joint"
    needs = grant(type(method), method.config, stream)
    views = Views(stream, device)
    evaluator = StreamEvaluator(stream, lambda index: Access(views, index, needs),
                                build(EvaluationConfig, config.evaluation, "evaluation"), config.seed, joint, workers,
                                torch.device(device))
    indices = [len(stream) - 1] if joint else list(range(min(2, len(stream))))
    try:
        for index in indices:
            access = Access(views, index, needs, lambda m, task: evaluator.probe(m, task))
            spent, trial.fixed = _learn(method, stream, index, access, device)
            trial.step = spent / (method.config.steps * (len(stream) if joint else 1))
            before, trial.agent = trial.agent, _bytes(method, "agent")
            trial.growth = max(0, trial.agent - before) if before else 0
        trial.resume = _bytes(method, "agent") + _bytes(method, "resume")
        trial.agent -= trial.growth
        simulated = [index for index in (range(len(stream)) if joint else indices) if stream.tasks[index].env is not None]
        for index in simulated[:1]:
            _act(evaluator, method, index, trial)
    finally:
        evaluator.close()
    return trial


def _learn(method: Method, stream: Stream, index: int, access: Access, device: str) -> tuple[float, float]:
    """(seconds of all updates, seconds of begin and end) of a task, from a few updates of each phase."""
    spent, fixed = 0.0, 0.0
    for phase in method.phases(stream.tasks[index], access):
        if not phase.when():
            continue
        started = time.monotonic()
        if phase.begin is not None:
            phase.begin()
        method.to(device)
        fixed += time.monotonic() - started
        steps = phase.steps if isinstance(phase.steps, int) else int(phase.steps())
        spent += steps * _per_update(phase, method.seed, index, steps)
        started = time.monotonic()
        if phase.end is not None:
            with suppress(GuardError):  # after so few updates nothing that is dreamed is good
                phase.end()
        fixed += time.monotonic() - started
    return spent, fixed


def _per_update(phase: Phase, seed: int, index: int, steps: int) -> float:
    """Median seconds of an update."""
    times = []
    for step in range(min(TRIAL_STEPS + WARM_STEPS, steps)):
        started = time.monotonic()
        phase.update(Step(seed, index, phase.name, step))
        times.append(time.monotonic() - started)
    kept = sorted(times[WARM_STEPS:] or times)
    return kept[len(kept) // 2] if kept else 0.0


def _act(evaluator: StreamEvaluator, method: Method, task: int, trial: Trial) -> None:
    """Time the start of a task's environments and one batch of episodes."""
    learned, episodes = len(evaluator.stream), min(evaluator.config.slots, evaluator.config.episodes)
    started = time.monotonic()
    evaluator.cell(method, learned, task, 1)
    trial.start = time.monotonic() - started
    started = time.monotonic()
    done = evaluator.cell(method, learned, task, episodes)
    trial.action = (time.monotonic() - started) / max(1, sum(episode.length for episode in done))


def seconds_per_step(factory: EnvFactory, goal: Any) -> float:
    """Of an environment under random actions."""
    env = factory()
    try:
        env.action_space.seed(0)
        env.reset(seed=0, options={"goal": goal})
        started = time.monotonic()
        for _ in range(SIMULATED_STEPS):
            env.step(env.action_space.sample())
        return (time.monotonic() - started) / SIMULATED_STEPS
    finally:
        env.close()


def _bytes(method: Method, part: str) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in capture(method)[1][part].values())
