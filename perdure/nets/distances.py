"""Distances between two sets of samples."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def random_directions(count: int, size: int, g: Generator) -> Tensor:
    """(count, size) unit vectors, float64."""
    return torch.nn.functional.normalize(torch.randn(count, size, generator=g, dtype=torch.float64), dim=1)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Wasserstein-1 distance of two sets (n, D) of equal size, averaged over `directions` (K, D) on which both are projected."""
    one, other = ((x.double() @ directions.T).sort(0).values for x in (a, b))
    return float((one - other).abs().mean())
