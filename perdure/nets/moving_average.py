"""MovingAverage: a copy of parameters that follows them slowly, used as a weight view; nothing is swapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

TENTH = 10
"""A share of TENTH / (TENTH + n) in the n-th update averages over about n / TENTH updates."""


class MovingAverage(nn.Module):
    """Exponential moving average of tensors by name: of a generator's weights, or the target network of a critic."""

    def __init__(self, rate: float, *, warm_up: bool = False):
        """Args:
        rate: share of the new value in each update.
        warm_up: the share begins at 1 and falls to `rate`, so that the average is always of about the last tenth of the updates
            and forgets the beginning of a short training.
        """
        super().__init__()
        self.rate, self.warm_up = rate, warm_up
        self.updates = 0
        self.shapes: dict[str, list[int]] = {}

    def restart(self) -> None:
        """Begin the warm-up again."""
        self.updates = 0

    def follow(self, values: Mapping[str, Tensor]) -> None:
        """Move towards these values; names that are new begin at theirs."""
        with torch.no_grad():
            for name, value in values.items():
                if name not in self.shapes:
                    self._open(name, value)
            averages = [self.get_buffer(_key(name)) for name in values]
            rate = max(self.rate, TENTH / (TENTH + self.updates)) if self.warm_up else self.rate
            torch._foreach_lerp_(averages, [value.detach() for value in values.values()], rate)
            self.updates += 1

    def _open(self, name: str, value: Tensor) -> None:
        self.shapes[name] = list(value.shape)
        self.register_buffer(_key(name), value.detach().clone())

    def view(self) -> dict[str, Tensor]:
        """The averages by name."""
        return {name: self.get_buffer(_key(name)) for name in self.shapes}

    def architecture(self) -> dict[str, Any]:
        return {"averages": {name: list(shape) for name, shape in self.shapes.items()}, "averaged": self.updates}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for name, shape in architecture["averages"].items():
            self._open(name, torch.zeros(shape))
        self.updates = int(architecture["averaged"])


def _key(name: str) -> str:
    """Buffer names may not contain dots."""
    return name.replace(".", "/")
