"""`perdure run --dry-run`: what a run will cost, from a short trial of the same method, policy and sizes."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import torch

from perdure.api import check_machine
from perdure.cli.trial import measure, seconds_per_step
from perdure.core.config import build
from perdure.core.metrics import CURVE_POINTS
from perdure.core.task import Stream
from perdure.core.words import duration, size
from perdure.evaluate.evaluator import EvaluationConfig
from perdure.evaluate.schedule import cells_after
from perdure.experiment import make_method
from perdure.run_config import RunConfig
from perdure.streams import known_spaces, load_stream, outline

COLLECT_WORKERS = 2
"""Processes with which a run collects missing data."""

EPISODE_BYTES = 90
"""Of one episode in scores.json."""


@dataclass(frozen=True)
class Expected:
    """What one run is expected to cost."""

    learning: float
    """Seconds."""
    evaluating: float
    """Seconds at most: episodes may end early."""
    memory: float
    """Bytes."""
    disk: float
    """Bytes."""
    basis: str
    """What the trial ran on, in words."""
    missing: tuple[int, int] = (0, 0)
    """Datasets that are not here yet, and all."""
    collecting: float = 0.0
    """Seconds until these are collected."""


def estimate(config: RunConfig, runs: int, workers: int, threads: int, device: str) -> str:
    """What `runs` runs of a config are expected to cost, in words.

    Raises:
        UsageError: as `expect`.
    """
    one = expect(config, workers, threads, device)
    learning, evaluating = runs * one.learning, runs * one.evaluating
    lines = [
        f"expected for {runs} run{'s' if runs > 1 else ''} of {config.method} on {config.stream} ({config.policy},"
        f" {config.profile} profile), an estimate from a trial on {one.basis}:",
        f"  time    {duration(learning + evaluating)} (learning {duration(learning)}, evaluation at most {duration(evaluating)}:"
        " episodes may end early)",
        f"  memory  {size(one.memory)} ({workers} environment worker{'s' if workers != 1 else ''})",
        f"  disk    {size(runs * one.disk)}",
    ]
    if one.missing[0]:
        making = f"collects them, about {duration(one.collecting)} more" if one.collecting else "converts them from files given"
        lines.append(f"  data    {one.missing[0]} of {one.missing[1]} datasets are not here yet; the first run {making}")
    return "\n".join(lines)


def expect(config: RunConfig, workers: int, threads: int, device: str) -> Expected:
    """What one run of a config is expected to cost, from a short trial.

    Raises:
        UsageError: the stream forbids what the method needs, or what `check_machine` refuses.
    """
    check_machine(workers, threads, device)
    torch.set_num_threads(threads)
    if specs := known_spaces(config.stream, config.stream_options):
        make_method(config).check_spaces(specs)
    tasks = outline(config.stream, config.stream_options)
    missing = {task.folder: task for task in tasks if not task.present}
    name, options = (config.stream, config.stream_options) if not missing else ("toy", {"tasks": 2})
    stream = load_stream(name, say=lambda text: None, **options)
    trial = measure(config, stream, workers, device)
    simulator, goal = next(((task.env, task.goal) for task in missing.values()), (None, None))
    simulated = seconds_per_step(simulator, goal) if simulator is not None else 0.0
    trial.action += simulated / max(1, workers)
    joint = make_method(config).schedule == "joint"
    horizon = simulator.horizon if simulator is not None else _horizon(stream)
    steps = int(config.method_config["steps"]) * len(tasks)
    actions = _planned_actions(build(EvaluationConfig, config.evaluation, "evaluation"), len(tasks), joint, horizon)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + _data_bytes(stream) * len(tasks) / len(stream)
    memory += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    agents = [trial.agent + k * trial.growth for k in range(1 if joint else len(tasks))]
    disk = sum(agents) + 3 * (trial.resume + len(tasks) * trial.growth) + actions / max(horizon, 1) * EPISODE_BYTES
    return Expected(
        learning=steps * trial.step + len(tasks) * trial.fixed, evaluating=actions * trial.action + trial.start * len(tasks),
        memory=memory, disk=disk, missing=(len(missing), len({task.folder for task in tasks})),
        basis=f"{config.stream}'s own data" if not missing else "the toy stream, as the data are not here yet",
        collecting=sum(task.steps for task in missing.values()) * simulated / COLLECT_WORKERS,
    )  # fmt: skip


def _horizon(stream: Stream) -> int:
    """Steps of the longest episode."""
    return max((task.env.horizon for task in stream.tasks if task.env is not None), default=0)


def _planned_actions(settings: EvaluationConfig, tasks: int, joint: bool, horizon: int) -> int:
    """Environment steps of all cells and curve points, if no episode ends early."""
    cells = [cell for learned in range(tasks + 1)
             for cell in cells_after(learned, tasks, joint=joint, final=settings.episodes, shared=settings.shared)]
    points = 0 if joint else len(CURVE_POINTS) * tasks
    return horizon * (sum(episodes for _, episodes in cells) + points * settings.curve)


def _data_bytes(stream: Stream) -> int:
    names = ("observations", "actions", "rewards")
    return sum(task.data.array(name).nbytes for task in stream.tasks for name in names)
