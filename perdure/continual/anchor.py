"""QuadraticAnchor: strength/2 * sum_i importance_i (theta_i - anchor_i)^2, with its gradient in closed form.

The penalties of several tasks add up to one penalty of the same form, with the summed importance and the
importance-weighted mean of the anchors (Huszar 2018, PNAS 115(11), arXiv 1712.03847), so memory and time do not grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import buffer_name
from perdure.continual.named_tensors import blocks

Merge = Literal["sum", "online"]

class QuadraticAnchor(nn.Module):
    """Anchor and importance of each parameter, and the running sum of the importances of the present task."""

    PARTS = ("anchor", "importance")

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.running: dict[str, tuple[int, ...]] = {}

    def _buffer(self, part: str, name: str) -> Tensor:
        value = self._buffers[f"{part}:{buffer_name(name)}"]  # get_buffer takes as long as the arithmetic of a small network
        assert value is not None
        return value

    def _put(self, part: str, name: str, value: Tensor) -> None:
        self.register_buffer(f"{part}:{buffer_name(name)}", value)

    def open(self, parameters: Mapping[str, Tensor]) -> None:
        """Start a running sum of zero for these parameters."""
        for name, p in parameters.items():
            self.running[name] = tuple(p.shape)
            self._put("running", name, torch.zeros_like(p.detach()))

    def accumulate(self, importance: Mapping[str, Tensor]) -> None:
        """Add the importances of one batch."""
        for name, value in importance.items():
            self._buffer("running", name).add_(value)

    def commit(self, parameters: Mapping[str, Tensor], batches: int, *, merge: Merge = "sum", decay: float = 1.0,
               normalise: bool = True) -> None:
        """Close the running sum: anchor at the present parameters.

        `normalise` divides by the mean over all parameters, so that a strength means the same in every task. `sum`
        keeps all tasks' penalties; `online` decays the old importance and moves the anchor (Schwarz et al. 2018).
        """
        new = {name: self._buffer("running", name) / batches for name in self.running}
        if normalise:
            mean = sum(float(v.double().sum()) for v in new.values()) / sum(v.numel() for v in new.values())
            new = {name: value / max(mean, 1e-30) for name, value in new.items()}
        for name, importance in new.items():
            theta = parameters[name].detach()
            if name not in self.shapes:
                self.shapes[name] = tuple(theta.shape)
                self._put("anchor", name, theta.clone())
                self._put("importance", name, importance.clone())
            else:
                anchor, old = self._buffer("anchor", name), self._buffer("importance", name) * decay
                total = old + importance
                mixed = torch.where(total > 0, (old * anchor + importance * theta) / total.clamp_min(1e-30), theta)
                anchor.copy_(theta if merge == "online" else mixed)
                self._buffer("importance", name).copy_(total)
            del self._buffers[f"running:{buffer_name(name)}"]
        self.running = {}

    def hold(self, parameters: Mapping[str, Tensor]) -> None:
        """Anchor at the present parameters with importance 1 everywhere, in place of whatever was held before."""
        self.open(parameters)
        self.accumulate({name: torch.ones_like(p) for name, p in parameters.items()})
        self.commit(parameters, 1, merge="online", decay=0.0)

    def _lists(self, parameters: Mapping[str, Parameter]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        names = [name for name in parameters if name in self.shapes]
        return ([parameters[n] for n in names], [self._buffer("anchor", n) for n in names],
                [self._buffer("importance", n) for n in names])

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, Parameter], strength: float) -> None:
        """Add strength * importance * (theta - anchor) to every .grad, without a graph.

        A parameter without gradient, such as the encoder of another observation space, is not updated and stays out.
        """
        theta, anchor, importance = self._lists({name: p for name, p in parameters.items() if p.grad is not None})
        if not theta or strength == 0:
            return
        gradients = [p.grad for p in theta if p.grad is not None]
        for block in blocks(theta):
            gap = torch._foreach_sub(theta[block], anchor[block])
            torch._foreach_mul_(gap, importance[block])
            torch._foreach_add_(gradients[block], gap, alpha=strength)

    def penalty(self, parameters: Mapping[str, Parameter], strength: float) -> Tensor:
        """The penalty itself, differentiable; the slow reference of `add_gradient`."""
        theta, anchor, importance = self._lists(parameters)
        terms = [(f * (p - a).square()).sum() for p, a, f in zip(theta, anchor, importance, strict=True)]
        return 0.5 * strength * torch.stack(terms).sum() if terms else torch.zeros(())

    def architecture(self) -> dict[str, Any]:
        return {"shapes": {n: list(s) for n, s in self.shapes.items()}, "running": {n: list(s) for n, s in self.running.items()}}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        for name, shape in architecture["shapes"].items():
            self.shapes[name] = tuple(shape)
            for part in self.PARTS:
                self._put(part, name, torch.zeros(shape))
        for name, shape in architecture["running"].items():
            self.running[name] = tuple(shape)
            self._put("running", name, torch.zeros(shape))
