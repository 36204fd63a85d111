"""vcl: variational continual learning, a Gaussian posterior over every shared weight that is the prior of the next task.

Paper      Nguyen et al. 2018, ICLR (arXiv 1710.10628), mean-field Gaussian
Objective  E_q[L_t(theta)] + strength / n_t * KL(q_t || q_{t-1}) with n_t the training transitions of the task, so that 1 is the
           paper's bound; q = N(mean, exp(log variance)) per shared weight, one sample of all weights per update
Keeps      mean, log variance, and the previous mean and precision of each shared parameter (four times the trunk, constant in
           the number of tasks)
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    heads are point estimates; no KL on the first task (as in Continual World), where the paper has a prior N(0, 1) after
           a maximum-likelihood fit; one sample per batch, where the paper's code takes ten; acts with the means, where the paper
           averages predictions; no coresets; the recipe's weight decay acts on means and log variances. `compat`: as in the
           code released with CompoFormer, which has no posterior at all
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from perdure.continual.compat import refuse_replaced
from perdure.continual.masks import buffer_name
from perdure.continual.named_tensors import NamedTensors
from perdure.core.batch import average
from perdure.core.config import not_negative
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.task import Task


@dataclass(frozen=True)
class VCLConfig(MethodConfig):
    """Variational continual learning."""

    strength: float = 1.0
    """Weight of the divergence from the previous posterior; 1 is the bound of the paper."""
    log_variance: float = -6.0
    """Of every weight when it is made (as in the authors' code)."""
    compat: bool = False
    """As in the code released with CompoFormer: weights without variance, and the penalty strength * sum over weight tensors of
    KL(softmax(theta) || softmax(theta of the last task)), about strength / (2 n) times the squared distance for a tensor of n
    weights, which is next to nothing (there: strength 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")
        if not -80 <= self.log_variance <= 10:
            raise UsageError(f"method.log_variance is {self.log_variance}; give a number from -80 to 10")
        refuse_replaced(self, "log_variance")


@dataclass(frozen=True)
class Draw:
    """One sample of all shared weights, and what was added to the means."""

    weights: dict[str, Tensor]
    noise: dict[str, Tensor]


class VCL(Method):
    """Variational continual learning."""

    Config = VCLConfig
    tuned = "strength"
    grid = (0.01, 0.1, 1.0, 10.0, 100.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.log_variances = nn.ParameterDict()  # the means are the policy's own weights
        self.prior = NamedTensors()
        """`mean` and `precision` after the last task; a weight without a prior is not held."""

    def open_task(self, task: Task, access: Any) -> None:
        super().open_task(task, access)
        if not self.config.compat:
            for name, p in self.policy.shared().items():
                if buffer_name(name) not in self.log_variances:
                    self.log_variances[buffer_name(name)] = Parameter(torch.full_like(p.detach(), self.config.log_variance))

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            variances = {f"log variance of {name}": p for name, p in self.log_variances.items()}
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index) | variances)

        def train(step: Step) -> Mapping[str, Tensor]:
            shared, weight = self.policy.shared(), self.config.strength / access.current.sampler.count("train")
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            drawn = self._draw(shared, step.generator("weights", batch.obs.device))

            def reparametrise() -> None:
                self._hand_over(shared, drawn)
                self._add_divergence(shared, weight)

            loss = average(self.policy.loss, batch, weights=drawn.weights)
            return {"fit": self.descend("policy", loss, penalty=reparametrise)}

        def train_released(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch), penalty=self._add_released_divergence)}

        return [Phase("train", self.config.steps, train_released if self.config.compat else train, begin=start, end=self._renew)]

    def _variances(self, names: Mapping[str, Any]) -> list[Tensor]:
        return [self.log_variances[buffer_name(name)] for name in names]

    @torch.no_grad()
    def _draw(self, shared: Mapping[str, Parameter], g: Generator) -> Draw:
        """mean + deviation * noise, as leaves of the graph: `_hand_over` takes their gradients to the posterior."""
        sizes = [p.numel() for p in shared.values()]
        device = next(iter(shared.values())).device
        normal = torch.randn(sum(sizes), generator=g, device=device).split(sizes)
        noise = torch._foreach_exp(torch._foreach_mul(self._variances(shared), 0.5))
        torch._foreach_mul_(noise, [n.view_as(p) for n, p in zip(normal, shared.values(), strict=True)])
        weights = torch._foreach_add(list(shared.values()), noise)
        leaves = [w.requires_grad_() for w in weights]
        return Draw(dict(zip(shared, leaves, strict=True)), dict(zip(shared, noise, strict=True)))

    @torch.no_grad()
    def _hand_over(self, shared: Mapping[str, Parameter], drawn: Draw) -> None:
        """Gradients of means and log variances through theta = mean + exp(log variance / 2) * normal."""
        used = [name for name in shared if drawn.weights[name].grad is not None]
        gradients = [g for name in used if (g := drawn.weights[name].grad) is not None]
        of_variances = torch._foreach_mul(gradients, [drawn.noise[name] for name in used])
        torch._foreach_mul_(of_variances, 0.5)
        for name, gradient, of_variance in zip(used, gradients, of_variances, strict=True):
            shared[name].grad = gradient
            self.log_variances[buffer_name(name)].grad = of_variance

    @torch.no_grad()
    def _add_divergence(self, shared: Mapping[str, Parameter], weight: float) -> None:
        """Add the gradient of weight * KL(posterior || prior) to that of every weight that is in use and has a prior."""
        held = {name: shared[name] for name in self.prior.names("mean") if shared[name].grad is not None}
        if not held or weight == 0:
            return
        precision, variances = self.prior.get("precision", held), self._variances(held)
        gap = torch._foreach_sub(list(held.values()), self.prior.get("mean", held))
        torch._foreach_mul_(gap, precision)
        torch._foreach_add_([p.grad for p in held.values() if p.grad is not None], gap, alpha=weight)
        ratio = torch._foreach_mul(torch._foreach_exp(variances), precision)
        torch._foreach_sub_(ratio, 1.0)
        torch._foreach_add_([v.grad for v in variances if v.grad is not None], ratio, alpha=0.5 * weight)

    def divergence(self) -> Tensor:
        """KL(posterior || prior), summed over the weights that have a prior; the reference of `_add_divergence`."""
        shared, names = self.policy.shared(), self.prior.names("mean")
        terms = [torch.zeros(())]
        parts = zip(names, self._variances(dict.fromkeys(names)), self.prior.get("mean", names),
                    self.prior.get("precision", names), strict=True)
        for name, v, mean, precision in parts:
            terms.append(0.5 * ((v.exp() + (shared[name] - mean).square()) * precision - 1 - v - precision.log()).sum())
        return torch.stack(terms).sum()

    def _add_released_divergence(self) -> None:
        """Add the gradient of strength * sum over tensors of KL(softmax(theta) || softmax(theta*))."""
        held = {name: p for name, p in self.policy.shared().items() if p.grad is not None and name in self.prior.names("mean")}
        if not held or self.config.strength == 0:
            return
        terms = []
        for p, old in zip(held.values(), self.prior.get("mean", held), strict=True):
            new, last = p.flatten().softmax(0) + 1e-10, old.flatten().softmax(0) + 1e-10  # as in that code
            terms.append((new * (new / last).log()).sum())
        (self.config.strength * torch.stack(terms).sum()).backward()

    def _renew(self) -> None:
        """The posterior becomes the prior of the next task."""
        shared = self.policy.shared()
        self.prior.put("mean", shared)
        if not self.config.compat:
            self.prior.put("precision", {n: (-v.detach()).exp() for n, v in zip(shared, self._variances(shared), strict=True)})

    def architecture(self) -> dict[str, Any]:
        shapes = {name: list(p.shape) for name, p in self.log_variances.items()}
        return super().architecture() | {"log_variances": shapes, "prior": self.prior.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        for name, shape in architecture["log_variances"].items():
            self.log_variances[name] = Parameter(torch.zeros(shape))
        self.prior.rebuild(architecture["prior"])
