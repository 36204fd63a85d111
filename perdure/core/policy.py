"""Policy and Actor: what learns from a batch and what acts.

Weights are an argument of the forward pass: `weights` maps full parameter names to tensors that stand in for the
policy's own, so a mask, an adapter or a posterior sample is a dict and nothing is swapped or overwritten.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter

from perdure.core.batch import Windows
from perdure.core.spec import Spec

Weights = Mapping[str, Tensor]
Carry = dict[str, Tensor]


M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Stats:
    """Statistics of a task's training split, stored with the policy that learns it."""

    mean: Tensor
    """(O,) float32; zeros for images."""
    std: Tensor
    """(O,) float32, floored so that a constant channel divides by 1."""
    return_scale: float
    """Environment units that one unit of the policy's return input stands for."""
    target_return: float
    """Environment units; 95 % quantile of the episode returns."""
    reward_scale: float = 1.0
    """Times the rewards, the returns of the data and 0 span as many units as the longest episode has steps."""


@dataclass(frozen=True)
class ActionDist:
    """A policy's output for every step of a batch: Gaussian (`mean`, `log_std`) or categorical (`logits`)."""

    mean: Tensor | None = None
    """(B, L, A) in [-1, 1]."""
    log_std: Tensor | None = None
    """(B, L, A); zeros for a unit-variance Gaussian."""
    logits: Tensor | None = None
    """(B, L, n)."""

    def negative_log_likelihood(self, action: Tensor) -> Tensor:
        """(B, L), without the constant; half the summed squared error when the variance is one."""
        if self.logits is not None:
            return F.cross_entropy(self.logits.flatten(0, 1), action.flatten(), reduction="none").view(action.shape)
        assert self.mean is not None and self.log_std is not None
        return (0.5 * ((action - self.mean) * (-self.log_std).exp()) ** 2 + self.log_std).sum(-1)

    def best(self) -> Tensor:
        """The most likely action: (B, L, A), or (B, L) int64."""
        return self.output() if self.logits is None else self.logits.argmax(-1)

    def error(self, action: Tensor) -> Tensor:
        """(B, L): mean squared error over action channels, or 0/1 for a wrong discrete action."""
        if self.logits is not None:
            return (self.best() != action).float()
        return (self.output() - action).square().mean(-1)

    def divergence(self, other: ActionDist) -> Tensor:
        """(B, L): Kullback-Leibler divergence KL(other || self), the cost of acting like self where other was right.

        For unit variances it is half the summed squared distance of the means, the scale of the likelihood.
        """
        if self.logits is not None:
            assert other.logits is not None
            target = other.logits.log_softmax(-1)
            return (target.exp() * (target - self.logits.log_softmax(-1))).sum(-1)
        assert self.mean is not None and self.log_std is not None and other.mean is not None and other.log_std is not None
        ratio = 2 * (other.log_std - self.log_std)
        distance = ((other.mean - self.mean) * (-self.log_std).exp()).square()
        return 0.5 * (ratio.exp() - 1 - ratio + distance).sum(-1)

    def output(self) -> Tensor:
        """What the network computed: the mean or the logits, (B, L, A) or (B, L, n)."""
        output = self.mean if self.logits is None else self.logits
        assert output is not None
        return output

    def _inverse_std(self) -> Tensor:
        assert self.log_std is not None
        return (-self.log_std.detach()).exp()

    def fisher_roots(self) -> Iterator[Tensor]:
        """Cotangents of `output` whose squared vector-Jacobian products sum exactly to the Fisher diagonal.

        Gaussian: e_d / sigma_d for each channel d (the Gauss-Newton diagonal). Categorical: sqrt(p_y) (e_y - p) for
        each action y, the exact expectation over the model's own actions.
        """
        p = None if self.logits is None else self.logits.detach().softmax(-1)
        for d in range(self.output().shape[-1]):
            one = torch.zeros_like(self.output())
            one[..., d] = 1
            yield one * self._inverse_std() if p is None else p[..., d : d + 1].sqrt() * (one - p)

    def random_root(self, g: Generator) -> Tensor:
        """One random cotangent whose squared products have the Fisher diagonal as their expectation."""
        if self.logits is None:
            signs = torch.randint(0, 2, self.output().shape, generator=g, device=self.output().device) * 2.0 - 1.0
            return signs * self._inverse_std()
        p = self.logits.detach().softmax(-1)
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=g).view(p.shape[:2])
        return F.one_hot(drawn, p.shape[-1]) - p

    def error_root(self, action: Tensor) -> Tensor:
        """Gradient of the negative log-likelihood of the logged actions by `output` (for the empirical Fisher)."""
        if self.logits is None:
            return (self.output().detach() - action) * self._inverse_std().square()
        return self.logits.detach().softmax(-1) - F.one_hot(action, self.logits.shape[-1])


class Actor(Protocol):
    """Acts with fixed weights; everything about the running episodes is in the carry."""

    def start(self, n: int) -> Carry:
        """The carry of n new episodes; every tensor has leading axis n."""
        ...

    def act(self, obs: Tensor, carry: Carry, g: Generator, reward: Tensor | None = None) -> tuple[Tensor, Carry]:
        """One action per row.

        obs (n, *O) raw; reward (n,) of the previous step in environment units, None where no reward is observed
        (the return target then stays). Returns (n, A) within the bounds, or (n,) int64, and the new carry.
        """
        ...


@dataclass(frozen=True)
class Stage:
    """A stretch of learning one task with a loss of its own; most policies have one."""

    name: str
    """Of the phase that it becomes."""
    share: float = 1.0
    """Of the updates that the method spends on a task."""
    loss: str = "loss"
    """Name of the policy's method that takes a batch and weights and gives (B,)."""
    begin: str = ""
    """Name of the policy's method to call before the first update; empty: none."""
    follows: bool = True
    """Whether `Policy.follow` is called after its updates."""
    sweep: bool = False
    """Instead of updates, one pass over the task's data in which nothing is trained (`Policy.sweep`)."""


class Policy(nn.Module, ABC):
    """A backbone that learns from windows of `context` steps and acts."""

    Config: ClassVar[type]
    staged: ClassVar[bool] = False
    """Learns in more ways than by `loss` alone: in several stages, or with parts that follow the trained ones. Only methods that
    attend to it can train it."""
    context: int
    """Steps of history that the policy looks at."""
    return_conditioned: ClassVar[bool] = False
    """The actor is asked for a task's own return, which is a use of the task id."""
    per_task: ClassVar[bool] = False
    """Has parts for every task that act, whatever its options, which is a use of the task id."""
    draws: ClassVar[bool] = False
    """Acts by drawing many candidates, so that the held-out action error is not measured: it would cost as much as acting."""
    once_per_sample: ClassVar[bool] = False
    """Every layer reads each sample once and is linear or a layer norm: importances then have an exact short form."""

    @abstractmethod
    def add_task(self, task: int, spec: Spec, stats: Stats) -> None:
        """Open the encoder, head and statistics of a task; called inside `rng.keyed`."""

    @abstractmethod
    def forward(self, batch: Windows) -> ActionDist:
        """Action distribution at every step of the batch, through each sample's own head and statistics."""

    @abstractmethod
    def actor(self, task: int | None, weights: Weights | None = None) -> Actor:
        """An actor for one task with `weights` folded in, once."""

    @abstractmethod
    def private(self, task: int) -> dict[str, Parameter]:
        """Parameters that only this task uses (its head), by full name."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """JSON from which `rebuild` makes the same modules."""

    @abstractmethod
    def rebuild(self, architecture: dict[str, Any]) -> None:
        """Make the modules of `architecture()`; their values come from the state dict."""

    def shared(self) -> dict[str, Parameter]:
        """Parameters that more than one task may use: what is protected against forgetting."""
        private = {name for task in self.tasks() for name in self.private(task)}
        return {name: p for name, p in self.named_parameters() if name not in private}

    @abstractmethod
    def tasks(self) -> list[int]:
        """Indices of the open tasks."""

    def teachers(self) -> dict[str, Parameter]:
        """Parameters that learning needs and acting does not, such as critics: trained, and by no method protected. They are
        neither in `shared` nor in `private`.
        """
        return {}

    def stages(self) -> list[Stage]:
        """How a task is learned, in order; follows from the config alone."""
        return [Stage("train")]

    def annotate(self, view: Any) -> None:
        """Put with a task's data what the losses need of it beyond windows; cheap where that is done."""

    def follow(self, weights: Weights | None = None) -> None:
        """After an update that trained `weights` in place of the parameters they name: move what follows them."""

    def sweep(self, view: Any, part: int, weights: Weights | None = None) -> None:
        """One part of a pass over a task's data."""
        raise NotImplementedError(f"{type(self).__name__} makes no passes over the data")

    def sweep_parts(self, view: Any) -> int:
        """Into how many parts such a pass is divided."""
        return 0

    def fisher(self, batch: Windows, parameters: Mapping[str, Tensor], g: Generator) -> dict[str, Tensor] | None:
        """Mean over a batch of one task of the squared gradients of each sample, by parameter name; None: of the action
        distribution, as for any policy that has one.
        """
        return None

    def close_task(self, task: int) -> None:
        """After the last stage: let go of what only learning the task needed."""

    def predict(self, batch: Windows, weights: Weights | None = None) -> ActionDist:
        """`forward`, with `weights` in place of the parameters they name."""
        if not weights:
            return self(batch)
        return functional_call(self, dict(weights), (batch,))

    def folded(self, weights: Weights | None) -> Self:
        """This policy with `weights` in place of the parameters they name, for acting: it shares all else, and a forward pass
        costs what one of the policy itself does, where `predict` swaps tensors every time."""
        return _twin(self, {name: tensor.detach() for name, tensor in weights.items()}) if weights else self

    def loss(self, batch: Windows, weights: Weights | None = None) -> Tensor:
        """(B,) negative log-likelihood of the logged actions, mean over valid steps."""
        return loss_of(self.predict(batch, weights), batch)


def loss_of(dist: ActionDist, batch: Windows) -> Tensor:
    """(B,) negative log-likelihood of the logged actions, mean over valid steps."""
    nll = dist.negative_log_likelihood(batch.action)
    return (nll * batch.valid).sum(-1) / batch.valid.sum(-1)


def _twin(module: M, weights: Weights, prefix: str = "") -> M:
    """A shallow copy of a module and all in it, with other parameters where `weights` names them."""
    twin = copy.copy(module)
    twin._parameters = {
        name: Parameter(weights[prefix + name], requires_grad=False) if prefix + name in weights else p
        for name, p in module._parameters.items()
    }
    twin._modules = {name: child if child is None else _twin(child, weights, f"{prefix}{name}.")
                     for name, child in module._modules.items()}
    return twin
