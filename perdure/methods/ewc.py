"""ewc: elastic weight consolidation, a quadratic penalty weighted by the Fisher information of earlier tasks.

Paper      Kirkpatrick et al. 2017, PNAS 114(13), eq. 3; online variant: Schwarz et al. 2018 (arXiv 1805.06370), sec. 3
Objective  L_t(theta) + strength/2 * sum_i F_i (theta_i - theta*_i)^2
Keeps      one anchor and one importance per shared parameter (twice the trunk, constant in the number of tasks)
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    the Fisher diagonal is the expectation over the policy's own outputs per sample (Gauss-Newton), or per sample over
           the logged actions (`fisher empirical`); it is divided by its mean over all weights (`normalise`); the quadratic
           penalties of all tasks are kept as one sum, which is the same penalty; a learned standard deviation of a head that
           tasks share has no importance. `compat`: as in the code released with CompoFormer, where the importance is the square
           of the mean gradient of one batch, which vanishes at a minimum
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from perdure.continual.anchor import QuadraticAnchor
from perdure.continual.compat import RELEASED_WINDOWS, batch_gradient, refuse_replaced, set_released
from perdure.continual.importance import fisher_diagonal
from perdure.core.batch import Windows, average
from perdure.core.config import not_negative
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task

RELEASED = {"merge": "online", "decay": 0.5, "fisher_batches": 1, "fisher_batch": RELEASED_WINDOWS, "normalise": False}
"""What `compat` sets."""


@dataclass(frozen=True)
class EWCConfig(MethodConfig):
    """Elastic weight consolidation."""

    strength: float = 1.0
    """Weight of the penalty (the paper's lambda), on importances normalised to mean 1."""
    fisher: Literal["expected", "empirical"] = "expected"
    """Gradients of the policy's own outputs, or of the logged actions' likelihood."""
    merge: Literal["sum", "online"] = "sum"
    """`sum`: one penalty per task (2017); `online`: decayed importance and a moving anchor (2018)."""
    decay: float = 0.95
    """Of earlier importances when `merge` is `online` (Schwarz et al. 2018)."""
    fisher_batches: int = 10
    """Batches that estimate the importance (10 x 256 samples as in Continual World)."""
    fisher_batch: int = 256
    """Samples per such batch."""
    normalise: bool = True
    """Divide the importance by its mean over all weights, so that a strength means the same in every task."""
    compat: bool = False
    """As in the code released with CompoFormer: importance (mean gradient of the training error)^2 of one batch of 32 windows
    (dropout on), mixed 0.5 to 0.5 with the old one, not normalised, one moving anchor; replaces every option but `strength`
    (there: 5000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")
        if not 0 <= self.decay <= 1 or self.fisher_batches < 1 or self.fisher_batch < 1:
            raise UsageError(f"method.decay is {self.decay}, fisher_batches {self.fisher_batches} and fisher_batch"
                             f" {self.fisher_batch}; give a decay from 0 to 1 and numbers above 0")
        refuse_replaced(self, "fisher")
        set_released(self, RELEASED)


class EWC(Method):
    """Elastic weight consolidation."""

    Config = EWCConfig
    trains_staged = True
    tuned = "strength"
    grid = (0.001, 0.01, 0.1, 1.0, 10.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.anchor = QuadraticAnchor()

    def phases(self, task: Task, access: Any) -> list[Phase]:
        batches, size = self.config.fisher_batches, self.config.fisher_batch

        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index) | self.policy.teachers())

        def penalty() -> None:
            self.anchor.add_gradient(self.policy.shared(), self.config.strength)

        def train(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(loss, batch), penalty=penalty)}

        def estimate(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, size, step)
            self.anchor.accumulate(self._importance(batch, step))
            return {}

        def commit() -> None:
            self.anchor.commit(self.policy.shared(), batches, merge=self.config.merge,
                               decay=self.config.decay if self.config.merge == "online" else 1.0,
                               normalise=self.config.normalise)

        return [
            *self.stages(self.policy.stages(), lambda: self.policy, [access.current], start, train),
            Phase("fisher", batches, estimate, begin=lambda: self.anchor.open(self.policy.shared()), end=commit, trains=False),
        ]

    def _importance(self, batch: Windows, step: Step) -> dict[str, Tensor]:
        """Mean over the samples of a batch."""
        if not self.config.compat:
            return fisher_diagonal(self.policy, batch, self.policy.shared(), step.generator("fisher"), self.config.fisher)
        gradients = batch_gradient(self.policy, batch, self.policy.shared())
        return {name: 0.5 * g.square() for name, g in gradients.items()}  # the other half is the decay of the old importance

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"anchor": self.anchor.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.anchor.rebuild(architecture["anchor"])
