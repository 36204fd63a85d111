"""What behaviour cloning and the Decision Transformer share: encoders, heads and statistics of open tasks."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.core.batch import Windows
from perdure.core.config import check_choices
from perdure.core.errors import UsageError
from perdure.core.policy import ActionDist, Policy, Stats
from perdure.core.spec import Discrete, Spec
from perdure.nets.encoders import encoder
from perdure.nets.heads import HeadBank, Normalizer


@dataclass(frozen=True)
class PolicyConfig:
    """Options that every policy shares."""

    heads: Literal["task", "single"] = "task"
    """`task`: an output head per task (uses the task id); `single`: one head for all tasks of equal action space."""
    normaliser: Literal["task", "first"] = "task"
    """`task`: each task's own observation statistics (uses the task id); `first`: those of the first such space."""
    std: Literal["fixed", "learned"] = "fixed"
    """Of continuous actions: `fixed` unit variance (half the squared error) or `learned` per head and channel."""

    def __post_init__(self) -> None:
        check_choices(self, "policy")


@dataclass(frozen=True)
class Inputs:
    """What a trunk reads of a batch, with observations and returns on the scale of each sample's own task."""

    obs: Tensor
    """(B, L, *O) normalised, or uint8 images."""
    spec: Spec
    """Spaces of the batch: they choose the encoders."""
    action: Tensor | None = None
    """(B, L, A) or (B, L); None where the trunk does not read actions."""
    returns: Tensor | None = None
    """(B, L) in units of the return scale."""
    timestep: Tensor | None = None
    """(B, L)."""
    encoded: Tensor | None = None
    """(B, L, D) what the encoder makes of `obs`, where that is known already."""


class TaskPolicy(Policy):
    """Spaces, normalisers and return targets of open tasks."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.normalizer = Normalizer()
        self.specs: dict[int, Spec] = {}
        self.opened: list[dict[str, Any]] = []

    def add_task(self, task: int, spec: Spec, stats: Stats) -> None:
        self._open(task, spec)
        self.set_statistics(task, stats)

    def set_statistics(self, task: int, stats: Stats) -> None:
        """Put an open task on the scale of these statistics."""
        if self._statistics_of(task) == task:
            self.normalizer.get_buffer(f"mean_{task}").copy_(stats.mean)
            self.normalizer.get_buffer(f"std_{task}").copy_(stats.std)
        self.get_buffer(f"returns_{task}").copy_(torch.tensor([stats.return_scale, stats.target_return]))

    def statistics(self, task: int) -> Stats:
        """Those that an open task is on the scale of."""
        source = self._statistics_of(task)
        scale, target = self.get_buffer(f"returns_{task}").tolist()
        return Stats(self.normalizer.get_buffer(f"mean_{source}"), self.normalizer.get_buffer(f"std_{source}"), scale, target)

    def _open(self, task: int, spec: Spec) -> None:
        """Make the modules of a task; `rebuild` does the same from the recorded spec."""
        if task in self.specs:
            raise UsageError(f"task {task} is open already; a policy opens each task once")
        self.specs[task] = spec
        self.opened.append({"task": task, "spec": spec.to_json()})
        if self._statistics_of(task) == task:
            self.normalizer.add(task, torch.zeros(spec.obs.size), torch.ones(spec.obs.size))
        self.register_buffer(f"returns_{task}", torch.tensor([1.0, 0.0]))

    def _statistics_of(self, task: int) -> int:
        """The task whose observation statistics this task uses."""
        if self.config.normaliser == "task":
            return task
        return next(t for t, spec in self.specs.items() if spec.obs_key == self.specs[task].obs_key)

    def _normalised(self, obs: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        if not self.specs.keys() >= set(tasks):
            raise UsageError(f"task {min(set(tasks) - self.specs.keys())} is not open in the policy; a method calls"
                             " self.open_task(task, access) in the `begin` of its first phase")
        if self.config.normaliser == "task":
            return self.normalizer(obs, task, tasks)
        return self.normalizer(obs, task, (self._statistics_of(tasks[0]),))

    def tasks(self) -> list[int]:
        return list(self.specs)

    def architecture(self) -> dict[str, Any]:
        return {"opened": [dict(entry) for entry in self.opened]}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        for entry in architecture["opened"]:
            self._open(int(entry["task"]), Spec.from_json(entry["spec"]))

    def return_scale(self, task: int) -> float:
        return float(self.get_buffer(f"returns_{task}")[0])

    def target_return(self, task: int) -> float:
        return float(self.get_buffer(f"returns_{task}")[1])


class TrunkPolicy(TaskPolicy):
    """A shared trunk with an encoder per observation space and heads, normalisers and return targets per task.

    A forward pass has three parts that methods may also call alone: `inputs` puts a batch on the scale of its tasks,
    `hidden` runs the trunk, and `distribution` reads its features through the heads.
    """

    composed: Callable[[TrunkPolicy, Windows], ActionDist] | None
    """What `forward` answers with in place of its own trunk and heads (see `composing`); None: nothing does."""
    side: nn.Module | None
    """A module that maps `Inputs` to what is added inside the trunk (see `hidden`); None: nothing is."""

    def __init__(self, config: Any, width: int):
        super().__init__(config)
        self.side = self.composed = None
        self.width = width
        self.encoders = nn.ModuleDict()
        self.bank = HeadBank(width)
        self.log_stds = nn.ParameterDict()

    def _open(self, task: int, spec: Spec) -> None:
        super()._open(task, spec)
        if spec.obs_key not in self.encoders:
            self.encoders[spec.obs_key] = encoder(spec.obs, self.width)
        name = f"task-{task}" if self.config.heads == "task" else f"all-{spec.action_key}"
        size = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
        self.bank.add(task, name, size)
        if self.config.std == "learned" and not spec.discrete and name not in self.log_stds:
            self.log_stds[name] = Parameter(torch.full((size,), -0.5))

    @abstractmethod
    def inputs(self, batch: Windows) -> Inputs:
        """What the trunk reads of the batch."""

    @abstractmethod
    def hidden(self, inputs: Inputs, lateral: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The output of every layer of the trunk, in order, the features (B, L, D) last; of tokens that no later layer computes
        anything for, nothing.

        `lateral[i]`, of the shape of output i, is added to what layer i + 1 computes, before its activation; the last one
        is added to the features.
        """

    @abstractmethod
    def hidden_widths(self) -> list[int]:
        """Size of the last axis of every output of `hidden`."""

    def features(self, inputs: Inputs) -> Tensor:
        """(B, L, D), what the heads read."""
        return self.hidden(inputs, None if self.side is None else self.side(inputs))[-1]

    def forward(self, batch: Windows) -> ActionDist:
        if self.composed is not None:
            return self.composed(self, batch)
        return self.distribution(self.features(self.inputs(batch)), batch.task, batch.tasks)

    def composing(self, composed: Callable[[TrunkPolicy, Windows], ActionDist]) -> Self:
        """This policy, sharing all it has, with `composed(policy, batch)` as its forward pass."""
        twin = copy.copy(self)
        twin.composed = composed
        return twin

    def distribution(self, features: Tensor, task: Tensor, tasks: tuple[int, ...]) -> ActionDist:
        """(B, L, D) features -> action distribution through each sample's head."""
        raw = self.bank(features, task, tasks)
        if self.specs[tasks[0]].discrete:
            return ActionDist(logits=raw)
        mean = torch.tanh(raw)
        if self.config.std == "fixed":
            return ActionDist(mean=mean, log_std=torch.zeros_like(mean))
        log_std = torch.stack([self.log_stds[self.bank.of_task[t]] for t in tasks])
        row = (task.unsqueeze(1) == torch.tensor(tasks, device=task.device)).float()  # (B, K)
        per_sample = (row @ log_std).clamp(-5, 2)  # (B, A)
        return ActionDist(mean=mean, log_std=per_sample.unsqueeze(1).expand_as(mean))

    def shared(self) -> dict[str, Parameter]:
        """All but the heads of single tasks; in one pass, since methods ask for it at every step."""
        return {name: p for name, p in self.named_parameters() if not name.startswith(("bank.heads.task-", "log_stds.task-"))}

    def private(self, task: int) -> dict[str, Parameter]:
        name = self.bank.own(task)
        if name is None:
            return {}
        # looked up, not searched for among all parameters: methods ask for every task in each update
        head = {f"bank.heads.{name}.{part}": p for part, p in self.bank.heads[name].named_parameters()}
        return head | ({f"log_stds.{name}": self.log_stds[name]} if name in self.log_stds else {})
