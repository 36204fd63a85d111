"""si: synaptic intelligence, a quadratic penalty on weights by how much each lowered the loss of earlier tasks.

Paper      Zenke, Poole and Ganguli 2017, ICML (arXiv 1703.04200)
Objective  L_t(theta) + strength/2 * sum_i Omega_i (theta_i - theta*_i)^2, theta* the weights after task t-1
           Omega_i = sum over tasks of relu(w_i) / (delta_i^2 + damping), w the path integral of -gradient * displacement and
           delta the whole displacement of the task
Keeps      one anchor and one importance per shared parameter (twice the trunk, constant in the number of tasks)
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    each task's importance is divided by its mean over all weights before it is added (`normalise`); the penalty has a
           1/2; negative integrals count as 0 task by task (the authors' code cuts the running sum); the displacement is
           AdamW's and so includes its weight decay
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perdure.continual.anchor import QuadraticAnchor
from perdure.continual.path_integral import PathIntegral
from perdure.core.batch import average
from perdure.core.config import not_negative, positive
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task


@dataclass(frozen=True)
class SIConfig(MethodConfig):
    """Synaptic intelligence."""

    strength: float = 1.0
    """Weight of the penalty (twice the paper's c), on importances normalised to mean 1."""
    damping: float = 1e-3
    """Keeps weights that hardly moved from dividing by 0 (xi; in the authors' code 0.001 on CIFAR, 0.1 on permuted MNIST)."""
    normalise: bool = True
    """Divide each task's importance by its mean over all weights, so that a strength means the same in every task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")
        positive(self, "method", "damping")


class SI(Method):
    """Synaptic intelligence."""

    Config = SIConfig
    tuned = "strength"
    grid = (0.001, 0.01, 0.1, 1.0, 10.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.anchor = QuadraticAnchor()
        self.path = PathIntegral()

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index))

        def train(step: Step) -> Mapping[str, Tensor]:
            shared = self.policy.shared()

            def penalty() -> None:
                self.path.mark(shared)
                self.anchor.add_gradient(shared, self.config.strength)

            batch = access.current.windows(self.policy.context, self.config.batch, step)
            fit = self.descend("policy", average(self.policy.loss, batch), penalty=penalty)
            self.path.advance(shared)
            return {"fit": fit}

        def consolidate() -> None:
            moved = self.path.moved(self.policy.shared())
            self.anchor.open(moved)
            self.anchor.accumulate(self._importance(moved))
            self.anchor.commit(moved, 1, merge="online", decay=1.0, normalise=self.config.normalise)
            self.path.close()

        return [Phase("train", self.config.steps, train, begin=start, end=consolidate)]

    def _importance(self, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the task that was just learned."""
        parts = zip(moved.items(), self.path.get("integral", moved), self.path.get("start", moved), strict=True)
        return {
            name: integral.clamp_min(0) / ((p.detach() - begun).square() + self.config.damping)
            for (name, p), integral, begun in parts
        }

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"anchor": self.anchor.architecture(), "path": self.path.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.anchor.rebuild(architecture["anchor"])
        self.path.rebuild(architecture["path"])
