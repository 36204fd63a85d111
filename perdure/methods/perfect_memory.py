"""perfect_memory: nothing is dropped; every batch is a uniform draw from all data so far.

Paper      the perfect memory of Continual World (Wolczyk et al. 2021, arXiv 2105.10919), sec. 4
Objective  E L(x), x uniform over the training data of the tasks so far, starting from the last solution
Keeps      all data, outside the agent
Needs      the datasets of earlier tasks; with `compat` a memory of past data instead
Differs    from incremental_joint, whose batches are balanced over the tasks: here each task weighs by its number of steps, and
           the newest by 1/t of the batch on data of equal size; from Continual World, where online SAC draws 512 instead of 128
           samples from a buffer that fills while the newest task is learned: here it is complete from the first update, and
           `batch` stays as it is; every sample goes through its own head and its own task's normaliser; `compat`: five stored
           batches per task, at most 200, and before each update another one on one of them, through the newest head
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perdure.continual.replay import MethodWithMemory, StoredBatches, loss_through_head
from perdure.core.batch import average
from perdure.core.method import MethodConfig, Need, Phase, Step
from perdure.core.task import Task

CAP = 200
"""Batches that the released code keeps."""


@dataclass(frozen=True)
class PerfectMemoryConfig(MethodConfig):
    """Training on all data so far."""

    compat: bool = False
    """As in the code released with CompoFormer: five batches per task and a step on one of them, through the newest head."""


class PerfectMemory(MethodWithMemory):
    """Training on all data so far."""

    Config = PerfectMemoryConfig

    def new_memory(self) -> StoredBatches:
        return StoredBatches(CAP)  # stays empty without `compat`

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.MEMORY if config.compat else Need.PAST_DATA})

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def train(step: Step) -> Mapping[str, Tensor]:
            if self.config.compat or task.index == 0:
                if self.memory.order:
                    self._replay_as_released(task.index, step)
                batch = access.current.windows(self.policy.context, self.config.batch, step)
                return {"fit": self.descend("policy", average(self.policy.loss, batch))}
            batches = access.union().windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batches))}

        def remember() -> None:
            self.memory.remember(access, self.policy.context, self.config.batch, self.seed)

        return [Phase("train", self.config.steps, train, begin=lambda: self.open_all(task, access),
                      end=remember if self.config.compat else None)]

    def _replay_as_released(self, newest: int, step: Step) -> None:
        """An update of its own on one stored batch."""
        index = int(torch.randint(len(self.memory.order), (), generator=step.generator("memory")))  # on the CPU
        loss = average(lambda batch: loss_through_head(self.policy, batch, newest), self.memory.stored(index))
        self.descend("policy", loss)
