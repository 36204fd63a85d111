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
"""Quantiles of its steps that are kept of a task, from the first to the last."""


class EpisodeTimes(nn.Module):
    """Quantiles of the steps of every task's episodes at which its observations are (132 bytes each)."""

    def add(self, task: int, timestep: Tensor) -> None:
        """Of the observations (N,) of a task, which is open."""
        levels = torch.linspace(0, len(timestep) - 1, LEVELS, device=timestep.device).round().long()
        self.get_buffer(f"steps_{task}").copy_(timestep.sort().values[levels])

    def open(self, task: int) -> None:
        """Make room."""
        self.register_buffer(f"steps_{task}", torch.zeros(LEVELS))

    def draw(self, task: int, n: int, g: Generator) -> Tensor:
        """(n,) int64, steps distributed as those of the task's observations."""
        known = self.get_buffer(f"steps_{task}")
        place = torch.rand(n, generator=g, device=known.device) * (LEVELS - 1)
        low = place.long().clamp(max=LEVELS - 2)
        between = known[low] + (place - low) * (known[low + 1] - known[low])
        return between.round().long()

    def waves(self, timestep: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, WAVES) of steps (B,) of these tasks (B,), as shares of each one's longest episode."""
        last = torch.stack([self.get_buffer(f"steps_{k}")[-1] for k in tasks])[places(task, tasks)]
        turns = torch.tensor([2.0**octave for octave in range(OCTAVES)], device=last.device)
        angle = (timestep / (last + 1)).unsqueeze(1) * turns * (math.pi / 2)
        return torch.cat([angle.sin(), angle.cos()], 1)
