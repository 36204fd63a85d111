"""MaskSet: which task owns which weight, the weight view a task sees, and claims after pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perdure.core.errors import GuardError

FREE = 0
"""Owner of a weight that no task owns; task t is stored as t + 1."""


def buffer_name(parameter: str) -> str:
    """Buffer names may not contain dots."""
    return parameter.replace(".", "/")


class MaskSet(nn.Module):
    """An owner map (int16) per masked parameter. Frozen means owned by an earlier task."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def cover(self, parameters: Mapping[str, Tensor]) -> None:
        """Start masking these parameters, all free; those that are covered already stay as they are."""
        for name, value in parameters.items():
            if name not in self.shapes:
                self._register(name, tuple(value.shape), value.device)

    def _register(self, name: str, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.shapes[name] = shape
        self.register_buffer(buffer_name(name), torch.zeros(shape, dtype=torch.int16, device=device))

    def owner(self, name: str) -> Tensor:
        """Owner map of a parameter."""
        return self.get_buffer(buffer_name(name))

    def claimed(self, task: int) -> bool:
        """Whether the task has claimed its weights."""
        return any(bool((self.owner(name) == task + 1).any()) for name in self.shapes)

    def owned(self, before: int) -> dict[str, Tensor]:
        """Bool masks of the weights that tasks before `before` own."""
        return {name: (self.owner(name) > FREE) & (self.owner(name) <= before) for name in self.shapes}

    def all_but(self, task: int) -> dict[str, Tensor]:
        """Bool masks of every weight that `task` does not own."""
        return {name: self.owner(name) != task + 1 for name in self.shapes}

    def visible(self, task: int) -> dict[str, Tensor]:
        """Bool masks of the weights that `task` and the tasks before it own."""
        return self.owned(before=task + 1)

    def claim(self, parameters: Mapping[str, Tensor], task: int, quota: Mapping[str, int]) -> None:
        """Give `task` the `quota` largest free weights of each parameter and set the other free ones to zero.

        Raises:
            GuardError: a parameter has no free weight left for the task; names both.
        """
        for name in self.shapes:
            owner, weight = self.owner(name), parameters[name].detach()
            free = owner == FREE
            count = min(quota[name], int(free.sum()))
            if count < min(1, quota[name]):
                raise GuardError(f"task {task + 1} finds no free weight in {name}: the capacity is exhausted; use a wider policy,"
                                 " a smaller share per task, or fewer tasks")
            size = torch.where(free, weight.abs(), torch.full_like(weight, -1.0)).flatten()
            owner.view(-1)[size.topk(count).indices] = task + 1
            weight.masked_fill_(owner == FREE, 0.0)

    def clear(self, parameters: Mapping[str, Tensor]) -> None:
        """Set all free weights to zero."""
        for name in self.shapes:
            parameters[name].detach().masked_fill_(self.owner(name) == FREE, 0.0)

    def share_out(self, parameters: Mapping[str, Tensor], count: int) -> dict[str, int]:
        """How many of the `count` largest free weights of all parameters together lie in each: a quota for `claim`."""
        sizes = [torch.where(self.owner(name) == FREE, parameters[name].detach().abs(), -1.0).flatten() for name in self.shapes]
        joined = torch.cat(sizes)
        chosen = torch.zeros(len(joined), dtype=torch.bool, device=joined.device)
        chosen[joined.topk(count).indices] = True
        parts = chosen.split([len(size) for size in sizes])
        return {name: int(part.sum()) for name, part in zip(self.shapes, parts, strict=True)}

    def free(self) -> int:
        """Weights of all parameters that no task owns."""
        return sum(int((self.owner(name) == FREE).sum()) for name in self.shapes)

    def counts(self, name: str) -> list[int]:
        """Weights of a parameter per owner, the free ones first."""
        return torch.bincount(self.owner(name).flatten().long()).tolist()

    def architecture(self) -> dict[str, Any]:
        return {name: list(shape) for name, shape in self.shapes.items()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        for name, shape in architecture.items():
            self._register(name, tuple(shape))
