"""incremental_joint: at every task, train on the data of all tasks so far. What unlimited memory would give.

Paper      the incremental joint training of FACIL (Masana et al. 2022, IEEE TPAMI 45(5))
Objective  mean over the tasks so far of L_t(theta), every batch balanced over them, starting from the last solution
Keeps      all data
Needs      the datasets of earlier tasks
Differs    `steps` updates per task whatever the number of tasks so far
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perdure.core.batch import average, mix
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.task import Task


class IncrementalJoint(Method):
    """Joint training on everything seen so far."""

    Config = MethodConfig

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.PAST_DATA})

    def phases(self, task: Task, access: Any) -> list[Phase]:
        views = [*access.past(), access.current]
        share = max(1, self.config.batch // len(views))

        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", dict(self.policy.named_parameters()))

        def train(step: Step) -> Mapping[str, Tensor]:
            batches = mix(*[view.windows(self.policy.context, share, step) for view in views])
            return {"fit": self.descend("policy", average(self.policy.loss, batches))}

        return [Phase("train", self.config.steps, train, begin=start)]
