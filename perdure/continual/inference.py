"""Task inference: without a task id, the subnetwork that fits the first observations of an episode best acts.

Every task keeps the mean and the deviation of what it observed at each of the first steps of its episodes. Evidence for a task
is the Gaussian likelihood of the observations so far, each compared with those of the same step. Left out are coordinates that
are constant in any of the tasks: they would name the task without saying anything about what is to be done (an object's place
in the vector, a flag, an empty slot).
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

EXECUTED = "action"
"""What actors that read their history call the actions in it."""

LEAST_OF_ALL_STEPS = 0.25
"""Of a coordinate's deviation over all first steps: no single step is surer of it than that. A robot starts where it always
starts, and a hair's breadth from there says nothing about the task."""

LEAST_OF_ALL_TASKS = 0.005
"""Of the largest deviation of a coordinate among the tasks: no task is surer of it than that."""


@dataclass(frozen=True)
class Start:
    """How the episodes of a task begin."""

    mean: Tensor
    """(K, O) of the observations at the first K steps."""
    std: Tensor
    """(K, O); 0 where a coordinate is constant in all data of the task."""


def start_of(sampler: Any, steps: int) -> Start:
    """Statistics of the first `steps` observations of the training episodes; where all end sooner, the last are repeated."""
    chosen = sampler.starts["train"].step
    timestep = sampler.timestep[chosen]
    reached = min(steps, int(timestep.max()) + 1)
    at = [chosen[timestep == min(k, reached - 1)] for k in range(steps)]
    mean, std = (torch.stack(part) for part in zip(*(_moments(sampler, these) for these in at), strict=True))
    over_all = _moments(sampler, chosen[timestep < steps])[1]
    varies = _moments(sampler, chosen)[1] >= SMALLEST_STD
    return Start(mean, torch.maximum(std, LEAST_OF_ALL_STEPS * over_all).clamp_min(SMALLEST_STD) * varies)


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
    """Acts as the task that the observations since the start of the episode speak for.

    Every task's own actor reads along while there is something to listen to, so that whichever is chosen has the window that it
    would have had from the start, with the actions that were executed.
    """

    def __init__(self, actors: Mapping[int, Actor], starts: Mapping[int, Start], steps: int):
        """`actors` and `starts` of the tasks that may be meant, all of equal spaces."""
        self.tasks, self.actors, self.steps = list(actors), list(actors.values()), steps
        mean = torch.stack([starts[task].mean for task in self.tasks]).double()
        std = torch.stack([starts[task].std for task in self.tasks]).double()
        self.columns = (std > 0).flatten(0, 1).all(0).nonzero().flatten()
        self.mean, std = mean[:, :, self.columns], std[:, :, self.columns]
        self.std = torch.maximum(std, LEAST_OF_ALL_TASKS * std.amax((0, 1)))

    def start(self, n: int) -> Carry:
        device = self.mean.device
        own = {f"{i}.{name}": value for i, actor in enumerate(self.actors) for name, value in actor.start(n).items()}
        return own | {"evidence": torch.zeros(n, len(self.tasks), dtype=torch.float64, device=device),
                      "seen": torch.zeros(n, dtype=torch.int64, device=device)}

    @torch.no_grad()
    def act(self, obs: Tensor, carry: Carry, g: Generator, reward: Tensor | None = None) -> tuple[Tensor, Carry]:
        listening = carry["seen"] < self.steps
        evidence = carry["evidence"]
        if bool(listening.any()):
            evidence = evidence + self._evidence(obs, carry["seen"], g) * listening.unsqueeze(1)
        chosen = evidence.argmax(1)
        reading = [i for i in range(len(self.actors)) if bool((listening | (chosen == i)).any())]
        actions, states = {}, {}
        for i in reading:
            own = {name.removeprefix(f"{i}."): value for name, value in carry.items() if name.startswith(f"{i}.")}
            actions[i], states[i] = self.actors[i].act(obs, own, g, reward)
        action = _chosen(chosen, actions)
        history = {i: state[EXECUTED] for i, state in states.items() if EXECUTED in state}
        executed = {EXECUTED: _chosen(chosen, history)} if history else {}
        after = {f"{i}.{name}": value for i, state in states.items() for name, value in (state | executed).items()}
        return action, dict(carry) | after | {"evidence": evidence, "seen": carry["seen"] + 1}

    def _evidence(self, obs: Tensor, seen: Tensor, g: Generator) -> Tensor:
        """(n, tasks), what this observation says for each of them."""
        return self.likelihood(obs, seen)

    def likelihood(self, obs: Tensor, seen: Tensor) -> Tensor:
        """(n, tasks) log-likelihood of one observation after `seen` (n,) others, without the constant."""
        step = seen.clamp_max(self.mean.shape[1] - 1)
        mean, std = self.mean[:, step].transpose(0, 1), self.std[:, step].transpose(0, 1)  # (n, tasks, coordinates)
        rows = obs.flatten(1).double()[:, self.columns].unsqueeze(1)
        return -(((rows - mean) / std).square() / 2 + std.log()).sum(-1)


class DrawingActor(InferringActor):
    """Acts as a task that is drawn at the first observation: what inference is compared with."""

    def _evidence(self, obs: Tensor, seen: Tensor, g: Generator) -> Tensor:
        drawn = torch.rand(len(obs), len(self.tasks), generator=g, dtype=torch.float64, device=g.device)
        return drawn.to(obs.device) * (seen == 0).unsqueeze(1)


def _chosen(chosen: Tensor, values: Mapping[int, Tensor]) -> Tensor:
    """Row by row the value of the chosen actor (n,)."""
    first, *rest = values
    found = values[first]
    for i in rest:
        found = torch.where((chosen == i).view(-1, *[1] * (found.dim() - 1)), values[i], found)
    return found
