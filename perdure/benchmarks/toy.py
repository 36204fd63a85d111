"""The toy streams: point masses with opposite targets, made in memory in milliseconds. Every test and tutorial uses them.

`toy` has three tasks of equal spaces; `toy-tune` three others, to choose hyperparameters on; `toy-spaces` tasks whose
observation and action sizes differ; `toy-discrete` categorical actions; `toy-pixels` small images and categorical actions.
Nothing here is a scientific benchmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perdure.benchmarks.point_mass import PointMassFactory
from perdure.benchmarks.tuned import tuned
from perdure.core.errors import UsageError
from perdure.core.spec import Spec
from perdure.core.task import Goals, Stream, Task, TaskOutline
from perdure.data.store import Dataset
from perdure.data.trajectory import Trajectory

CORNERS = ((0.8, 0.8), (-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8))

EDGES = ((0.8, 0.0), (-0.8, 0.0), (0.0, -0.8), (0.0, 0.8))
"""Targets of toy-tune."""

SETTINGS: dict[tuple[str, str, str], dict[str, object]] = {
    ("*", "bc", "cpu"): {"steps": 400, "batch": 64},
    ("*", "dt", "cpu"): {"steps": 400, "batch": 32},
    **tuned("toy"),
}
"""(method or *, policy, profile) -> recipe: small because the tasks are; no published source."""

TUNING = {"toy": "toy-tune"}
"""Stream -> the one on which its methods are tuned."""

POLICY: dict[tuple[str, str], dict[str, object]] = {
    ("bc", "cpu"): {"width": 64, "layers": 2},
    ("dt", "cpu"): {"width": 32, "layers": 2, "attention_heads": 2, "context": 5},
}
"""(policy, profile) -> sizes, as for SETTINGS."""


@dataclass(frozen=True)
class Options:
    """Of a toy stream."""

    tasks: int = 3
    """Number of tasks; the four corners come in turn."""
    episodes: int = 60
    """Noisy expert episodes per task."""

    def __post_init__(self) -> None:
        if not 1 <= self.tasks <= 100 or not 2 <= self.episodes <= 10_000:
            raise UsageError(f"stream.tasks is {self.tasks} and stream.episodes {self.episodes}; give 1 to 100 tasks of 2 to"
                             " 10000 episodes")


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """The toy stream of that name."""
    discrete, pixels = name in ("toy-discrete", "toy-pixels"), name == "toy-pixels"
    built = []
    for index, target in enumerate(targets(name, options.tasks)):
        factory = PointMassFactory(target, discrete, pixels)
        built.append(Task(
            index=index, name=_task(name, index), spec=factory.spec(), env=factory,
            data=_dataset(name, index, factory, options.episodes), goals=_goals(index, len(target)),
            text=text_of(target),
        ))  # fmt: skip
    return Stream(name, tuple(built), citation="perdure's own toy; no publication")


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream, without making it."""
    return [TaskOutline(_task(name, index), "expert", None) for index in range(options.tasks)]


def targets(name: str, tasks: int) -> list[tuple[float, ...]]:
    """Where the mass is to go in each task."""
    if name == "toy-spaces":
        return [(CORNERS[i % 4] + (0.5,))[: (2, 3, 1)[i % 3]] for i in range(tasks)]
    places = EDGES if name == "toy-tune" else CORNERS
    return [places[i % 4] for i in range(tasks)]


def text_of(target: tuple[float, ...]) -> str:
    """The task in words."""
    return f"Move the mass to ({', '.join(f'{x:+.1f}' for x in target)})."


def _task(name: str, index: int) -> str:
    return f"{'edge' if name == 'toy-tune' else 'corner'}-{index + 1}"


def _rng(*place: object) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.blake2b(repr(place).encode(), digest_size=16).digest()))


def _goals(index: int, dimension: int) -> Goals:
    starts = _rng("goals", index).uniform(-1, 1, (70, dimension)).round(4)
    listed = [tuple(map(float, row)) for row in starts]
    return Goals(final=tuple(listed[:50]), curve=tuple(listed[50:60]), probe=tuple(listed[60:]))


def _dataset(name: str, index: int, factory: PointMassFactory, episodes: int) -> Dataset:
    spec: Spec = factory.spec()
    env = factory()
    trajectories = []
    for e in range(episodes):
        rng = _rng("data", name, index, e)
        start = tuple(map(float, rng.uniform(-1, 1, len(factory.target)).round(4)))
        observations, actions, rewards = [env.reset(options={"goal": start})[0]], [], []
        success, noise = False, 0.3
        for _ in range(factory.horizon):
            actions.append(env.expert(rng, noise))
            observation, reward, _, _, info = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
            success |= info["success"]
        truncated = np.zeros(factory.horizon, dtype=bool)
        truncated[-1] = True
        trajectories.append(Trajectory(
            observations=np.stack(observations), actions=np.asarray(actions), rewards=np.asarray(rewards, dtype=np.float32),
            terminated=np.zeros(factory.horizon, dtype=bool), truncated=truncated, success=success, goal=start, level=noise,
        ))  # fmt: skip
    return Dataset.in_memory(
        trajectories, name=f"{name}-{index + 1}", spec=spec, quality="expert", licence="Apache-2.0", source="made in memory",
        behaviour={"policy": "straight to the target"},
    )  # fmt: skip
