"""Shares: every weight belongs to one task at most; a task prunes the free ones to a share of its own, which later tasks read and
never change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import MaskSet
from perdure.continual.task_copies import TaskCopies
from perdure.core.batch import Windows, average
from perdure.core.config import check_choices
from perdure.core.errors import GuardError, UsageError
from perdure.core.method import Step
from perdure.core.policy import Policy


@dataclass(frozen=True)
class ShareOptions:
    """What a task keeps."""

    share: Literal["equal", "geometric"]
    """`equal`: 1/N of every tensor per task; `geometric`: `keep_ratio` of what is free."""
    keep_ratio: float
    norms: Literal["task", "frozen", "masked"]
    """Biases and norms: a copy per task, frozen after the first task, or shared out like all other weights."""
    together: bool = False
    """All tensors are pruned together, the last task takes all that is left, and nobody trains embeddings."""

    def __post_init__(self) -> None:
        check_choices(self, "method")
        if not 0 < self.keep_ratio < 1:
            raise UsageError(f"method.keep_ratio is {self.keep_ratio}; give a share between 0 and 1")

    @property
    def counts(self) -> bool:
        """Whether the number of tasks must be known."""
        return self.share == "equal" or self.together


class Shares(nn.Module):
    """Owners of a policy's shared weights, and copies of biases and norms by task."""

    def __init__(self, options: ShareOptions):
        super().__init__()
        self.options = options
        self.masks = MaskSet()
        self.small = TaskCopies()  # biases and norms

    def masked(self, policy: Policy) -> dict[str, Parameter]:
        """What tasks own shares of: matrices, and all that is shared but embeddings when biases and norms are masked too."""
        everything, fixed = self.options.norms == "masked", self.fixed(policy)
        return {name: p for name, p in policy.shared().items() if (everything or p.dim() > 1) and name not in fixed}

    def vectors(self, policy: Policy) -> dict[str, Parameter]:
        """Biases and norms, where they are not masked."""
        return {} if self.options.norms == "masked" else {n: p for n, p in policy.shared().items() if p.dim() == 1}

    def fixed(self, policy: Policy) -> dict[str, Tensor]:
        """What nobody trains: embeddings, where all tensors are pruned together."""
        modules = policy.named_modules() if self.options.together else ()
        return {f"{name}.weight": m.weight.detach() for name, m in modules if isinstance(m, nn.Embedding)}

    def open(self, task: int, policy: Policy) -> None:
        """After the policy opened the task."""
        self.masks.cover(self.masked(policy))
        if self.options.norms == "task":
            before = self.small.of(max((int(other) for other in self.small), default=-1))
            self.small.open(task, {name: before.get(name, p) for name, p in self.vectors(policy).items()})

    def close(self, task: int, policy: Policy) -> None:
        """Drop what the task has, if it claimed nothing yet: free weights are zero again, as after a claim."""
        self.masks.clear(self.masked(policy))
        if str(task) in self.small:
            del self.small[str(task)]

    def trained(self, task: int, policy: Policy) -> dict[str, Parameter]:
        """What the task's optimizer moves."""
        small = self.small.of(task) if self.options.norms == "task" else self.vectors(policy)
        return self.masked(policy) | policy.private(task) | policy.teachers() | small

    def frozen(self, task: int, policy: Policy, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`keep` masks by the method's parameter names; with frozen norms, also all vectors after the first task."""
        keep = {f"policy.{name}": mask.float() for name, mask in masks.items()}
        if self.options.norms == "frozen" and task > 0:
            keep |= {f"policy.{name}": torch.ones_like(p.detach()) for name, p in self.vectors(policy).items()}
        return keep

    def claim(self, task: int, policy: Policy, count: int) -> None:
        """Give the task its share of the free weights, the largest of them; the others become zero.

        Args:
            count: number of tasks in the stream, where it must be known.

        Raises:
            GuardError: no weight is left.
        """
        self.masks.claim(self.masked(policy), task, self._quota(task, policy, count))

    def _quota(self, task: int, policy: Policy, count: int) -> dict[str, int]:
        """Weights of each tensor for this task. Equal shares are 1/(N-t) of what is free, so the last task leaves none."""
        if self.options.together:
            return self._together(task, policy, count)
        free = {name: self.masks.counts(name)[0] for name in self.masks.shapes}
        if self.options.share == "equal":
            return {name: n // (count - task) for name, n in free.items()}
        return {name: max(1, round(self.options.keep_ratio * n)) for name, n in free.items()}

    def _together(self, task: int, policy: Policy, count: int) -> dict[str, int]:
        """Weights of each tensor where all tensors are pruned together; the last task takes all that is left."""
        free = self.masks.free()
        if not free:
            raise GuardError(f"task {task + 1} finds no free weight: the capacity is exhausted; use a wider policy or fewer"
                             " tasks")
        wanted = free if task == count - 1 else max(1, round(self.options.keep_ratio * free))
        return self.masks.share_out(self.masked(policy), wanted)

    def view(self, task: int, policy: Policy) -> dict[str, Tensor]:
        """The weights that `task` acts with where they are not the policy's own: its own and earlier tasks' shares, zero
        elsewhere, and its biases and norms. Before pruning it acts with all weights, as it trains.
        """
        if not (self.masks.shapes and self.masks.claimed(task)):
            return dict(self.small.of(task))
        shared = policy.shared()
        masked = {name: shared[name] * mask for name, mask in self.masks.visible(task).items()}
        return masked | self.small.of(task)

    def unused(self, policy: Policy) -> int:
        """Parameters that no task acts with."""
        replaced = sum(p.numel() for p in self.vectors(policy).values()) if self.options.norms == "task" else 0
        return self.masks.free() + replaced

    def architecture(self) -> dict[str, Any]:
        return {"masks": self.masks.architecture(), "small": self.small.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        self.masks.rebuild(architecture["masks"])
        self.small.rebuild(architecture["small"])


Loss = Callable[..., Tensor]


class ShareTraining:
    """The updates of one task: on all free weights, then on its own share alone."""

    def __init__(self, method: Any, shares: Shares, access: Any, loss: Loss, draw: Callable[[Step], Windows],
                 more: Callable[[], Mapping[str, Parameter]] = dict):
        """`loss(batch, weights=...)` is (B,), of what `draw` draws; `more` is trained besides the policy."""
        self.method, self.shares, self.access, self.loss, self.draw, self.more = method, shares, access, loss, draw, more
        # both follow from the owner map and are made when a process first needs them
        self.kept: dict[str, Tensor] = {}
        self.seen: list[tuple[Parameter, Tensor]] = []

    def begin(self) -> None:
        """Before the first update; the task is open."""
        self.method.optimizer("policy", self.shares.trained(self.access.index, self.method.policy) | dict(self.more()))

    def update(self, step: Step, loss: Loss | None = None) -> Mapping[str, Tensor]:
        """One update of all free weights, with another loss if one is given."""
        t = self.access.index
        if not self.kept:
            self.kept = self.shares.frozen(t, self.method.policy, self.shares.masks.owned(before=t))
        return self._update(step, loss, None)

    def prune(self) -> None:
        """Claim the task's share."""
        count = self.access.task_count() if self.shares.options.counts else 0
        self.shares.claim(self.access.index, self.method.policy, count)
        self.begin()
        self.kept = {}

    def retrain(self, step: Step, loss: Loss | None = None) -> Mapping[str, Tensor]:
        """One update of the task's own share, with another loss if one is given."""
        t = self.access.index
        if not self.kept:
            self.kept = self.shares.frozen(t, self.method.policy, self.shares.masks.all_but(t))
            masked = self.shares.masked(self.method.policy)
            self.seen = [(masked[name], mask.float()) for name, mask in self.shares.masks.visible(t).items()]
        return self._update(step, loss, self._mask_gradients)

    def _mask_gradients(self) -> None:
        """Free weights are zero while retraining, so this is training the view, without building it."""
        for p, mask in self.seen:
            if p.grad is not None:
                p.grad.mul_(mask)

    def weights(self) -> dict[str, Tensor]:
        """What stands in for the policy's own parameters while the task is learned."""
        return {**self.shares.small.of(self.access.index), **self.shares.fixed(self.method.policy)}

    def _update(self, step: Step, loss: Loss | None, edit: Callable[[], None] | None) -> Mapping[str, Tensor]:
        fit = average(loss or self.loss, self.draw(step), weights=self.weights())
        return {"fit": self.method.descend("policy", fit, edit=edit, keep=self.kept)}
