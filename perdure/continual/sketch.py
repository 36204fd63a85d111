"""Sketches of data: quantiles along a few directions, by which data are recognised without any of them being kept.

A sketch of a task takes 2 KB and holds no row of its data. The distance of two sketches is close to the sliced Wasserstein
distance of what they were made of, in standard deviations of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perdure.core.distances import random_directions
from perdure.core.rng import generator

DIRECTIONS, QUANTILES = 16, 31

MOST = 20_000
"""Rows that a sketch is made of; more change nothing that is used."""


class Sketches(nn.Module):
    """A sketch per task, all along the same directions."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed
        self.tasks: list[int] = []

    def add(self, task: int, points: Tensor) -> None:
        """Remember what points (N, D) on a common scale look like."""
        self._open(task)
        self.get_buffer(f"sketch_{task}").copy_(self.of(points))

    def _open(self, task: int) -> None:
        self.tasks.append(task)
        self.register_buffer(f"sketch_{task}", torch.zeros(DIRECTIONS, QUANTILES))

    def of(self, points: Tensor) -> Tensor:
        """(16, 31), the sketch of points (N, D): their quantiles along every direction."""
        directions = random_directions(DIRECTIONS, points.shape[1], generator(self.seed, "sketch")).to(points.device)
        along = points[:MOST].double() @ directions.T
        levels = (torch.arange(QUANTILES, dtype=torch.float64, device=points.device) + 0.5) / QUANTILES
        return along.quantile(levels, dim=0).T.float()

    def distance(self, task: int, points: Tensor) -> float:
        """How far points (N, D) are from the data of a task, in standard deviations of the scale."""
        return float((self.of(points) - self.get_buffer(f"sketch_{task}")).abs().mean())

    def architecture(self) -> dict[str, Any]:
        return {"tasks": list(self.tasks)}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task in architecture["tasks"]:
            self._open(int(task))
