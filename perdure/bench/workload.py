"""What is timed: policies, data and methods of the shapes that the library is used with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from perdure.core.batch import Windows
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.policy import Policy
from perdure.core.rng import keyed, seed_everything
from perdure.core.spec import Box, Spec
from perdure.core.task import Stream, Task
from perdure.data.access import Access, Views
from perdure.data.store import Dataset
from perdure.data.trajectory import Trajectory
from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.run_config import find

ACTIONS = 4

SPEC = Spec(obs=Box((39,)), action=Box((ACTIONS,), low=(-1.0,) * ACTIONS, high=(1.0,) * ACTIONS))
"""The spaces of Meta-World: 39 observation channels and 4 actions."""


@dataclass(frozen=True)
class Scale:
    """How large the timed work is. `FULL` is the reference; tests use a small one."""

    episodes: int = 100
    """Per task."""
    length: int = 200
    """Steps per episode."""
    policy: Mapping[str, dict[str, Any]] | None = None
    """Sizes of every policy instead of its profile's, for tests."""
    batch: int | None = None
    """Samples per update instead of the profile's, for tests."""
    sampled: tuple[tuple[int, int], ...] = ((200, 500), (100, 200))
    """(episodes, steps) of the data that batches are drawn from; the first is the one with a target."""
    rows: tuple[int, ...] = (1, 10, 50)
    """Episodes acted in one forward."""
    samples: int = 256
    """Samples whose importance is estimated."""
    steps_per_round: float = 0.15
    """Seconds that one side of a round should take at least."""
    save_megabytes: tuple[float, ...] = (1.0, 10.0)
    """Sizes of the state that checkpoints hold."""
    save_seconds: float = 20.0
    """Training time of the run whose saves are measured."""
    stream_steps: int | None = None
    """Updates per task of the miniature stream; None keeps the toy's own."""
    growing: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """Tasks of the streams whose last task is timed."""
    composed: tuple[int, ...] = (1, 5, 10, 20)
    """Earlier modules that a task composes."""
    pairs: int = 1000
    """States and actions that are generated at once."""
    dreamed: tuple[int, ...] = (2, 5, 10, 20)
    """Tasks of the streams whose last task is learned with dreams of those before it."""
    options: Mapping[str, dict[str, Any]] | None = None
    """Options of a method, for tests."""
    routed: tuple[int, ...] = (10, 100, 1000)
    """Earlier tasks that routing chooses among."""
    sweep_runs: int = 4
    """Runs of the sweep that is timed."""
    sweep_steps: int = 1000
    """Updates per task of these runs."""
    sweep_rounds: int = 3
    """Rounds of that sweep; more would take long."""
    memory_tasks: int = 20
    """Tasks of the long stream whose memory is measured."""
    memory_steps: int = 30
    """Updates per task of its runs."""

    def short(self) -> Scale:
        """The same with a tenth of the episodes, for streams of many tasks."""
        return replace(self, episodes=max(2, self.episodes // 10))


FULL = Scale()


def dataset(episodes: int, length: int, seed: int, name: str = "bench") -> Dataset:
    """Random trajectories of Meta-World shape; their values do not matter for time."""
    rng = np.random.default_rng(seed)
    trajectories = []
    for _ in range(episodes):
        truncated = np.zeros(length, dtype=bool)
        truncated[-1] = True
        trajectories.append(Trajectory(
            observations=rng.standard_normal((length + 1, 39)).astype(np.float32),
            actions=rng.uniform(-1, 1, (length, ACTIONS)).astype(np.float32),
            rewards=rng.uniform(0, 10, length).astype(np.float32),
            terminated=np.zeros(length, dtype=bool), truncated=truncated, success=True,
        ))  # fmt: skip
    return Dataset.in_memory(trajectories, name=name, spec=SPEC, quality="random", licence="Apache-2.0", source="made in memory",
                             behaviour={"policy": "random"})


def stream(scale: Scale, tasks: int = 2) -> Stream:
    """Tasks of Meta-World shape without an environment."""
    return stream_of([dataset(scale.episodes, scale.length, seed=i) for i in range(tasks)])


def stream_of(data: Sequence[Dataset]) -> Stream:
    """A stream of data-only tasks."""
    return Stream("bench", tuple(Task(index=i, name=f"task-{i + 1}", spec=SPEC, data=one) for i, one in enumerate(data)))


def policy_maker(name: str, profile: str, scale: Scale, options: Mapping[str, Any] | None = None) -> Callable[[], Policy]:
    """Makes fresh policies of a profile's size, with what a method asks of them in `options`."""
    policy_class = find(name, POLICIES, "policy")
    sizes = policy_class.PROFILES[profile]["policy"] if scale.policy is None else scale.policy[name]
    config = policy_class.Config(**sizes | dict(options or {}))
    return lambda: policy_class(config)


def open_policy(name: str, profile: str, scale: Scale, views: Views, device: str, **options: Any) -> Policy:
    """A policy with the first task open, with keyed initial weights."""
    with keyed(0, "bench"):
        policy = policy_maker(name, profile, scale, options)()
        policy.add_task(0, SPEC, views.views[0].stats())
    return policy.to(device)


def recipe(policy: str, profile: str, scale: Scale) -> dict[str, Any]:
    """The profile's training recipe."""
    values = dict(find(policy, POLICIES, "policy").PROFILES[profile]["training"])
    return values if scale.batch is None else values | {"batch": scale.batch}


def batch(policy: Policy, views: Views, n: int) -> Windows:
    """One batch of the first task."""
    return views.views[0].windows(policy.context, n, Step(0, 0, "bench", 0))


UNTIMED = {"ewc": {"fisher_batch": 8}}
"""Options that only touch phases that are not timed, kept small: per-sample gradients of a large policy fill gigabytes."""


class Learner:
    """A method in the middle of learning the last task of a stream, stepped as the driver steps it."""

    WARM_UP = 3
    """Updates in every phase up to the one that is timed, so that optimizers have state."""

    def __init__(self, method: str, policy: str, profile: str, scale: Scale, views: Views, phase: str = "train",
                 precision: str = "fp32", options: Mapping[str, Any] | None = None, warm_up: int = WARM_UP):
        method_class = find(method, METHODS, "method")
        values = recipe(policy, profile, scale) | UNTIMED.get(method, {}) | dict(options or {})
        config: MethodConfig = method_class.Config(**values | (scale.options or {}).get(method, {}))
        its_policy = policy_maker(policy, profile, scale, method_class.policy_options(config))
        self.method: Method = method_class(config, its_policy, seed=0)
        self.precision = precision
        self.device = torch.device(views.views[0].device)
        self.method.to(self.device)
        needs = method_class.needs(config)
        for task in views.stream.tasks:
            for candidate in self.method.phases(task, Access(views, task.index, needs)):
                if not candidate.when():
                    continue
                self.task, self.phase = task.index, candidate
                self._begin(candidate)
                self.steps = candidate.steps if isinstance(candidate.steps, int) else candidate.steps()
                for _ in range(min(warm_up, self.steps)):
                    self.step()
                if task.index == len(views.stream) - 1 and candidate.name == phase:
                    return
                if candidate.end is not None:
                    candidate.end()
            self.method.forget_optimizers()
        raise ValueError(f"{method} does not come to a phase {phase} in the last task")

    def _begin(self, phase: Phase) -> None:
        seed_everything(0, self.task, phase.name, "begin")
        if phase.begin is not None:
            phase.begin()
        self.method.to(self.device)
        self.index = 0

    def step(self) -> None:
        """One update, with the driver's seeding and precision; after the last one of the phase comes its first again."""
        seed_everything(0, self.task, self.phase.name, self.index)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            self.phase.update(Step(0, self.task, self.phase.name, self.index))
        self.index = (self.index + 1) % self.steps


def named_sizes() -> Iterator[tuple[str, str]]:
    """(policy, profile) pairs in the order of the tables."""
    for policy in ("dt", "bc"):
        for profile in ("cpu", "paper"):
            yield policy, profile
