"""Adapters: every shared weight is trained by the task that opened it; later tasks have a low-rank adapter on it instead, and
copies of biases and norms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Generator, Tensor, nn
from torch.nn import Parameter

from perdure.continual.lowrank import LowRankBank
from perdure.continual.task_copies import TaskCopies
from perdure.core.batch import Windows, average
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.core.policy import Policy

NOBODY = -1
"""Opener of weights that no task trains."""


@dataclass(frozen=True)
class AdapterOptions:
    """Which weights are adapted, and how."""

    rank: int
    alpha: float
    """The adapter B A is multiplied by alpha / rank."""
    layers: str
    """Patterns, separated by commas, of weight names or of one part of them."""
    norms: Literal["task", "frozen"] = "task"
    first: Literal["trunk", "adapter"] = "trunk"
    """What the first task trains."""
    together: bool = False
    """The first task trains an adapter beside the weights themselves."""
    origin: str = ""
    """Said in errors, where the layers are not the user's own."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise UsageError(f"method.rank is {self.rank} and method.alpha {self.alpha}; give a rank of 1 or more and an alpha"
                             " above 0")
        if not all(self.patterns()):
            raise UsageError(f"method.layers is {self.layers!r}; give patterns of weight names separated by commas")

    def patterns(self) -> list[str]:
        return [pattern.strip() for pattern in self.layers.split(",")]


class Adapters(nn.Module):
    """Adapters and small copies by task, over a policy's shared weights."""

    def __init__(self, options: AdapterOptions):
        super().__init__()
        self.options = options
        self.bank = LowRankBank()
        self.small = TaskCopies()  # biases and norms
        self.opener: dict[str, int] = {}
        """Shared weight -> the task that opened it, which alone trains it."""

    def start(self, policy: Policy) -> None:
        """Before the first task opens anything."""
        if not self.opener and self.options.first == "adapter":
            self.opener = dict.fromkeys(policy.shared(), NOBODY)

    def open(self, task: int, policy: Policy, g: Generator) -> None:
        """After the policy opened the task: what is new is the task's to train, all else gets its adapters and copies.

        Raises:
            UsageError: a pattern of `layers` names no weight; lists them.
        """
        together = self.options.together and not self.opener
        shared = policy.shared()
        for name in shared:
            self.opener.setdefault(name, task)
        frozen = {name: p for name, p in shared.items() if self.opener[name] != task}
        chosen = self._chosen(policy, shared)
        self.bank.open(task, {name: p for name, p in chosen.items() if name in frozen or together}, self.options.rank, g)
        if self.options.norms == "task":
            self.small.open(task, {name: p for name, p in frozen.items() if p.dim() == 1})

    def close(self, task: int) -> None:
        """Drop what the task has; the weights that it opened stay."""
        self.bank.close(task)
        if str(task) in self.small:
            del self.small[str(task)]

    def _chosen(self, policy: Policy, shared: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """The shared weights of linear maps and convolutions that `layers` names."""
        maps = (f"{name}.weight" for name, m in policy.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
        known = [name for name in maps if name in shared]
        chosen: set[str] = set()
        for pattern in self.options.patterns():
            found = [name for name in known if any(fnmatchcase(part, pattern) for part in (name, *name.split(".")))]
            if not found:
                raise UsageError(f"method.layers is {self.options.layers!r}{self.options.origin}, and {pattern!r} names no weight"
                                 f" of this policy; it has {', '.join(known)}")
            chosen.update(found)
        return {name: shared[name] for name in known if name in chosen}

    def base(self, task: int, policy: Policy) -> dict[str, Tensor]:
        """The shared weights that `task` does not train, cut off from gradients, and those under its adapter."""
        adapted = set(self.bank.names(task))
        return {name: p if self.opener[name] == task else p.detach() for name, p in policy.shared().items()
                if self.opener[name] != task or name in adapted}

    def seen(self, task: int, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that `task` sees where they are not the policy's own, from its `base`."""
        return {**base, **self.bank.view(task, base, self.options.alpha / self.options.rank), **self.small.of(task)}

    def view(self, task: int, policy: Policy) -> dict[str, Tensor]:
        """The weights that `task` acts with where they are not the policy's own."""
        return self.seen(task, {name: p.detach() for name, p in self.base(task, policy).items()})

    def trained(self, task: int, policy: Policy) -> dict[str, Parameter]:
        """What the task's optimizer moves."""
        opened = {name: p for name, p in policy.shared().items() if self.opener[name] == task}
        return opened | policy.private(task) | self.small.of(task) | self.bank.pairs(task)

    def architecture(self) -> dict[str, Any]:
        return {"bank": self.bank.architecture(), "small": self.small.architecture(), "opener": dict(self.opener)}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        self.bank.rebuild(architecture["bank"])
        self.small.rebuild(architecture["small"])
        self.opener = {name: int(task) for name, task in architecture["opener"].items()}


class AdapterTraining:
    """The updates of one task."""

    def __init__(self, method: Any, adapters: Adapters, access: Any, loss: Callable[..., Tensor], draw: Callable[[Step], Windows],
                 more: Callable[[], Mapping[str, Parameter]] = dict):
        """`loss(batch, weights=...)` is (B,), of what `draw` draws; `more` is trained besides the policy."""
        self.method, self.adapters, self.access, self.loss, self.draw, self.more = method, adapters, access, loss, draw, more
        self.base: dict[str, Tensor] | None = None
        """Follows from the openers; made when a process first needs it."""

    def begin(self) -> None:
        """Before the first update; the task is open."""
        self.method.optimizer("policy", self.adapters.trained(self.access.index, self.method.policy) | dict(self.more()))

    def update(self, step: Step) -> Mapping[str, Tensor]:
        """One update of all that the task trains."""
        t = self.access.index
        if self.base is None:
            self.base = self.adapters.base(t, self.method.policy)
        loss = average(self.loss, self.draw(step), weights=self.adapters.seen(t, self.base))
        return {"fit": self.method.descend("policy", loss)}
