"""When in their episodes the observations of every task are: told to a generator, and drawn for its dreams.

States early in episodes are few and everything that follows depends on them; a generator that is not told the time smears them.
t-DGR (Yue et al. 2024, arXiv 2401.02576) tells its generator the time as a number; here it is waves, so that a few steps matter.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from perdure.core.batch import places

OCTAVES = 6
"""Of sines and cosines of the time, from a quarter turn per episode to eight turns."""

WAVES = 2 * OCTAVES
"""Numbers that a generator is told."""

LEVELS = 33
"""Quantiles of its steps that are kept of a task."""


class EpisodeTimes(nn.Module):
    """Quantiles of the steps of every task's episodes at which its observations are (132 bytes each).

    Step t is the stretch from t to t + 1, evenly filled, and a number drawn between two quantiles is rounded down: a step is
    drawn as often as the data have it where episodes are about as long as each other. Where almost all have one step and a few
    a thousand, the first step is drawn too rarely, as 33 quantiles do not see where it ends.
    """

    def add(self, task: int, timestep: Tensor) -> None:
        """Of the observations (N,) of a task, which is open."""
        count = torch.bincount(timestep).double()
        before = torch.cat([count.new_zeros(1), count.cumsum(0) / count.sum()])  # (T + 1,) share of the data before each step
        level = torch.linspace(0, 1, LEVELS, dtype=before.dtype, device=before.device)
        step = (torch.searchsorted(before, level, right=True) - 1).clamp(max=len(count) - 1)
        within = (level - before[step]) / (before[step + 1] - before[step])
        self.get_buffer(f"steps_{task}").copy_(step + within)

    def open(self, task: int) -> None:
        """Make room."""
        self.register_buffer(f"steps_{task}", torch.zeros(LEVELS))

    def draw(self, task: int, n: int, g: Generator) -> Tensor:
        """(n,) int64, steps distributed as those of the task's observations."""
        known = self.get_buffer(f"steps_{task}")
        place = torch.rand(n, generator=g, device=known.device) * (LEVELS - 1)
        low = place.long().clamp(max=LEVELS - 2)
        between = known[low] + (place - low) * (known[low + 1] - known[low])
        return between.long().clamp(max=int(known[-1]) - 1)

    def waves(self, timestep: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, WAVES) of steps (B,) of these tasks (B,), as shares of each one's longest episode."""
        longest = torch.stack([self.get_buffer(f"steps_{k}")[-1] for k in tasks])[places(task, tasks)]
        turns = torch.tensor([2.0**octave for octave in range(OCTAVES)], device=longest.device)
        angle = (timestep / longest).unsqueeze(1) * turns * (math.pi / 2)
        return torch.cat([angle.sin(), angle.cos()], 1)
