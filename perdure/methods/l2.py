"""l2: stay near the weights of the task before.

Paper      the L2 baseline of Kirkpatrick et al. 2017, PNAS 114(13), and of Continual World (Wolczyk et al. 2021)
Objective  L_t(theta) + strength/2 * sum_i (theta_i - theta*_i)^2, theta* the weights after task t-1
Keeps      one anchor and one importance, which is 1, per shared parameter (twice the trunk, constant in the number of tasks)
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    from Continual World's code, in whose penalty there is no 1/2 and the importance grows by 1 with every task
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perdure.continual.anchor import QuadraticAnchor
from perdure.core.batch import average
from perdure.core.config import not_negative
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task


@dataclass(frozen=True)
class L2Config(MethodConfig):
    """L2 towards the last solution."""

    strength: float = 1.0
    """Weight of the penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")


class L2(Method):
    """L2 towards the last solution."""

    Config = L2Config
    tuned = "strength"
    grid = (0.01, 0.1, 1.0, 10.0, 100.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.anchor = QuadraticAnchor()

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index))

        def penalty() -> None:
            self.anchor.add_gradient(self.policy.shared(), self.config.strength)

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch), penalty=penalty)}

        return [Phase("train", self.config.steps, train, begin=start, end=lambda: self.anchor.hold(self.policy.shared()))]

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"anchor": self.anchor.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.anchor.rebuild(architecture["anchor"])
