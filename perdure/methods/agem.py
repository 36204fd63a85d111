"""agem: averaged gradient episodic memory, which removes from each gradient what would raise the loss on the memory.

Paper      Chaudhry et al. 2019, ICLR (arXiv 1812.00420), eq. 10 and 11
Objective  L_t(theta); where g . r < 0 the update uses g - (g . r / |r|^2) r, r the gradient of the loss on a replayed batch
Keeps      `memory_share` of each task's training transitions as raw windows, or `memory_bytes` for all tasks together
Needs      a memory of past data
Differs    all trained parameters are one vector, heads of earlier tasks included, which a projected gradient therefore moves;
           the optimizer is AdamW, whose step is not the projected gradient itself, and clipping follows the projection;
           reference samples go through their own head and their own task's normaliser and are drawn equally from all tasks,
           where Continual World (10,000 transitions per task) draws from the memory as a whole; `compat`: five stored batches
           per task, at most 20, of which the first alone is the reference of a whole task, scored through the newest head, and
           a gradient clipped before it is projected on the trunk only
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perdure.continual.gradients import project
from perdure.continual.replay import MethodWithMemory, ReplayConfig, StoredBatches, loss_through_head
from perdure.core.batch import average
from perdure.core.config import not_negative
from perdure.core.errors import UsageError
from perdure.core.method import Phase, Step
from perdure.core.task import Task
from perdure.data.memory import ReplayMemory

CAP = 20
"""Batches that the released code keeps."""


@dataclass(frozen=True)
class AGEMConfig(ReplayConfig):
    """Averaged gradient episodic memory."""

    replay: float = 1.0
    """Reference samples per new sample."""
    compat: bool = False
    """As in the code released with CompoFormer: five batches per task, one of them the reference, through the newest head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "replay")
        if self.compat and self.memory_bytes is not None:
            raise UsageError(f"method.memory_bytes is {self.memory_bytes} and method.compat is true, which keeps five batches per"
                             " task whatever their size; leave one of them out")


class AGEM(MethodWithMemory):
    """Averaged gradient episodic memory."""

    Config = AGEMConfig

    def new_memory(self) -> ReplayMemory:
        return StoredBatches(CAP) if self.config.compat else ReplayMemory()

    def phases(self, task: Task, access: Any) -> list[Phase]:
        replayed = round(self.config.batch * self.config.replay)

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            loss = average(self.policy.loss, batch)
            if not (replayed and self.memory.tasks()):
                return {"fit": self.descend("policy", loss)}
            edit = self._edit_as_released if self.config.compat else lambda: self._edit(replayed, step)
            return {"fit": self.descend("policy", loss, edit=edit)}

        def remember() -> None:
            if isinstance(self.memory, StoredBatches):
                self.memory.remember(access, self.policy.context, self.config.batch, self.seed)
            else:
                self.remember(access)

        return [Phase("train", self.config.steps, train, begin=lambda: self.open_all(task, access), end=remember)]

    def _edit(self, replayed: int, step: Step) -> None:
        """Project the gradient of every trained parameter."""
        loss = average(self.policy.loss, self.memory.draw(replayed, step))
        self._project(self.optimizers["policy"].param_groups[0]["params"], loss)

    def _edit_as_released(self) -> None:
        """Clip, then project the trunk's gradient against that of the first stored batch through the newest head."""
        assert isinstance(self.memory, StoredBatches)
        if self.config.clip:  # the clipping that follows changes nothing more: a projection only shortens
            nn.utils.clip_grad_norm_(self.optimizers["policy"].param_groups[0]["params"], self.config.clip)
        newest = self.policy.tasks()[-1]
        loss = average(lambda batch: loss_through_head(self.policy, batch, newest), self.memory.stored(0))
        self._project(list(self.policy.shared().values()), loss)

    def _project(self, parameters: list[nn.Parameter], loss: Tensor) -> None:
        reference = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, gradient in zip(parameters, project([p.grad for p in parameters], reference), strict=True):
            p.grad = gradient
