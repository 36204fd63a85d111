"""rwalk: Riemannian walk, a quadratic penalty by the Fisher information and by the loss that each weight's way has saved.

Paper      Chaudhry et al. 2018, ECCV (arXiv 1801.10112)
Objective  L_t(theta) + strength/2 * sum_i (F_i + s_i) (theta_i - theta*_i)^2, theta* the weights after task t-1
           F is a running mean of the squared gradients of batches; s sums over stretches of `interval` updates relu(-gradient *
           displacement) / (F/2 * displacement^2 + damping), and is averaged with the s of the tasks before at the end of a task
Keeps      anchor, importance, F and s of each shared parameter (four times the trunk, constant in the number of tasks)
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    F and s are divided by their means before they are added, where the paper scales each to [0, 1] (`normalise range`);
           the penalty has a 1/2; no memory of past samples, with which the paper combines it; interval, decay and damping as in
           the first author's later code (facebookresearch/agem), which has no 1/2 before F; F begins as the squares of the
           first interval. `compat`: as in the code released with CompoFormer, where F is the squared mean gradient of one batch
           and nothing is normalised
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from perdure.continual.anchor import QuadraticAnchor
from perdure.continual.compat import RELEASED_WINDOWS, batch_gradient, refuse_replaced
from perdure.continual.named_tensors import NamedTensors
from perdure.continual.path_integral import PathIntegral
from perdure.core.batch import average
from perdure.core.config import not_negative, one_or_more, positive
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task

RELEASED_DAMPING = 0.1
"""As in the code released with CompoFormer."""


@dataclass(frozen=True)
class RWalkConfig(MethodConfig):
    """Riemannian walk."""

    strength: float = 1.0
    """Weight of the penalty (twice the paper's lambda), on normalised F and s."""
    interval: int = 50
    """Updates between two contributions to F and s (as in the first author's code on CIFAR; 10 on permuted MNIST)."""
    fisher_decay: float = 0.9
    """Share of the newest interval in the running mean F (alpha, as in the first author's code)."""
    damping: float = 1e-3
    """Keeps intervals without displacement from dividing by 0 (epsilon, as in the first author's code)."""
    normalise: Literal["mean", "range"] = "mean"
    """F and s each divided by their mean over all weights, or by their largest value, so that they lie in [0, 1]."""
    compat: bool = False
    """As in the code released with CompoFormer: F is (mean gradient)^2 of one batch of 32 windows, mixed 0.5 to 0.5 with the
    old one; one interval per task, F without 1/2, damping 0.1; s is halved from the first task on; nothing is normalised and
    the penalty has no 1/2; replaces every option but `strength` (there: 1000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")
        one_or_more(self, "method", "interval")
        if not 0 < self.fisher_decay <= 1:
            raise UsageError(f"method.fisher_decay is {self.fisher_decay}; give a share above 0 and at most 1")
        positive(self, "method", "damping")
        refuse_replaced(self, "interval", "fisher_decay", "damping", "normalise")


class RWalk(Method):
    """Riemannian walk."""

    Config = RWalkConfig
    tuned = "strength"
    grid = (0.01, 0.1, 1.0, 10.0, 100.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.anchor = QuadraticAnchor()
        self.path = PathIntegral(squares=not config.compat)
        self.kept = NamedTensors()
        """`fisher` and `score` of all tasks so far; while a task is learned also `new`, the score of the task."""

    def phases(self, task: Task, access: Any) -> list[Phase]:
        compat = self.config.compat
        strength = self.config.strength * (2 if compat else 1)  # add_gradient has the 1/2

        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index))

        def train(step: Step) -> Mapping[str, Tensor]:
            shared = self.policy.shared()

            def penalty() -> None:
                self.path.mark(shared)
                self.anchor.add_gradient(shared, strength)

            batch = access.current.windows(self.policy.context, self.config.batch, step)
            fit = self.descend("policy", average(self.policy.loss, batch), penalty=penalty)
            self.path.advance(shared)
            if not compat and self.path.updates == self.config.interval:
                self._contribute(self.path.moved(shared))
            return {"fit": fit}

        def estimate(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, RELEASED_WINDOWS, step)
            gradients = batch_gradient(self.policy, batch, self.path.moved(self.policy.shared()))
            self._cover(gradients, {name: torch.zeros_like(g) for name, g in gradients.items()})
            for old, new in zip(self.kept.get("fisher", gradients), gradients.values(), strict=True):
                old.lerp_(new.square(), 0.5)
            return {}

        def consolidate() -> None:
            moved = self.path.moved(self.policy.shared())
            if compat:
                self._add_score(moved, RELEASED_DAMPING, share=1.0)
            elif self.path.updates:
                self._contribute(moved)
            for name, score, new in zip(moved, self.kept.get("score", moved), self.kept.get("new", moved), strict=True):
                score.lerp_(new, 0.5 if compat or name in self.anchor.shapes else 1.0)
            self.anchor.open(moved)
            self.anchor.accumulate(self._importance(moved))
            self.anchor.commit(moved, 1, merge="online", decay=0.0, normalise=False)
            self.kept.drop("new")
            self.path.close()

        if compat:
            return [Phase("train", self.config.steps, train, begin=start),
                    Phase("fisher", 1, estimate, end=consolidate, trains=False)]
        return [Phase("train", self.config.steps, train, begin=start, end=consolidate)]

    def _cover(self, moved: Mapping[str, Tensor], fisher: Mapping[str, Tensor]) -> None:
        """Begin all parts of the parameters that lack them: sums at 0, F at the values given."""
        zeros = {name: torch.zeros_like(p) for name, p in moved.items()}
        for part, values in (("new", zeros), ("score", zeros), ("fisher", fisher)):
            known = self.kept.names(part)
            self.kept.put(part, {name: value for name, value in values.items() if name not in known})

    @torch.no_grad()
    def _contribute(self, moved: Mapping[str, Tensor]) -> None:
        """At the end of an interval: the score by F as it was before, then F, then a new interval."""
        squares = self.path.get("squares", moved)
        torch._foreach_div_(squares, self.path.updates)
        self._cover(moved, dict(zip(moved, squares, strict=True)))  # F of a new weight begins as that of its first interval
        fisher = self.kept.get("fisher", moved)
        self._add_score(moved, self.config.damping, share=0.5)
        torch._foreach_lerp_(fisher, squares, self.config.fisher_decay)
        self.path.turn(moved)

    @torch.no_grad()
    def _add_score(self, moved: Mapping[str, Tensor], damping: float, share: float) -> None:
        """Add relu(integral) / (share * F * displacement^2 + damping)."""
        distance = torch._foreach_sub(list(moved.values()), self.path.get("start", moved))
        torch._foreach_mul_(distance, distance)
        torch._foreach_mul_(distance, self.kept.get("fisher", moved))
        torch._foreach_mul_(distance, share)
        torch._foreach_add_(distance, damping)
        saved = torch._foreach_clamp_min(self.path.get("integral", moved), 0.0)
        torch._foreach_addcdiv_(self.kept.get("new", moved), saved, distance)

    def _importance(self, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """F + s, each on its own scale."""
        total = {name: torch.zeros_like(p) for name, p in moved.items()}
        for part in ("fisher", "score"):
            values = self.kept.get(part, moved)
            scale = 1.0
            if not self.config.compat:
                whole = torch.cat([value.flatten() for value in values]).double()
                scale = max(float(whole.max() if self.config.normalise == "range" else whole.mean()), 1e-30)
            torch._foreach_add_(list(total.values()), torch._foreach_div(values, scale))
        return total

    def architecture(self) -> dict[str, Any]:
        parts = {"anchor": self.anchor, "path": self.path, "kept": self.kept}
        return super().architecture() | {name: part.architecture() for name, part in parts.items()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.anchor.rebuild(architecture["anchor"])
        self.path.rebuild(architecture["path"])
        self.kept.rebuild(architecture["kept"])
