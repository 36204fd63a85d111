"""Evaluator: scores a method on a task, by rollouts where there is a simulator and by held-out action error otherwise.

It never changes the learner: a task that is not learned yet is opened on a copy that is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.fidelity import Fidelity
from perdure.core.matrix import Episode
from perdure.core.method import Method
from perdure.core.rng import generator
from perdure.core.task import Stream, Task
from perdure.evaluate.fidelity import SAMPLES, fidelity
from perdure.evaluate.rollout import rollout
from perdure.evaluate.schedule import cells_after, curve_points
from perdure.evaluate.workers import PoolCache

AT_ONCE = 2**23
"""Numbers in the observations of one forward over held-out data: an episode of images is read in parts."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is evaluated. Every value is part of a run's identity."""

    episodes: int = 50
    """Episodes of the diagonal and the last row of the score matrix."""
    shared: int = 10
    """Episodes of every other cell: the first of the same goals."""
    curve: int = 10
    """Episodes of each point of the learning curve; 0 leaves the curve out."""
    slots: int = 10
    """Rows of one batched forward."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("shared", 1), ("curve", 0), ("slots", 1)):
            if self.__dict__[name] < least:
                raise UsageError(f"evaluation.{name} is {self.__dict__[name]}; give {least} or more")
        if self.shared > self.episodes:
            raise UsageError(
                f"evaluation.shared is {self.shared} and evaluation.episodes {self.episodes}; shared must not be"
                " larger"
            )


@dataclass
class StreamEvaluator:
    """Evaluates every task of a stream on its frozen goals."""

    stream: Stream
    access: Callable[[int], Any]
    """Task index -> access, for opening a task that is not learned yet on a copy."""
    config: EvaluationConfig
    seed: int
    joint: bool
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pools: PoolCache = field(init=False)

    def __post_init__(self) -> None:
        for task in self.stream.tasks:
            for name, goals, wanted in (("episodes", task.goals.final, self.config.episodes),
                                        ("curve", task.goals.curve, self.config.curve)):
                if task.env is not None and goals and len(goals) < wanted:
                    raise UsageError(f"evaluation.{name} is {wanted}, but task {task.name} has {len(goals)} such goals; give"
                                     f" {len(goals)} or fewer")
        self.pools = PoolCache(self.config.slots, self.workers)

    def close(self) -> None:
        """End the environment workers."""
        self.pools.close()

    def cells(self, learned: int) -> list[tuple[int, int]]:
        """(task, episodes) of the matrix row `learned`."""
        return cells_after(learned, len(self.stream), joint=self.joint, final=self.config.episodes, shared=self.config.shared)

    def curve_points(self, steps: int) -> list[tuple[int, float]]:
        """(step, fraction) of the learning curve within a task."""
        return curve_points(steps) if self.config.curve else []

    def cell(self, method: Method, learned: int, task: int, episodes: int) -> list[Episode]:
        """Episodes of one cell, in goal order."""
        if task >= learned:
            method = self._opened(method, task)
        return self._episodes(method, task, "final", episodes, ("cell", learned, task))

    def curve(self, method: Method, task: int, step: int) -> list[Episode]:
        """Episodes of one point of the learning curve."""
        return self._episodes(method, task, "curve", self.config.curve, ("curve", task, step))

    def probe(self, method: Method, task: int) -> list[Episode]:
        """Episodes on the goals that a method's own rollouts may use."""
        return self._episodes(method, task, "probe", len(self.stream.tasks[task].goals.probe), ("probe", task))

    def action_error(self, method: Method, task: int) -> tuple[float, int] | None:
        """(mean error of the logged actions of the holdout split, number of transitions); None without such a split, where the
        task is inferred by acting, and of policies that act by drawing.
        """
        if method.infers_task(method.config) or method.model(task)[0].draws:
            return None
        errors = self._held_out(method, task, most=None)
        return (float(np.concatenate(errors).mean()), sum(map(len, errors))) if errors else None

    def fidelity(self, method: Method, learned: int, task: int) -> Fidelity | None:
        """How near what the method would replay of a learned task is to its held-out data; None where it makes nothing."""
        g = generator(self.seed, "dreams", learned, task, device=self.device)
        training = method.training
        method.eval()
        made = method.dreamed(task, SAMPLES, g)
        method.train(training)
        return None if made is None else fidelity(*made, self.access(task).current.sampler, self.seed)

    def _opened(self, method: Method, task: int) -> Method:
        """A copy on which only `open_task` was called: keyed initial head, statistics of the task's data."""
        copy = method.copy()
        copy.open_task(self.stream.tasks[task], self.access(task))
        return copy.to(self.device)

    def _episodes(
        self, method: Method, index: int, goals: str, episodes: int, place: tuple[Any, ...]
    ) -> list[Episode]:
        task = self.stream.tasks[index]
        training = method.training
        method.eval()
        try:
            if task.env is None:
                return self._data_only(method, task, episodes)
            listed = getattr(task.goals, goals) or (None,) * episodes
            return rollout(
                method.actor(index), task.env, listed[:episodes], spec=task.spec, seed=self.seed, place=place,
                episode_place=(index, goals), scale=task.score, slots=self.config.slots, pool=self.pools.get(task.env),
                stop_at_success=task.stops_at_success, device=self.device,
            )  # fmt: skip
        finally:
            method.train(training)

    def _data_only(self, method: Method, task: Task, episodes: int) -> list[Episode]:
        """Holdout trajectories as episodes; score 1 - error / error of always predicting the training mean."""
        baseline = self._baseline(task)
        errors = self._held_out(method, task.index, most=episodes)
        return [Episode(1.0 - float(e.mean()) / baseline, None, len(e), None) for e in errors]

    def _baseline(self, task: Task) -> float:
        """Error of the best constant prediction: the training mean, or the most common discrete action."""
        sampler = self.access(task.index).current.sampler
        train = sampler.action[sampler.starts["train"].step]
        held = sampler.action[sampler.starts["holdout"].step]
        if task.spec.discrete:
            wrong = (held != train.mode().values).double().mean()
        else:
            wrong = (held - train.mean(0)).double().square().mean()
        return max(float(wrong), 1e-8)

    @torch.no_grad()
    def _held_out(self, method: Method, index: int, most: int | None) -> list[np.ndarray]:
        """Per holdout trajectory, the action error at every step, with the logged history as context."""
        training = method.training
        method.eval()
        policy, weights = method.model(index)
        sampler = self.access(index).current.sampler
        starts = sampler.starts["holdout"]
        errors = []
        for first, length in list(zip(starts.first.tolist(), starts.length.tolist(), strict=True))[:most]:
            steps = torch.arange(first, first + length, device=self.device)
            parts = []
            for chunk in steps.split(max(1, AT_ONCE // (policy.context * sampler.spec.obs.size))):
                begin = torch.clamp(chunk - policy.context + 1, min=first)
                batch: Windows = sampler.windows_at(begin, policy.context)
                error = policy.predict(batch, weights).error(batch.action)
                parts.append(error[torch.arange(len(chunk), device=self.device), chunk - begin].double().cpu().numpy())
            errors.append(np.concatenate(parts))
        method.train(training)
        return errors
