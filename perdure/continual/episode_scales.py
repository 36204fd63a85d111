"""EpisodeScales: where observations lie at every moment of a task's episodes, as a scale for a generator that is told the moment.

The first observations of an episode often lie many deviations from all others and close together. On the scale of a whole task a
generator loses them, and every generation of dreams loses more; on the scale of their moment they are as easy as any.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perdure.core.batch import places

KNOTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Steps of an episode at which a task's mean and deviation are kept; between two both are linear, and the last one's serve all
that follow."""

ENOUGH = 10
"""Observations at a knot; with fewer it has the mean and deviation of the whole task, as those of one or two would be these."""

FLOOR = 1e-3
"""Smallest deviation at a moment, as a share of that of the whole task."""


class EpisodeScales(nn.Module):
    """Mean and deviation of every task's observations at each knot."""

    def open(self, task: int, size: int) -> None:
        """Make room."""
        self.register_buffer(f"mean_{task}", torch.zeros(len(KNOTS), size))
        self.register_buffer(f"deviation_{task}", torch.ones(len(KNOTS), size))

    def add(self, task: int, obs: Tensor, steps: Tensor, mean: Tensor, std: Tensor) -> None:
        """Fit a task's knots.

        Args:
            obs: (N, O) raw.
            steps: (N,) of their episodes.
            mean: (O,) of all of them, which knots with too few keep.
            std: (O,) of all of them.
        """
        weight = torch.zeros(len(steps), len(KNOTS), dtype=torch.float64, device=steps.device)
        low, share = _between(steps)
        weight.scatter_(1, torch.stack([low, low + 1], 1), torch.stack([1 - share, share], 1).double())
        products = weight.T @ weight + 1e-6 * torch.eye(len(KNOTS), dtype=torch.float64, device=steps.device)
        count = weight.sum(0).unsqueeze(1)
        fitted = torch.linalg.solve(products, weight.T @ (obs - mean).double()) * (count >= ENOUGH)
        left = (obs - mean).double() - weight @ fitted
        deviation = torch.where(count >= ENOUGH, (weight.T @ left.square() / count.clamp(min=1e-6)).sqrt(), std)
        least = torch.where(std > 1e-6, FLOOR * std, torch.ones_like(std))
        self.get_buffer(f"mean_{task}").copy_(mean + fitted)
        self.get_buffer(f"deviation_{task}").copy_(torch.maximum(deviation.to(obs.dtype), least))

    def at(self, steps: Tensor, task: Tensor, tasks: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(B, O) means and (B, O) deviations at steps (B,) of these tasks (B,)."""
        place, (low, share) = places(task, tasks), _between(steps)
        means, deviations = (torch.stack([self.get_buffer(f"{name}_{k}") for k in tasks]) for name in ("mean", "deviation"))
        return _read(means, place, low, share), _read(deviations, place, low, share)


def _between(steps: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) knot at or before each step, and (B,) how far it is on the way to the next one."""
    knots = torch.tensor(KNOTS, device=steps.device)
    low = (torch.searchsorted(knots, steps, right=True) - 1).clamp(max=len(KNOTS) - 2)
    return low, ((steps - knots[low]) / (knots[low + 1] - knots[low])).clamp(max=1)


def _read(values: Tensor, place: Tensor, low: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(values[place, low], values[place, low + 1], share.unsqueeze(1))
