"""What methods with a memory share: options, how it is kept and restored, the memory of the code released with CompoFormer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perdure.core.batch import Windows, concatenate
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Step
from perdure.core.policy import Policy
from perdure.core.rng import generator
from perdure.core.task import Task
from perdure.data.memory import ReplayMemory
from perdure.policies.base import TrunkPolicy


@dataclass(frozen=True)
class ReplayConfig(MethodConfig):
    """A memory of past data."""

    memory_share: float = 0.05
    """Share of each task's training transitions that is kept."""
    memory_bytes: int | None = None
    """Budget for all tasks together, in bytes, shared equally; replaces `memory_share`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.memory_share <= 1:
            raise UsageError(f"method.memory_share is {self.memory_share}; give a share above 0 and at most 1")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise UsageError(f"method.memory_bytes is {self.memory_bytes}; give a number of bytes above 0, or none")


class MethodWithMemory(Method):
    """A method that keeps past data in `memory`, where `phases` puts it."""

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.memory = self.new_memory()

    def new_memory(self) -> Any:
        """An empty memory: a module with `bytes`, `architecture` and `rebuild`."""
        return ReplayMemory()

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.MEMORY})

    def open_all(self, task: Task, access: Any) -> None:
        """Open the task, with an optimizer of every parameter, heads of earlier tasks included."""
        self.open_task(task, access)
        # the order of finetune first, so that without anything replayed clipping adds up the same numbers in the same order
        own = self.policy.shared() | self.policy.private(task.index)
        self.optimizer("policy", own | dict(self.policy.named_parameters()))

    def remember(self, access: Any, with_more: Callable[[Windows], Windows] = lambda windows: windows) -> None:
        """Keep the share or the bytes that the options name of the task that `access` hands over."""
        access.remember(self.memory, self.policy.context, share=self.config.memory_share, seed=self.seed,
                        budget=self.config.memory_bytes, with_more=with_more)

    def memory_bytes(self) -> int:
        return self.memory.bytes()

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"memory": self.memory.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.memory.rebuild(architecture["memory"])


def over_steps(values: Tensor, batch: Windows) -> Tensor:
    """(B, L) -> (B,), mean over the valid steps of each window."""
    return (values * batch.valid).sum(-1) / batch.valid.sum(-1)


class StoredBatches(ReplayMemory):
    """Whole training batches, five of each task, as the replay methods released with CompoFormer keep them.

    Once there are more than `cap`, `cap` of them stay, chosen and put in order at random.
    """

    PER_TASK = 5

    def __init__(self, cap: int) -> None:
        super().__init__()
        self.cap = cap
        self.order: list[tuple[int, int]] = []
        """(task, place among the task's batches) of every batch, in the order of the list."""
        self.batch = 0
        """Windows per batch."""

    def remember(self, access: Any, length: int, batch: int, seed: int) -> None:
        """Store five batches of the task that `access` hands over."""
        task = access.index
        drawn = [access.current.windows(length, batch, Step(seed, task, "memory", i)) for i in range(self.PER_TASK)]
        access.keep(self, concatenate(drawn))
        self.batch = batch
        self.order += [(task, place) for place in range(self.PER_TASK)]
        if len(self.order) > self.cap:
            chosen = torch.randperm(len(self.order), generator=generator(seed, "memory-cap", task))[: self.cap].tolist()
            self._reduce([self.order[i] for i in chosen])

    def _reduce(self, stay: list[tuple[int, int]]) -> None:
        """Keep these batches, in this order."""
        places: dict[int, list[int]] = {task: [] for task in self.tasks()}
        self.order = []
        for task, place in stay:
            self.order.append((task, len(places[task])))
            places[task].append(place)
        rows = torch.arange(self.batch)
        self.select({task: torch.cat([rows + place * self.batch for place in kept]) if kept else rows[:0]
                     for task, kept in places.items()})

    def stored(self, index: int) -> Windows:
        """The batch at this place of the list."""
        task, place = self.order[index]
        rows = self._rows(task)[place * self.batch : (place + 1) * self.batch]
        return self._windows(self.spaces[task], rows, torch.full_like(rows, task), (task,))

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"order": [list(entry) for entry in self.order], "batch": self.batch}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        super().rebuild(architecture)
        self.order, self.batch = [(int(task), int(place)) for task, place in architecture["order"]], int(architecture["batch"])


def loss_through_head(policy: Policy, batch: Windows, task: int) -> Tensor:
    """(B,) negative log-likelihood through the head of `task`, whatever the task of a sample.

    Observations and returns are still normalised by each sample's own task. Only the `compat` options use it.

    Raises:
        UsageError: the policy is not made of a trunk and heads, or the head is for other actions.
    """
    if not isinstance(policy, TrunkPolicy):
        raise UsageError(f"method.compat is true, which needs a policy with a trunk and heads, such as bc or dt, not"
                         f" {type(policy).__name__}; leave method.compat out")
    if policy.specs[batch.tasks[0]].action_key != policy.specs[task].action_key:
        raise UsageError(f"method.compat is true, which scores old samples through the newest head, but task {task} has other"
                         " actions than earlier tasks; leave method.compat out, or choose a stream of equal actions")
    features = policy.features(policy.inputs(batch))
    out = policy.distribution(features, torch.full_like(batch.task, task), (task,))
    return over_steps(out.negative_log_likelihood(batch.action), batch)
