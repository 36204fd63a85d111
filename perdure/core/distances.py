"""Distances between two sets of samples."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

AT_ONCE = 8192
"""Rows of a large set that others are compared with at the same time."""


def random_directions(count: int, size: int, g: Generator) -> Tensor:
    """(count, size) unit vectors, float64."""
    return torch.nn.functional.normalize(torch.randn(count, size, generator=g, dtype=torch.float64), dim=1)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Wasserstein-1 distance of two sets (n, D) of equal size, averaged over `directions` (K, D) on which both are projected."""
    one, other = ((x.double() @ directions.T).sort(0).values for x in (a, b))
    return float((one - other).abs().mean())


def discrepancy(a: Tensor, b: Tensor) -> float:
    """Maximum mean discrepancy of two sets (n, D), (m, D) with a Gaussian kernel as wide as the median distance within `b`
    (Gretton et al. 2012, JMLR 13, biased estimate, its square root)."""
    width = torch.cdist(b, b)[~torch.eye(len(b), dtype=torch.bool)].median().clamp_min(1e-12)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-(torch.cdist(x, y) / width).square() / 2).exp().mean()

    return float((kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)).clamp_min(0).sqrt())


def coverage(made: Tensor, real: Tensor, neighbours: int = 5) -> float:
    """Share of `real` (m, D) with a row of `made` (n, D) nearer than their own `neighbours`-th neighbour (Naeem et al. 2020,
    arXiv 2002.09797, eq. 4)."""
    radius = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values  # the nearest one is the row itself
    return float((torch.cdist(real, made).amin(1) < radius).double().mean())


def nearest(a: Tensor, b: Tensor) -> Tensor:
    """(n,), the distance of every row of `a` (n, D) to the nearest one of `b` (m, D), which may be many."""
    return torch.stack([torch.cdist(a, part).amin(1) for part in b.split(AT_ONCE)]).amin(0)
