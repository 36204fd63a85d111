"""ScoreMasks: every task sees a subset of each weight tensor, chosen by the size of trained scores.

While a task is learned, each masked weight has a score of the same shape. The forward pass uses weight * mask, where the mask
marks the largest scores; the backward pass treats the mask as the size of the score (straight-through), as in Winning
SubNetworks (Kang et al. 2022, ICML, PMLR 162) and TinySubNets (Pietron et al. 2024, arXiv 2412.10869). When the task ends its
mask is kept as bits and its scores are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import buffer_name
from perdure.core.errors import GuardError

Masks = dict[str, Tensor]
"""Parameter name -> bool mask of its shape."""


class ScoreMasks(nn.Module):
    """The finished masks of every task, in bits, and the scores of the task that is being learned."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of every parameter that any task masks."""
        self.names: dict[int, list[str]] = {}
        """Task with a finished mask -> the parameters in it, in the order of its bits."""
        self.scores = nn.ParameterDict()
        self.counts: dict[str, int] = {}
        """Entries that the open task may choose, per parameter."""

    # -- while a task is learned ----------------------------------------------------------------------------

    def open(
        self, task: int, parameters: Mapping[str, Tensor], keep: float, occupied: Mapping[str, Tensor], g: Generator,
        of_free: bool = True,
    ) -> None:  # fmt: skip
        """Fresh scores for these parameters, uniform in +-1/sqrt(fan in), of which the task is to choose a share.

        Args:
            keep: share of each parameter's entries that are not occupied; one entry at least. Without `of_free`, share of all
                its entries, as far as the others are occupied.
            occupied: bool mask per parameter of entries that may not be chosen; all may where none is given.

        Raises:
            GuardError: every entry of a parameter is occupied.
        """
        for name, p in parameters.items():
            free = p.numel() - int(occupied[name].sum()) if name in occupied else p.numel()
            if not free:
                raise GuardError(f"task {task + 1} finds no free weight in {name}: the capacity is exhausted; use a smaller"
                                 " method.keep_ratio, a wider policy, method.overlap or fewer tasks")
            self.counts[name] = max(1, round(keep * free) if of_free else min(free, round(keep * p.numel())))
            self.shapes[name] = tuple(p.shape)
            fan_in = p[0].numel() if p.dim() > 1 else p.numel()
            score = (2 * torch.rand(p.shape, generator=g) - 1) / math.sqrt(fan_in)
            self.scores[buffer_name(name)] = Parameter(score.to(p.device))

    def current(self) -> dict[str, Parameter]:
        """The scores, by the names of their parameters."""
        return {name.replace("/", "."): p for name, p in self.scores.items()}

    def choose(self, occupied: Mapping[str, Tensor]) -> Masks:
        """The entries of the largest |scores|, ties in the order of memory; occupied ones are left out."""
        return {name: largest(score.detach().abs(), occupied.get(name), self.counts[name])
                for name, score in self.current().items()}

    def view(self, parameters: Mapping[str, Tensor], masks: Masks, movable: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """weight * mask, with gradients for the scores and for the weights that may move.

        Args:
            movable: of the parameters' type, 1 where a weight may move and 0 where it is frozen; all may where none is given.
        """
        return {name: _Chosen.apply(parameters[name], score, masks[name], movable.get(name))
                for name, score in self.current().items()}

    def close(self, task: int, masks: Masks) -> None:
        """Keep the finished mask of the task and drop the scores."""
        self.names[task] = list(masks)
        flat = torch.cat([mask.flatten() for mask in masks.values()])
        self.register_buffer(f"task-{task}", pack(flat))
        self.scores.clear()
        self.counts.clear()

    # -- finished tasks -------------------------------------------------------------------------------------

    def finished(self) -> list[int]:
        """Tasks whose masks are kept."""
        return list(self.names)

    def mask(self, task: int) -> Masks:
        """The mask of a finished task."""
        names = self.names[task]
        sizes = [math.prod(self.shapes[name]) for name in names]
        parts = unpack(self.get_buffer(f"task-{task}"), sum(sizes)).split(sizes)
        return {name: part.view(self.shapes[name]) for name, part in zip(names, parts, strict=True)}

    def occupied(self, tasks: Iterable[int]) -> Masks:
        """Entries that any of these tasks uses."""
        union: Masks = {}
        for task in tasks:
            for name, mask in self.mask(task).items():
                union[name] = mask | union[name] if name in union else mask
        return union

    # -- saving ---------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        return {"shapes": {name: list(shape) for name, shape in self.shapes.items()},
                "tasks": [[task, names] for task, names in self.names.items()], "open": dict(self.counts)}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in architecture["shapes"].items()}
        for task, names in architecture["tasks"]:
            self.names[int(task)] = list(names)
            size = sum(math.prod(self.shapes[name]) for name in names)
            self.register_buffer(f"task-{task}", torch.zeros(-(-size // 8), dtype=torch.uint8))
        self.counts = {name: int(count) for name, count in architecture["open"].items()}
        for name in self.counts:
            self.scores[buffer_name(name)] = Parameter(torch.zeros(self.shapes[name]))


class _Chosen(torch.autograd.Function):
    """weight * mask; d mask / d |score| counts as 1, and weights that may not move get no gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, score: Tensor, mask: Tensor, movable: Tensor | None) -> Tensor:
        chosen = mask.to(weight.dtype)  # on a CPU, products of one type take a fraction of the time of products with bool
        ctx.save_for_backward(weight, score, chosen, movable)
        return weight * chosen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, score, chosen, movable = ctx.saved_tensors
        own = gradient * chosen
        if movable is not None:
            own.mul_(movable)
        return own, score.sign().mul_(weight).mul_(gradient), None, None


def largest(sizes: Tensor, occupied: Tensor | None, count: int) -> Tensor:
    """Bool mask of the `count` largest sizes among the entries that are not occupied; of equal ones the first in memory.

    By the count-th value and not by sorting: on a CPU NumPy's partition finds it in a tenth of the time of torch.topk.
    """
    if occupied is not None:
        sizes = sizes.masked_fill(occupied, -1.0)
    flat = sizes.flatten()
    if count >= flat.numel():
        return torch.ones_like(sizes, dtype=torch.bool)
    if flat.is_cuda:
        mask = torch.zeros_like(flat, dtype=torch.bool)
        mask[flat.topk(count, sorted=False).indices] = True
        return mask.view_as(sizes)
    place = flat.numel() - count
    threshold = float(np.partition(flat.numpy(), place)[place])
    mask = flat >= threshold
    surplus = int(mask.sum()) - count
    if surplus:
        mask[(flat == threshold).nonzero().flatten()[-surplus:]] = False
    return mask.view_as(sizes)


def pack(bits: Tensor) -> Tensor:
    """(n,) bool -> (ceil(n/8),) uint8, the first bit highest."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy())).to(bits.device)


def unpack(packed: Tensor, n: int) -> Tensor:
    """The first n bits as (n,) bool."""
    return torch.from_numpy(np.unpackbits(packed.cpu().numpy(), count=n).view(np.bool_)).to(packed.device)
