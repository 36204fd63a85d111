"""`perdure run --dry-run`: what a run will cost, from a short trial of the same method, policy and sizes.

The trial learns two tasks for a few steps, because replay, penalties and masks cost nothing in the first task, and rolls
a few episodes. It writes nothing.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Literal

import torch

from perdure.cli.show import duration, size
from perdure.core.config import build
from perdure.core.errors import UsageError
from perdure.core.method import Method, Phase, Step
from perdure.core.state import capture
from perdure.core.task import Stream
from perdure.data.access import Access, Views, grant
from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator
from perdure.evaluate.schedule import cells_after
from perdure.experiment import RunConfig, make_method
from perdure.streams import load_stream, outline

TRIAL_STEPS = 20
WARM_STEPS = 3
"""First steps of a phase, which are slower and do not count."""

EPISODE_BYTES = 90
"""Of one episode in scores.json."""


@dataclass
class Trial:
    """Measured seconds and bytes."""

    step: float = 0.0
    """Seconds per update, mean over the phases by their steps."""
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


def estimate(config: RunConfig, runs: int, workers: int, threads: int, device: str) -> str:
    """What `runs` runs of a config are expected to cost, in words.

    Raises:
        UsageError: the stream forbids what the method needs, or `device` is not there.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"device is '{device}' but torch sees no GPU here; use --device cpu, see `perdure doctor`")
    torch.set_num_threads(threads)
    tasks = outline(config.stream, config.stream_options)
    missing = sorted({task.name for task in tasks if not task.present})
    name, options = (config.stream, config.stream_options) if not missing else ("toy", {"tasks": 2})
    stream = load_stream(name, say=lambda text: None, **options)
    trial = _trial(config, stream, workers, device)
    joint = make_method(config).schedule == "joint"
    horizon = _horizon(config, stream, bool(missing))
    steps = int(config.method_config["steps"]) * len(tasks)
    learning = steps * trial.step + len(tasks) * trial.fixed
    actions = _planned_actions(build(EvaluationConfig, config.evaluation, "evaluation"), len(tasks), joint, horizon)
    evaluating = actions * trial.action + trial.start * len(tasks)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + _data_bytes(stream) * len(tasks) / len(stream)
    memory += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    agents = [trial.agent + k * trial.growth for k in range(1 if joint else len(tasks))]
    disk = sum(agents) + 3 * (trial.resume + len(tasks) * trial.growth) + actions / max(horizon, 1) * EPISODE_BYTES
    basis = f"{config.stream}'s own data" if not missing else "the toy stream, as the data are not here yet"
    lines = [
        f"expected for {runs} run{'s' if runs > 1 else ''} of {config.method} on {config.stream} ({config.policy},"
        f" {config.profile} profile), an estimate from a trial on {basis}:",
        f"  time    {duration(runs * (learning + evaluating))} (learning {duration(runs * learning)}, evaluation at most"
        f" {duration(runs * evaluating)}: episodes end at their first success)",
        f"  memory  {size(memory)} ({workers} environment worker{'s' if workers != 1 else ''})",
        f"  disk    {size(runs * disk)}",
    ]
    if missing:
        lines.append(f"  data    of {', '.join(missing)} not here yet; the run collects them first, which adds time and is not in"
                     " this estimate")
    return "\n".join(lines)


def _trial(config: RunConfig, stream: Stream, workers: int, device: str) -> Trial:
    """Learn two tasks for a few steps, or all at once where the method does, and act a little."""
    trial = Trial()
    method = make_method(config)
    method.to(device)
    joint = method.schedule == "joint"
    needs = grant(type(method), method.config, stream)
    views = Views(stream, device)
    indices = [len(stream) - 1] if joint else list(range(min(2, len(stream))))
    for index in indices:
        access = Access(views, index, needs)
        spent, fixed, steps = _learn(method, stream, index, access, device)
        trial.step, trial.fixed = spent / max(steps, 1), fixed
        before, trial.agent = trial.agent, _bytes(method, "agent")
        trial.growth = max(0, trial.agent - before) if before else 0
    trial.resume = _bytes(method, "agent") + _bytes(method, "resume")
    trial.agent -= trial.growth
    evaluator = StreamEvaluator(stream, lambda index: Access(views, index, needs),
                                build(EvaluationConfig, config.evaluation, "evaluation"), config.seed, joint, workers,
                                torch.device(device))
    try:
        simulated = [index for index in (range(len(stream)) if joint else indices) if stream.tasks[index].env is not None]
        for index in simulated[:1]:
            _act(evaluator, method, index, trial)
    finally:
        evaluator.close()
    return trial


def _learn(method: Method, stream: Stream, index: int, access: Access, device: str) -> tuple[float, float, int]:
    """(seconds of all updates, seconds of begin and end, number of updates) of a task, from a few updates of each phase."""
    spent, fixed, total = 0.0, 0.0, 0
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
        total += steps
        started = time.monotonic()
        if phase.end is not None:
            phase.end()
        fixed += time.monotonic() - started
    return spent, fixed, total


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


def _horizon(config: RunConfig, stream: Stream, stand_in: bool) -> int:
    """Steps of the longest episode."""
    if stand_in:
        return int(config.stream_options.get("horizon", 0)) or max(task.env.horizon for task in stream.tasks if task.env)
    return max((task.env.horizon for task in stream.tasks if task.env is not None), default=0)


def _planned_actions(settings: EvaluationConfig, tasks: int, joint: bool, horizon: int) -> int:
    """Environment steps of all cells and curve points, if no episode ends early."""
    kind: Literal["joint", "sequential"] = "joint" if joint else "sequential"
    cells = [cell for learned in range(tasks + 1)
             for cell in cells_after(learned, tasks, kind=kind, final=settings.episodes, shared=settings.shared)]
    points = 0 if joint else 5 * tasks
    return horizon * (sum(cell.episodes for cell in cells) + points * settings.curve)


def _data_bytes(stream: Stream) -> int:
    names = ("observations", "actions", "rewards")
    return sum(task.data.array(name).nbytes for task in stream.tasks for name in names)


def _bytes(method: Method, part: str) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in capture(method)[1][part].values())
