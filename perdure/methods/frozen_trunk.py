"""frozen_trunk: the first task trains the trunk, later ones only their head. What the features of one task are worth.

Paper      none; a reference. Frozen features of another task: Yosinski et al. 2014 (arXiv 1411.1792)
Objective  L_1 over all weights, then L_t over the head of task t
Keeps      nothing but the policy
Needs      task id at test
Differs    weights that open late, such as the encoder of a new observation space, are trained by the task that opens them and
           frozen for all others
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perdure.core.batch import average
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.task import Task


class FrozenTrunk(Method):
    """One trunk, trained once."""

    Config = MethodConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        if getattr(getattr(self.policy, "config", None), "heads", "task") != "task":
            raise UsageError("policy.heads is 'single', but frozen_trunk trains nothing of a later task except its head; use"
                             " task, or another method")
        self.opener: dict[str, int] = {}
        """Shared weight -> the task that opened it, which alone trains it."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID})

    def open_task(self, task: Task, access: Any) -> None:
        super().open_task(task, access)
        for name in self.policy.shared():
            self.opener.setdefault(name, task.index)

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t = task.index
        frozen: list[dict[str, Tensor]] = []  # follows from the openers; made when a process first needs it

        def start() -> None:
            self.open_task(task, access)
            opened = {name: p for name, p in self.policy.shared().items() if self.opener[name] == t}
            self.optimizer("policy", opened | self.policy.private(t))

        def train(step: Step) -> Mapping[str, Tensor]:
            if not frozen:  # cut off from gradients, so that none is computed for them
                frozen.append({name: p.detach() for name, p in self.policy.shared().items() if self.opener[name] != t})
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch, weights=frozen[0]))}

        return [Phase("train", self.config.steps, train, begin=start)]

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"opener": dict(self.opener)}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.opener = {name: int(task) for name, task in architecture["opener"].items()}
