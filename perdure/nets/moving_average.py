"""MovingAverage: a copy of parameters that follows them slowly, used as a weight view; nothing is swapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Exponential moving average of tensors by name: of a generator's weights, or the target network of a critic."""

    def __init__(self, rate: float):
        """`rate` is the share of the new value in each update."""
        super().__init__()
        self.rate = rate
        self.shapes: dict[str, list[int]] = {}

    def follow(self, values: Mapping[str, Tensor]) -> None:
        """Move towards these values; names that are new begin at theirs."""
        with torch.no_grad():
            for name, value in values.items():
                if name not in self.shapes:
                    self._open(name, value)
            averages = [self.get_buffer(_key(name)) for name in values]
            torch._foreach_lerp_(averages, [value.detach() for value in values.values()], self.rate)

    def _open(self, name: str, value: Tensor) -> None:
        self.shapes[name] = list(value.shape)
        self.register_buffer(_key(name), value.detach().clone())

    def view(self) -> dict[str, Tensor]:
        """The averages by name."""
        return {name: self.get_buffer(_key(name)) for name in self.shapes}

    def architecture(self) -> dict[str, Any]:
        return {"averages": {name: list(shape) for name, shape in self.shapes.items()}}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for name, shape in architecture["averages"].items():
            self._open(name, torch.zeros(shape))


def _key(name: str) -> str:
    """Buffer names may not contain dots."""
    return name.replace(".", "/")
