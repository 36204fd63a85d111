"""tsn_replaykl: sparse subnetworks; a new task shares the copy of the earlier task whose stored observations look most alike.

Paper      the baseline TSN-ReplayKL of Zurek et al. 2026 (arXiv 2604.25898), whose body could not be read: the formulas are those
           of the authors' code
Objective  as tsn; the distance to an earlier task is the mean of KL(softmax(old) || softmax(new)) over pairs of flattened raw
           observations, paired by their place in the samples
Keeps      as tsn, 256 raw observations per task, and whole copies of the weights for tasks that are far from all others
Needs      task id at test; a memory of past data
Differs    none in the rule, which says little: the pairing is arbitrary, and a softmax over pixels is almost uniform; biases,
           norms and time-step embeddings are per task by default (`biases masked`, `norms frozen` as released); the sample is
           drawn from all episodes, not from the first; tasks of other spaces count as far
Status     see docs/reproduction.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perdure.continual.pool import SubnetworkPool
from perdure.continual.subnetwork_phases import SubnetworkConfig, open_subnetwork, subnetwork_phases
from perdure.core.errors import UsageError
from perdure.core.method import Method, Need, Phase, Step
from perdure.core.policy import Policy, Weights
from perdure.core.task import Task


@dataclass(frozen=True)
class TSNReplayKLConfig(SubnetworkConfig):
    """Sparse subnetworks routed by stored observations."""

    samples: int = 256
    """Observations that are kept of every task."""
    threshold: float = 0.25
    """Largest distance, in nats, at which a task shares the copy of another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or not self.threshold >= 0:
            raise UsageError(f"method.samples is {self.samples} and method.threshold {self.threshold}; give a number of 1 or more"
                             " and a threshold of 0 or more")


class TSNReplayKL(Method):
    """Sparse subnetworks routed by stored observations."""

    Config = TSNReplayKLConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.pool = SubnetworkPool(self)
        self.stored = nn.Module()
        self.facts: dict[int, dict[str, Any]] = {}
        """Task -> spaces, distances to earlier tasks and the copy it is in."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID, Need.MEMORY})

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t = task.index

        def start() -> None:
            self.open_task(task, access)
            spaces = access.current.sampler.spaces
            mine = access.observations(self.config.samples, Step(self.seed, t, "store", 0)).flatten(1)
            distances = {s: observation_distance(self.stored.get_buffer(f"task-{s}"), mine)
                         for s in self.pool.masks.finished() if self.facts[s]["spaces"] == spaces}
            copy = 0
            if distances:
                nearest = min(distances, key=lambda s: (distances[s], s))
                near = distances[nearest] <= self.config.threshold
                copy = self.pool.copy_of[nearest] if near else len(self.pool.copies) + 1
            elif self.pool.masks.finished():
                copy = len(self.pool.copies) + 1
            self.stored.register_buffer(f"task-{t}", mine)
            self.facts[t] = {"spaces": spaces, "distances": {str(s): d for s, d in distances.items()}, "copy": copy}
            open_subnetwork(self, access, copy, self.config.keep_ratio, {})

        return subnetwork_phases(self, access, start, dict)

    def memory_bytes(self) -> int:
        return sum(value.nbytes for value in self.stored.buffers())

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        return self.policy, self.pool.view(self.policy, task, {})

    def unused_parameters(self) -> int:
        return self.pool.unused(self.policy)

    def copies(self) -> int:
        return len(self.pool.copies) + 1

    def architecture(self) -> dict[str, Any]:
        kept = {name: [list(value.shape), str(value.dtype)] for name, value in self.stored.named_buffers()}
        return super().architecture() | {"pool": self.pool.architecture(), "stored": kept,
                                         "facts": [[task, facts] for task, facts in self.facts.items()]}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.pool.rebuild(architecture["pool"])
        for name, (shape, kind) in architecture["stored"].items():
            self.stored.register_buffer(name, torch.zeros(shape, dtype=getattr(torch, kind.removeprefix("torch."))))
        self.facts = {int(task): facts for task, facts in architecture["facts"]}


def observation_distance(old: Tensor, new: Tensor) -> float:
    """Mean KL(softmax(old_i) || softmax(new_i)) over pairs of rows, in nats; pixels count from 0 to 1."""
    n = min(len(old), len(new))
    scale = 255.0 if old.dtype == torch.uint8 else 1.0
    a, b = (rows[:n].double().div(scale).log_softmax(-1) for rows in (old, new))
    return float((a.exp() * (a - b)).sum(-1).mean())
