"""finetune: train on each task in turn and do nothing against forgetting. The lower reference of every table.

Paper      none; the reference of Continual World (Wolczyk et al. 2021, arXiv 2105.10919)
Objective  L_t(theta) on the current task's data
Keeps      nothing but the policy
Needs      task id at test only if heads or normalisers are per task (`--policy.heads single` removes the heads)
Differs    -
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from perdure.core.batch import average
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task


class Finetune(Method):
    """One policy, trained on the tasks one after the other."""

    Config = MethodConfig
    trains_staged = True

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index) | self.policy.teachers())

        def train(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(loss, batch))}

        return self.stages(self.policy.stages(), lambda: self.policy, [access.current], start, train)
