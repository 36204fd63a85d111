"""SubnetworkPool: the subnetwork of every task in one of several copies of a policy's weights, and what a task has to itself.

Copy 0 are the policy's own weights. A weight that a finished task of a copy has chosen never changes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import buffer_name
from perdure.continual.packing import Packed, save_packed, unused_values
from perdure.continual.sharing import WeightSharing
from perdure.continual.subnetworks import Masks, ScoreMasks
from perdure.continual.task_copies import TaskCopies
from perdure.core.batch import Windows
from perdure.core.policy import Policy, Weights

TIME_TABLE = "embed_time"
"""Embeddings of time steps, which are never masked: every task reads all of them."""


class SubnetworkPool(nn.Module):
    """Masks, code books, copies of weights and tensors per task."""

    def __init__(self, method: Any):
        super().__init__()
        self.masks = ScoreMasks()
        self.books = WeightSharing()
        self.small = TaskCopies()
        self.copies = nn.ModuleList()
        self.copy_of: dict[int, int] = {}
        self.fixed: dict[int, dict[str, int]] = {}
        """Copy -> tensor that its tasks share unmasked -> the task that trained it."""
        save_packed(method, self, self._layout)

    # -- while a task is learned ----------------------------------------------------------------------------

    def open(
        self, task: int, copy: int, masked: Mapping[str, Tensor], own: Mapping[str, Tensor], fixed: Mapping[str, Tensor],
        seed: int,
    ) -> None:
        """Give the task a place in a copy, made anew if it does not exist.

        Args:
            masked: the policy's parameters that the task is to have a mask of.
            own: initial values of what it has to itself.
            fixed: initial values of what the tasks of a copy share unmasked; the first of them trains it.
        """
        if copy > len(self.copies):
            self.copies.append(nn.ParameterDict())
        for name, p in masked.items() if copy else ():
            if buffer_name(name) not in self._copy(copy):
                values = unused_values(seed, _key(copy, name), p.shape).to(p.device)
                self._copy(copy)[buffer_name(name)] = Parameter(values)
        readers = self.fixed.setdefault(copy, {})
        for name, value in fixed.items():
            if name not in readers and copy:
                self._copy(copy)[buffer_name(name)] = Parameter(value.detach().clone())
            readers.setdefault(name, task)
        self.copy_of[task] = copy
        self.small.open(task, own)

    def weights(self, policy: Policy, task: int) -> dict[str, Parameter]:
        """The whole tensors that the task's mask chooses from."""
        copy, names = self.copy_of[task], self._names(task)
        if copy:
            return {name: self._copy(copy)[buffer_name(name)] for name in names}
        shared = policy.shared()
        return {name: shared[name] for name in names}

    def _copy(self, copy: int) -> nn.ParameterDict:
        return cast(nn.ParameterDict, self.copies[copy - 1])

    def keep(self, task: int, frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`frozen` by the full names of the method's parameters, for `Method.descend`."""
        return {_key(self.copy_of[task], name): mask.float() for name, mask in frozen.items()}

    def _names(self, task: int) -> list[str]:
        return self.masks.names.get(task) or list(self.masks.counts)

    def unmasked(self, policy: Policy, task: int) -> dict[str, Parameter]:
        """What the task shares unmasked with the others of its copy."""
        copy, shared = self.copy_of[task], policy.shared()
        return {name: self._copy(copy)[buffer_name(name)] if copy else shared[name] for name in self.fixed.get(copy, {})}

    def trained_unmasked(self, policy: Policy, task: int) -> dict[str, Parameter]:
        """Of that, what the task is the first to read."""
        readers = self.fixed.get(self.copy_of[task], {})
        return {name: p for name, p in self.unmasked(policy, task).items() if readers[name] == task}

    def members(self, copy: int) -> list[int]:
        """Tasks with a finished mask in a copy."""
        return [task for task in self.masks.finished() if self.copy_of[task] == copy]

    def occupied(self, copy: int, before: int | None = None) -> Masks:
        """Weights of a copy that finished tasks use; only those before `before` if given."""
        return self.masks.occupied(t for t in self.members(copy) if before is None or t < before)

    def added(self, task: int) -> Masks:
        """Weights that a finished task was the first to choose."""
        before = self.occupied(self.copy_of[task], before=task)
        return {name: mask & ~before[name] if name in before else mask for name, mask in self.masks.mask(task).items()}

    def finish(self, task: int, policy: Policy, chosen: Masks, seed: int) -> None:
        """Keep the task's mask. What no task of its copy has chosen starts anew, so that it need not be saved."""
        self.masks.close(task, chosen)
        copy, weights = self.copy_of[task], self.weights(policy, task)
        used = self.occupied(copy)
        with torch.no_grad():
            for name, p in weights.items():
                fresh = unused_values(seed, _key(copy, name), p.shape).to(p.device)
                p.copy_(torch.where(used[name], p, fresh))

    # -- weight sharing -------------------------------------------------------------------------------------

    def cluster(self, task: int, policy: Policy, clusters: int) -> None:
        """Let the weights that a finished task added take few values."""
        weights = self.weights(policy, task)
        self.books.open({n: weights[n][new] for n, new in self.added(task).items() if bool(new.any())}, clusters)

    def clustered(self, weights: Mapping[str, Tensor], added: Mapping[str, Tensor], mask: Masks) -> dict[str, Tensor]:
        """The task's view with gradients for the centroids."""
        full = {name: weights[name].detach() for name in mask}
        for name in self.books.codes:
            full[name] = full[name].masked_scatter(added[name], self.books.values(name))
        return {name: value * mask[name] for name, value in full.items()}

    def write(self, weights: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> None:
        """Put the present values of the centroids into the weights."""
        with torch.no_grad():
            for name in self.books.codes:
                weights[name][added[name]] = self.books.values(name)

    # -- acting ---------------------------------------------------------------------------------------------

    def view(self, policy: Policy, task: int, taken: Masks) -> Weights:
        """What the task acts with; `taken` are weights that it may not choose while it is learned."""
        if task not in self.copy_of:
            return {}  # a task that is not learned yet acts with all weights
        mask = self.masks.mask(task) if task in self.masks.finished() else self.masks.choose(taken)
        weights = self.weights(policy, task)
        masked = {name: weights[name].detach() * part for name, part in mask.items()}
        return masked | self.unmasked(policy, task) | self.small.of(task)

    def unused(self, policy: Policy) -> int:
        """Parameters that no finished task acts with: free weights, and tensors of which every task has a copy."""
        shared = policy.shared()
        replaced = {name for task in self.copy_of for name in self.small.of(task)}
        count = sum(p.numel() for name, p in shared.items() if name in replaced)
        occupied = {copy: self.occupied(copy) for copy in range(len(self.copies) + 1)}
        count += sum(mask.numel() - int(mask.sum()) for masks in occupied.values() for mask in masks.values())
        elsewhere = {name for masks in occupied.values() for name in masks} - occupied[0].keys()
        return count + sum(shared[name].numel() for name in elsewhere)

    # -- saving ---------------------------------------------------------------------------------------------

    def _layout(self) -> list[Packed]:
        """Every masked tensor of every copy, between tasks."""
        if self.masks.scores or self.books.codes:
            return []
        copies = range(len(self.copies) + 1)
        members = {copy: self.members(copy) for copy in copies}
        names = {copy: dict.fromkeys(n for task in members[copy] for n in self.masks.names[task]) for copy in copies}
        return [Packed(_key(copy, name), name, members[copy]) for copy in copies for name in names[copy]]

    def architecture(self) -> dict[str, Any]:
        return {
            "masks": self.masks.architecture(), "books": self.books.architecture(), "small": self.small.architecture(),
            "copies": [{name: list(p.shape) for name, p in copy.items()} for copy in self.copies],
            "copy_of": [[task, copy] for task, copy in self.copy_of.items()],
            "fixed": [[copy, readers] for copy, readers in self.fixed.items()],
        }  # fmt: skip

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        self.masks.rebuild(architecture["masks"])
        self.books.rebuild(architecture["books"])
        self.small.rebuild(architecture["small"])
        for shapes in architecture["copies"]:
            self.copies.append(nn.ParameterDict())
            for name, shape in shapes.items():  # one by one: a whole dict would be sorted
                self._copy(len(self.copies))[name] = Parameter(torch.zeros(shape))
        self.copy_of = {int(task): int(copy) for task, copy in architecture["copy_of"]}
        self.fixed = {int(copy): {name: int(task) for name, task in readers.items()} for copy, readers in architecture["fixed"]}


def _key(copy: int, name: str) -> str:
    """Full name of a weight tensor among the method's parameters."""
    return f"pool.copies.{copy - 1}.{buffer_name(name)}" if copy else f"policy.{name}"


# -- which parameters are what ------------------------------------------------------------------------------


def used(policy: Policy, batch: Windows) -> dict[str, Parameter]:
    """The shared parameters that the loss of the batch's task depends on: not the encoders of other spaces."""
    shared = policy.shared()
    gradients = torch.autograd.grad(policy.loss(batch).sum(), list(shared.values()), allow_unused=True)
    return {name: p for (name, p), gradient in zip(shared.items(), gradients, strict=True) if gradient is not None}


def maskable(policy: Policy, parameters: Mapping[str, Parameter], biases: bool) -> dict[str, Parameter]:
    """Of these, the weights of linear maps, convolutions and embeddings, and their biases if wanted."""
    kinds, parts = (nn.Linear, nn.Conv2d, nn.Embedding), ("weight", "bias") if biases else ("weight",)
    names = {f"{name}.{part}" for name, m in policy.named_modules() if isinstance(m, kinds) and name != TIME_TABLE
             for part in parts}
    return {name: p for name, p in parameters.items() if name in names}


def biases_of(policy: Policy, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Of these, the biases of linear maps and convolutions."""
    names = {f"{name}.bias" for name, m in policy.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return {name: p for name, p in parameters.items() if name in names}
