"""LowRankBank: per task a pair (B, A) for every adapted weight, and the weight view W + scale * B A."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import buffer_name


class LowRankBank(nn.Module):
    """Adapters by task. Convolutions count as matrices of (out, everything else)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleDict()  # task -> A, (rank, in), by weight
        self.up = nn.ModuleDict()  # task -> B, (out, rank)

    def open(self, task: int, weights: Mapping[str, Tensor], rank: int, g: Generator) -> None:
        """Adapt these weights for `task`: A is random as a linear map's weight is, B zero, so the view starts as W.

        No rank is larger than the smaller side of its weight.
        """
        shapes = {name: (weight.shape[0], weight[0].numel()) for name, weight in weights.items()}
        self._register(str(task), {name: [min(rank, *shape), *shape] for name, shape in shapes.items()})
        for name in weights:
            nn.init.kaiming_uniform_(self._of(self.down, task)[buffer_name(name)], a=sqrt(5), generator=g)

    def _register(self, task: str, sizes: Mapping[str, list[int]]) -> None:
        self.down[task] = nn.ParameterDict({buffer_name(n): Parameter(torch.zeros(r, cols)) for n, (r, _, cols) in sizes.items()})
        self.up[task] = nn.ParameterDict({buffer_name(n): Parameter(torch.zeros(rows, r)) for n, (r, rows, _) in sizes.items()})

    def close(self, task: int) -> None:
        """Drop the task's adapters."""
        for group in (self.down, self.up):
            if str(task) in group:
                del group[str(task)]

    def _of(self, group: nn.ModuleDict, task: int) -> nn.ParameterDict:
        return cast(nn.ParameterDict, group[str(task)])

    def names(self, task: int) -> list[str]:
        """The weights that `task` adapts."""
        return [name.replace("/", ".") for name in self._of(self.up, task)] if str(task) in self.up else []

    def pairs(self, task: int) -> dict[str, Parameter]:
        """The task's A and B."""
        groups = (("down", self.down), ("up", self.up)) if str(task) in self.up else ()
        return {f"{part}/{name}": p for part, group in groups for name, p in self._of(group, task).items()}

    def view(self, task: int, weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
        """W + scale * B A of every weight that `task` adapts; gradients reach W only where it requires one."""
        seen = {}
        for name in self.names(task):
            weight, key = weights[name], buffer_name(name)
            up, down = self._of(self.up, task)[key], self._of(self.down, task)[key]
            seen[name] = torch.addmm(weight.flatten(1), up, down, alpha=scale).view_as(weight)
        return seen

    def architecture(self) -> dict[str, Any]:
        """JSON: task -> weight -> [rank, rows, columns]."""
        sizes: dict[str, Any] = {}
        for task in self.up:
            up, down = self._of(self.up, int(task)), self._of(self.down, int(task))
            sizes[task] = {name.replace("/", "."): [*down[name].shape[:1], len(up[name]), down[name].shape[1]] for name in up}
        return sizes

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task, sizes in architecture.items():
            self._register(task, sizes)
