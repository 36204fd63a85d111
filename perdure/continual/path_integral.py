"""PathIntegral: how much of the fall of the loss each weight brought about, summed along the way the optimizer took.

Per update, -gradient * displacement (Zenke et al. 2017, eq. 3): the gradient of the data's loss alone, before penalty and
clipping, and the displacement that the optimizer made of it. Over small updates the sum over all weights is the fall of the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from perdure.continual.named_tensors import NamedTensors, blocks


class PathIntegral(NamedTensors):
    """Parts `integral` and `start`, the weights at which it began, of every parameter that moved since the last `close`.

    With `squares`, also the sum of squared gradients.
    """

    def __init__(self, squares: bool = False) -> None:
        super().__init__()
        self.sums = ("integral", "squares") if squares else ("integral",)
        self.updates = 0
        """Since it began, or turned."""
        self.marked: list[str] = []
        """The parameters of the update in progress: those that have a gradient, as no other moves."""
        self.gradients: list[Tensor] = []
        self.weights: list[Tensor] = []
        """As they were before the update in progress; both are memory that is used again, and no state."""

    @torch.no_grad()
    def mark(self, parameters: Mapping[str, Parameter]) -> None:
        """Right after backward, before anything changes the gradients. Between updates nothing else may move the weights."""
        moving = {name: p for name, p in parameters.items() if p.grad is not None}
        gradients = [p.grad for p in moving.values() if p.grad is not None]
        if list(moving) != self.marked:
            self._cover(moving)
        torch._foreach_copy_(self.gradients, gradients)

    def _cover(self, moving: Mapping[str, Parameter]) -> None:
        """Begin with sums of 0 for the parameters that have none."""
        self.marked = list(moving)
        self.gradients, self.weights = ([p.detach().clone() for p in moving.values()] for _ in range(2))
        first = {name: p for name, p in moving.items() if name not in self.names("start")}
        self.put("start", first)
        for part in self.sums:
            self.put(part, {name: torch.zeros_like(p) for name, p in first.items()})

    @torch.no_grad()
    def advance(self, parameters: Mapping[str, Parameter]) -> None:
        """After the update that `mark` preceded."""
        self.updates += 1
        now = [parameters[name].detach() for name in self.marked]
        integral, squares = self.get("integral", self.marked), self.get("squares", self.marked if len(self.sums) > 1 else ())
        for block in blocks(now):
            before, gradient = self.weights[block], self.gradients[block]
            torch._foreach_sub_(before, now[block])  # minus the displacement
            torch._foreach_addcmul_(integral[block], gradient, before)
            if squares:
                torch._foreach_addcmul_(squares[block], gradient, gradient)
            torch._foreach_copy_(before, now[block])

    @torch.no_grad()
    def turn(self, parameters: Mapping[str, Tensor]) -> None:
        """Begin again from the present weights."""
        self.updates = 0
        names = self.names("start")
        torch._foreach_copy_(self.get("start", names), [parameters[name] for name in names])
        for part in self.sums:
            torch._foreach_zero_(self.get(part, names))

    def moved(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Those of the parameters that have an integral: all that the task uses, not the encoder of another space."""
        return {name: parameters[name] for name in self.names("start")}

    def close(self) -> None:
        """Forget all parts."""
        self.drop("start", *self.sums)
        self.updates, self.marked, self.gradients, self.weights = 0, [], [], []

    def architecture(self) -> dict[str, Any]:
        return {"parts": super().architecture(), "updates": self.updates}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        super().rebuild(architecture["parts"])
        self.updates = architecture["updates"]
