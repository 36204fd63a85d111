"""Composition: what a task makes of the modules of earlier tasks, by one weight for each of them.

A module is the whole policy as one task left it (`Adapters` or `Shares`). Here are the weights that a task gives to earlier
modules, the mixture of their features that its own module reads, and the mixture of their actions that stands in for a module of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from perdure.core.batch import Windows
from perdure.core.policy import ActionDist, Weights
from perdure.policies.base import Inputs, TrunkPolicy

Features = Mapping[int, Tensor]
"""Task -> (B, L, D) that its module makes of a batch."""

SHARPNESS = 10.0
"""What multiplies the similarity of query and key before training: sentences about one task then weigh a few times more."""


class Attention(nn.Module):
    """How much a new task leans on each finished module, learned from its data; starts from the similarity of their vectors."""

    def __init__(self, size: int, width: int, g: Generator, kind: Literal["learned", "ones"] = "learned"):
        """Vectors of `size` numbers, compared in `width`. `ones`: all weights are one, as in the released code."""
        super().__init__()
        self.kind = kind
        self.query, self.key = (nn.Linear(size, width) for _ in range(2))
        self.sharpness = Parameter(torch.tensor(SHARPNESS).log(), requires_grad=kind == "learned")
        for linear in (self.query, self.key):
            nn.init.zeros_(linear.bias)
            nn.init.ones_(linear.weight)
        if kind == "learned":  # query and key alike, so that like vectors begin with the largest weight
            nn.init.orthogonal_(self.query.weight, generator=g)
            self.key.weight.data.copy_(self.query.weight.data)

    def forward(self, own: Tensor, others: Tensor) -> Tensor:
        """(S,) the task's vector, (M, S) those of the modules -> (M,) weights that add up to 1."""
        query, keys = self.query(own), self.key(others)
        if self.kind == "ones":
            return (keys @ query / len(query) ** 0.5).softmax(0)
        return (self.sharpness.exp() * F.cosine_similarity(keys, query.unsqueeze(0), dim=1)).softmax(0)


class Fusion(nn.Module):
    """Features of earlier modules and a task's own -> what its head reads."""

    def __init__(self, width: int):
        super().__init__()
        self.join = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        nn.init.orthogonal_(self.join.weight, gain=2**0.5)
        nn.init.zeros_(self.join.bias)

    def forward(self, earlier: Tensor, own: Tensor) -> Tensor:
        """(..., D), (..., D) -> (..., D)."""
        return self.norm(F.gelu(self.join(torch.cat([earlier, own], -1))))


class Composition(nn.Module):
    """Who has a module, and what everybody makes of those before. The same object says what the mixture is while it is learned,
    in the test whether it suffices, and in acting.
    """

    def __init__(self, join: Literal["fusion", "addition", "sharing"], hard: bool = False):
        """
        Args:
            join: earlier features are read through `Fusion`, added to the own ones, or not read at all.
            hard: a task without a module of its own acts as the one module that it leans on most.
        """
        super().__init__()
        self.join, self.hard = join, hard
        self.fusions = nn.ModuleDict()
        self.sources: dict[int, list[int]] = {}
        """Task -> the tasks before it that had a module when it began."""
        self.modules_of: list[int] = []
        """Tasks with a module of their own."""

    def open(self, task: int, vector: Tensor) -> None:
        """A task that leans on all modules so far, and what it means."""
        self._register(task, self.modules_before(task), len(vector))
        self.get_buffer(f"vector-{task}").copy_(vector)

    def _register(self, task: int, sources: list[int], size: int) -> None:
        self.sources[task] = sources
        self.register_buffer(f"vector-{task}", torch.zeros(size))
        self.register_buffer(f"weights-{task}", torch.zeros(len(sources)))

    def modules_before(self, task: int) -> list[int]:
        return [other for other in self.modules_of if other < task]

    def add_module_of(self, task: int, width: int) -> None:
        """The task has a module of its own, and what joins it to those before."""
        self.modules_of.append(task)
        if self.sources[task] and self.join == "fusion":
            self.fusions[str(task)] = Fusion(width)

    def drop_module_of(self, task: int) -> None:
        """The task acts with the modules before it alone."""
        self.modules_of.remove(task)
        if str(task) in self.fusions:
            del self.fusions[str(task)]

    def trained(self, task: int) -> dict[str, Parameter]:
        """What a task's module trains here."""
        return dict(self.fusions[str(task)].named_parameters(prefix="fusion")) if str(task) in self.fusions else {}

    def vector(self, task: int) -> Tensor:
        """(S,), what the task means."""
        return self.get_buffer(f"vector-{task}")

    def weights(self, task: int) -> Tensor:
        """(M,), one for each of the task's sources; they add up to 1."""
        return self.get_buffer(f"weights-{task}")

    def acting_weights(self, task: int) -> Tensor:
        """(M,), those that the task acts with, where it has no module of its own maybe one alone."""
        weights = self.weights(task)
        if self.hard and len(weights) and task not in self.modules_of:
            return F.one_hot(weights.argmax(), len(weights)).to(weights.dtype)
        return weights

    def set_weights(self, task: int, weights: Tensor) -> None:
        self.weights(task).copy_(weights.detach())

    def leans(self, task: int) -> bool:
        """Whether the task reads features of modules before its own."""
        return bool(self.sources[task]) and self.join != "sharing"

    def needed(self, task: int) -> list[int]:
        """The tasks whose modules are run for `task`, in order."""
        if task not in self.modules_of:
            return sorted({other for source in self._acting(task) for other in self.needed(source)})
        return [*(self.sources[task] if self.leans(task) else []), task]

    def _acting(self, task: int) -> list[int]:
        """The sources that a task without a module of its own acts as."""
        return [source for source, weight in zip(self.sources[task], self.acting_weights(task).tolist(), strict=True) if weight]

    def earlier(self, task: int, features: Features) -> Tensor:
        """(B, L, D): the mixture of the features of the modules before the task's own."""
        return torch.stack([features[source] for source in self.sources[task]], -1) @ self.weights(task)

    def distribution(self, policy: TrunkPolicy, task: int, features: Features, batch: Windows) -> ActionDist:
        """What the task does."""
        if task in self.modules_of:
            earlier = self.earlier(task, features) if self.leans(task) else None
            return self.joined(policy, task, earlier, features[task], batch)
        return self.mixture(policy, task, features, batch)

    def mixture(self, policy: TrunkPolicy, task: int, features: Features, batch: Windows) -> ActionDist:
        """What the task does without a module of its own."""
        weights, acting = self.acting_weights(task), self._acting(task)
        return mixed([self.distribution(policy, source, features, batch) for source in acting], weights[weights != 0])

    def parts(self, policy: TrunkPolicy, task: int, features: Features, batch: Windows) -> list[ActionDist]:
        """What each of the task's sources would do."""
        return [self.distribution(policy, source, features, batch) for source in self.sources[task]]

    def joined(self, policy: TrunkPolicy, task: int, earlier: Tensor | None, own: Tensor, batch: Windows) -> ActionDist:
        """What the task does with features of its own and, where it leans on others, of theirs."""
        if earlier is not None:
            own = self.fusions[str(task)](earlier, own) if self.join == "fusion" else earlier + own
        return policy.distribution(own, torch.full_like(batch.task, task), (task,))

    def architecture(self) -> dict[str, Any]:
        return {"sources": [[task, sources, len(self.vector(task))] for task, sources in self.sources.items()],
                "modules": list(self.modules_of),
                "fusions": {task: fusion.join.out_features for task, fusion in self.fusions.items()}}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        self.modules_of = [int(task) for task in architecture["modules"]]
        for task, sources, size in architecture["sources"]:
            self._register(int(task), [int(source) for source in sources], int(size))
        for task, width in architecture["fusions"].items():
            self.fusions[task] = Fusion(int(width))


def mixed(parts: Sequence[ActionDist], weights: Tensor) -> ActionDist:
    """The weighted mean of the parts' actions, with that of their logarithmic deviations, or of their probabilities."""

    def mean(values: list[Tensor | None]) -> Tensor:
        return torch.stack([v for v in values if v is not None], -1) @ weights

    if parts[0].logits is not None:
        likely = [None if part.logits is None else part.logits.softmax(-1) for part in parts]
        return ActionDist(logits=mean(likely).clamp_min(1e-12).log())
    return ActionDist(mean=mean([part.mean for part in parts]), log_std=mean([part.log_std for part in parts]))


class Reader(nn.Module):
    """A policy as a map from `Inputs` to features."""

    def __init__(self, policy: TrunkPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, inputs: Inputs) -> Tensor:
        return self.policy.features(inputs)


def features_of(policy: TrunkPolicy, inputs: Inputs, weights: Weights) -> Tensor:
    """(B, L, D) with `weights` in place of the policy's own."""
    return functional_call(Reader(policy), {f"policy.{name}": value for name, value in weights.items()}, (inputs,))


class Stack:
    """Several finished modules of one policy, evaluated in one pass. Made once; a pass copies no weight."""

    def __init__(self, policy: TrunkPolicy, views: Mapping[int, Weights]):
        """`views`: task -> the weights that it sees in place of the policy's own."""
        self.tasks = list(views)
        names = dict.fromkeys(name for view in views.values() for name in view)
        own = dict(policy.named_parameters())
        each = {name: [view.get(name, own[name]).detach() for view in views.values()] for name in names}
        alike = {name for name, values in each.items() if len({value.data_ptr() for value in values}) == 1}
        self.common = {name: each[name][0] for name in alike}
        self.varying = {name: torch.stack(values) for name, values in each.items() if name not in alike}

    @torch.no_grad()
    def features(self, policy: TrunkPolicy, inputs: Inputs) -> dict[int, Tensor]:
        """What each module makes of the inputs; without dropout."""
        if not self.tasks:
            return {}
        reader = Reader(policy)
        training = policy.training
        policy.eval()
        named = {f"policy.{name}": value for name, value in self.common.items()}
        varying = {f"policy.{name}": value for name, value in self.varying.items()}
        if varying:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels know no axis of modules
                made = torch.vmap(lambda one: functional_call(reader, named | one, (inputs,)))(varying)
            out = dict(zip(self.tasks, made.unbind(0), strict=True))
        else:
            one = functional_call(reader, named, (inputs,))
            out = dict.fromkeys(self.tasks, one)
        policy.train(training)
        return out
