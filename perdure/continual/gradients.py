"""Projection of a gradient so that a step along it does not raise a reference loss, to first order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def project(gradients: Sequence[Tensor | None], reference: Sequence[Tensor | None]) -> list[Tensor | None]:
    """g - min(0, g . r) / |r|^2 * r over all parameters as one vector (Chaudhry et al. 2019, arXiv 1812.00420, eq. 11).

    Nothing changes where the two do not oppose each other. None stands for zero, as where a parameter had no part in a loss;
    what is None in both stays so. Nothing is read back from the device.
    """
    pairs = [(g, r) for g, r in zip(gradients, reference, strict=True) if g is not None and r is not None]
    if not pairs:
        return list(gradients)
    known = [r for r in reference if r is not None]
    product = _dot(pairs)
    size = _dot([(r, r) for r in known])  # in the same way as the product, so that their rounding errors cancel
    factor = product.clamp(max=0) / size.clamp_min(torch.finfo(size.dtype).tiny)
    shifts = iter(torch._foreach_mul(known, -factor))
    projected: list[Tensor | None] = [g if r is None else next(shifts) for g, r in zip(gradients, reference, strict=True)]
    both = [(shift, g) for shift, g, r in zip(projected, gradients, reference, strict=True)
            if shift is not None and g is not None and r is not None]
    torch._foreach_add_([shift for shift, _ in both], [g for _, g in both])
    return projected


def _dot(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in pairs]).sum()
