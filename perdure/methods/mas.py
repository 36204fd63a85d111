"""mas: memory aware synapses, a quadratic penalty on weights by how much each changes what the policy computes.

Paper      Aljundi et al. 2018, ECCV (arXiv 1711.09601)
Objective  L_t(theta) + strength/2 * sum_i Omega_i (theta_i - theta*_i)^2, theta* the weights after task t-1
           Omega_i = sum over tasks of E_x |d ||f(x)||^2 / d theta_i|, per sample; f is the mean of the actions, or the logits
Keeps      one anchor and one importance per shared parameter (twice the trunk, constant in the number of tasks)
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    each task's importance is divided by its mean over all weights before it is added (`normalise`); the penalty has a
           1/2; for a sequence, ||f(x)||^2 sums over the steps of the window; a learned standard deviation of a head that tasks
           share has no importance. `compat`: as in the code released with CompoFormer, where the importance is the size of the
           mean gradient of the training loss, which vanishes at a minimum
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perdure.continual.anchor import QuadraticAnchor
from perdure.continual.compat import RELEASED_WINDOWS, batch_gradient, set_released
from perdure.continual.importance import output_sensitivity
from perdure.core.batch import Windows, average
from perdure.core.config import not_negative, one_or_more
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task


@dataclass(frozen=True)
class MASConfig(MethodConfig):
    """Memory aware synapses."""

    strength: float = 1.0
    """Weight of the penalty (twice the paper's lambda), on importances normalised to mean 1."""
    importance_batches: int = 10
    """Batches that estimate the importance (10 x 256 samples as in Continual World)."""
    importance_batch: int = 256
    """Samples per such batch."""
    normalise: bool = True
    """Divide each task's importance by its mean over all weights, so that a strength means the same in every task."""
    compat: bool = False
    """As in the code released with CompoFormer: importance |mean gradient of the training error| of one batch of 32 windows
    (dropout on), mixed 0.5 to 0.5 with the old one, not normalised; replaces the three options above (there: strength 10)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")
        one_or_more(self, "method", "importance_batches", "importance_batch")
        set_released(self, {"importance_batches": 1, "importance_batch": RELEASED_WINDOWS, "normalise": False})


class MAS(Method):
    """Memory aware synapses."""

    Config = MASConfig
    tuned = "strength"
    grid = (0.01, 0.1, 1.0, 10.0, 100.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.anchor = QuadraticAnchor()

    def phases(self, task: Task, access: Any) -> list[Phase]:
        batches, size = self.config.importance_batches, self.config.importance_batch

        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index))

        def penalty() -> None:
            self.anchor.add_gradient(self.policy.shared(), self.config.strength)

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch), penalty=penalty)}

        def estimate(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, size, step)
            self.anchor.accumulate(self._importance(batch))
            return {}

        def commit() -> None:
            self.anchor.commit(self.policy.shared(), batches, merge="online", decay=0.5 if self.config.compat else 1.0,
                               normalise=self.config.normalise)

        return [
            Phase("train", self.config.steps, train, begin=start),
            Phase("importance", batches, estimate, begin=lambda: self.anchor.open(self.policy.shared()), end=commit,
                  trains=False),
        ]

    def _importance(self, batch: Windows) -> dict[str, Tensor]:
        """Mean over the samples of a batch."""
        if not self.config.compat:
            return output_sensitivity(self.policy, batch, self.policy.shared())
        gradients = batch_gradient(self.policy, batch, self.policy.shared())
        return {name: 0.5 * g.abs() for name, g in gradients.items()}  # the other half is the decay of the old importance

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"anchor": self.anchor.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.anchor.rebuild(architecture["anchor"])
