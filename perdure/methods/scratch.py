"""scratch: at every task the trunk starts again from its initial weights. What one policy is worth without its past.

Paper      none; the training from scratch that Continual World (Wolczyk et al. 2021, arXiv 2105.10919) measures forward
           transfer against
Objective  L_t(theta) from initial weights
Keeps      the newest trunk, and the heads and statistics of all tasks
Needs      task id at test only if heads or normalisers are per task
Differs    earlier tasks act with their own head on the newest trunk, which no longer fits it; the score right after learning
           a task is that of `independent`, bit for bit, unless `--policy.normaliser first` ties it to the first task
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from perdure.core.batch import average
from perdure.core.method import Method, MethodConfig, Phase, Step, add_task
from perdure.core.rng import keyed
from perdure.core.task import Task


class Scratch(Method):
    """One policy that starts again with every task."""

    Config = MethodConfig

    def open_task(self, task: Task, access: Any) -> None:
        self._restart(task, access)

    def _restart(self, task: Task, access: Any) -> dict[str, Parameter]:
        """Open the task and give all that it uses the values that a policy for this task alone starts from; returns these."""
        super().open_task(task, access)
        with keyed(self.seed, "policy"):
            fresh = self.new_policy()
        add_task(fresh, self.seed, task.index, task.spec, access.current)
        used = {name: self.policy.get_parameter(name) for name, _ in fresh.named_parameters()}
        with torch.no_grad():
            for name, initial in fresh.named_parameters():
                used[name].copy_(initial)
        return used

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.optimizer("policy", self._restart(task, access))

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch))}

        return [Phase("train", self.config.steps, train, begin=start)]
