"""Teachers: what models were before a task came, from which they learn what to say of earlier tasks (distillation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from perdure.nets.moving_average import MovingAverage


class Teachers(nn.Module):
    """Copies of weights, by the name of a model; kept while one task is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = nn.ModuleDict()

    def keep(self, model: str, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights of a model, by the names that it has for them."""
        self.copies[model] = MovingAverage(0.0)
        self._of(model).follow(weights)

    def of(self, model: str) -> dict[str, Tensor] | None:
        """Its weights before the task; None where none are kept."""
        return self._of(model).view() if model in self.copies else None

    def _of(self, model: str) -> MovingAverage:
        copy = self.copies[model]
        assert isinstance(copy, MovingAverage)
        return copy

    def clear(self) -> None:
        """Let go of all of them."""
        self.copies.clear()

    def architecture(self) -> dict[str, Any]:
        return {model: self._of(model).architecture() for model in self.copies}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for model, made in architecture.items():
            self.copies[model] = MovingAverage(0.0)
            self._of(model).rebuild(made)
