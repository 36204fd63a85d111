"""joint: one fit on the data of all tasks at once, after the last has arrived. The upper reference of a shared policy.

Paper      multi-task training, as in Continual World (Wolczyk et al. 2021, arXiv 2105.10919)
Objective  mean over tasks of L_t(theta), every batch balanced over the tasks
Keeps      all data
Needs      the datasets of all tasks; only the last row of the score matrix exists
Differs    N x `steps` updates, the sum that a sequential method spends; `batch` samples per update in all
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from perdure.core.batch import average, mix
from perdure.core.method import Method, MethodConfig, Need, Phase, Step, add_task
from perdure.core.task import Task


class Joint(Method):
    """Multi-task training."""

    Config = MethodConfig
    schedule = "joint"
    trains_staged = True

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.PAST_DATA})

    def phases(self, task: Task, access: Any) -> list[Phase]:
        views = [*access.past(), access.current]
        share = max(1, self.config.batch // len(views))

        def start() -> None:
            for view in views:
                add_task(self.policy, self.seed, view.task.index, view.task.spec, view)
            self.optimizer("policy", dict(self.policy.named_parameters()))

        def train(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            batches = mix(*[view.windows(self.policy.context, share, step) for view in views])
            return {"fit": self.descend("policy", average(loss, batches))}

        return self.stages(self.policy.stages(), lambda: self.policy, views, start, train)
