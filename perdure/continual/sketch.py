"""Sketches of data: quantiles along a few directions, by which data are recognised without any of them being kept.

A sketch of a task takes less than 1 KB and holds no row of its data. The distance of two sketches is close to the sliced
Wasserstein distance of what they were made of, in standard deviations of the task's data. It tells where data lie, and little of
what depends on what in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perdure.core.distances import random_directions
from perdure.core.rng import generator

DIRECTIONS, QUANTILES = 16, 16

MOST = 20_000
"""Rows that a sketch is made of, a random subset: rows at equal distances would be of the same few times of every episode."""


class Sketches(nn.Module):
    """A sketch per task, all along the same directions."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed
        self.sizes: dict[int, int] = {}
        """Task -> D."""

    def add(self, task: int, points: Tensor) -> None:
        """Remember what points (N, D) look like."""
        self._open(task, points.shape[1])
        self.to(points.device)
        std = points.std(0, correction=min(1, len(points) - 1))
        self.get_buffer(f"mean_{task}").copy_(points.mean(0))
        self.get_buffer(f"std_{task}").copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.get_buffer(f"sketch_{task}").copy_(self._of(task, points))

    def _open(self, task: int, size: int) -> None:
        self.sizes[task] = size
        self.register_buffer(f"mean_{task}", torch.zeros(size))
        self.register_buffer(f"std_{task}", torch.ones(size))
        self.register_buffer(f"sketch_{task}", torch.zeros(DIRECTIONS, QUANTILES, dtype=torch.float16))

    def _of(self, task: int, points: Tensor) -> Tensor:
        """(16, 16), quantiles of points (N, D) along every direction, in deviations of a task's data."""
        directions = random_directions(DIRECTIONS, points.shape[1], generator(self.seed, "sketch")).to(points.device)
        chosen = torch.randperm(len(points), generator=generator(self.seed, "sketch rows", task))[:MOST]
        some = points[chosen.to(points.device)]
        along = ((some - self.get_buffer(f"mean_{task}")) / self.get_buffer(f"std_{task}")).double() @ directions.T
        levels = (torch.arange(QUANTILES, dtype=torch.float64, device=points.device) + 0.5) / QUANTILES
        return along.quantile(levels, dim=0).T.float()

    def distance(self, task: int, points: Tensor) -> float:
        """How far points (N, D) are from the data of a task, in its standard deviations."""
        return float((self._of(task, points) - self.get_buffer(f"sketch_{task}").float()).abs().mean())

    def architecture(self) -> dict[str, Any]:
        return {"sizes": [[task, size] for task, size in self.sizes.items()]}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task, size in architecture["sizes"]:
            self._open(int(task), int(size))
