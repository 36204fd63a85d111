"""Task inference: without a task id, the subnetwork that fits the first observations of an episode best acts.

Every task keeps the mean and the deviation of what it observed in the first steps of its episodes. Evidence for a task is the
Gaussian likelihood of the observations so far. Left out are coordinates that are constant in any of the tasks: they would name
the task without saying anything about what is to be done (an object's place in the vector, a flag, an empty slot).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from perdure.core.policy import Actor, Carry
from perdure.data.stats import SMALLEST_STD

AT_ONCE = 2**22
"""Numbers of the observations in memory."""

LEAST_SHARE = 0.02
"""Of the largest deviation of a coordinate among the tasks: no task is surer of it than that."""


@dataclass(frozen=True)
class Start:
    """How the episodes of a task begin."""

    mean: Tensor
    """(O,) of the observations of the first steps."""
    std: Tensor
    """(O,); 0 where a coordinate is constant in all data of the task."""


def start_of(sampler: Any, steps: int) -> Start:
    """Statistics of the first `steps` observations of the training episodes."""
    chosen = sampler.starts["train"].step
    mean, std = _moments(sampler, chosen[sampler.timestep[chosen] < steps])
    varies = _moments(sampler, chosen)[1] >= SMALLEST_STD
    return Start(mean, std.clamp_min(SMALLEST_STD) * varies)


def _moments(sampler: Any, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the observations at flat steps, read a few at a time; constants have a deviation of exactly 0."""
    first = sampler.windows_at(steps[:1], 1).obs.flatten(1).double()
    total, squares = torch.zeros_like(first[0]), torch.zeros_like(first[0])
    for part in steps.split(max(1, AT_ONCE // first.numel())):
        moved = sampler.windows_at(part, 1).obs.flatten(1).double() - first
        total += moved.sum(0)
        squares += moved.square().sum(0)
    mean = total / len(steps)
    return first[0] + mean, (squares / len(steps) - mean.square()).clamp_min(0).sqrt()


class InferringActor:
    """Acts as the task that the observations since the start of the episode speak for."""

    def __init__(self, actors: Mapping[int, Actor], starts: Mapping[int, Start], targets: Mapping[int, float], steps: int):
        """`actors`, `starts` and return `targets` of the tasks that may be meant, all of equal spaces."""
        self.tasks, self.actors, self.steps = list(actors), list(actors.values()), steps
        mean = torch.stack([starts[task].mean for task in self.tasks])
        std = torch.stack([starts[task].std for task in self.tasks])
        known = (std > 0).all(0)
        self.columns = known.nonzero().flatten()
        self.mean = mean[:, known]
        self.std = torch.maximum(std[:, known], LEAST_SHARE * std[:, known].max(0).values)
        self.targets = torch.tensor([targets[task] for task in self.tasks])

    def start(self, n: int) -> Carry:
        inner = {f"inner.{name}": value for name, value in self.actors[0].start(n).items()}
        device = self.mean.device
        return inner | {"evidence": torch.zeros(n, len(self.tasks), dtype=torch.float64, device=device),
                        "seen": torch.zeros(n, dtype=torch.int64, device=device),
                        "chosen": torch.zeros(n, dtype=torch.int64, device=device)}

    @torch.no_grad()
    def act(self, obs: Tensor, carry: Carry, g: Generator, reward: Tensor | None = None) -> tuple[Tensor, Carry]:
        listening = (carry["seen"] < self.steps).unsqueeze(1)
        evidence = carry["evidence"] + self._likelihood(obs) * listening
        chosen = evidence.argmax(1)
        inner = {name.removeprefix("inner."): value for name, value in carry.items() if name.startswith("inner.")}
        if "target" in inner:  # the return that is asked for is the chosen task's own
            targets = self.targets.to(inner["target"])
            inner["target"] = inner["target"] + targets[chosen] - targets[carry["chosen"]]
        action, after = self.actors[0].act(obs, inner, g, reward)
        for index in range(1, len(self.actors)):
            mine = chosen == index
            if bool(mine.any()):
                theirs, state = self.actors[index].act(obs, inner, g, reward)
                action = _rows(mine, theirs, action)
                after = {name: _rows(mine, value, after[name]) for name, value in state.items()}
        return action, {f"inner.{name}": value for name, value in after.items()} | {
            "evidence": evidence, "seen": carry["seen"] + 1, "chosen": chosen}

    def _likelihood(self, obs: Tensor) -> Tensor:
        """(n, tasks) log-likelihood of one observation, without the constant."""
        rows = obs.flatten(1).double()[:, self.columns].unsqueeze(1)  # (n, 1, coordinates)
        return -(((rows - self.mean) / self.std).square() / 2 + self.std.log()).sum(-1)


def _rows(mine: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where `mine` (n,) is true."""
    return torch.where(mine.view(-1, *[1] * (new.dim() - 1)), new, old)
