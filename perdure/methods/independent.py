"""independent: one model per task, trained alone. The reference that sharing and protection must be measured against.

Paper      none; no published table of this field may be read without it
Objective  L_t(theta_t), with parameters of its own for every task
Keeps      every task's policy (grows by a whole policy per task)
Needs      task id at test
Differs    -
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from perdure.core.batch import average
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step, add_task
from perdure.core.policy import Policy, Weights
from perdure.core.rng import keyed
from perdure.core.task import Task


class Independent(Method):
    """A policy per task."""

    Config = MethodConfig
    trains_staged = True

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.context, self.parts = self.policy.context, self.policy.stages()
        del self.policy  # every task has its own
        self.policies = nn.ModuleDict()

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID})

    def _grow(self, task: int) -> Policy:
        """Every task starts from the same keyed initial trunk that a single policy would have."""
        with keyed(self.seed, "policy"):
            self.policies[str(task)] = self.new_policy()
        return self._policy(task)

    def _policy(self, task: int) -> Policy:
        return cast(Policy, self.policies[str(task)])

    def open_task(self, task: Task, access: Any) -> None:
        add_task(self._grow(task.index), self.seed, task.index, task.spec, access.current)

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", dict(self._policy(task.index).named_parameters()))

        def train(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(loss, batch))}

        return self.stages(self.parts, lambda: self._policy(task.index), [access.current], start, train)

    def copies(self) -> int:
        return len(self.policies)

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        if str(task) not in self.policies:
            raise UsageError(f"task {task} was not learned; this agent knows the tasks {', '.join(self.policies) or 'none'}")
        return self._policy(task), None

    def architecture(self) -> dict[str, Any]:
        return {"policies": {name: self._policy(int(name)).architecture() for name in self.policies}}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        for name, inner in architecture["policies"].items():
            self._grow(int(name)).rebuild(inner)
