"""Choosing among candidate actions by their values, for policies that sample what the data would do."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

WIDEST = 40.0
"""Largest logit above the last one that is drawn, so that no probability that matters underflows."""


def choose(actions: Tensor, values: Tensor, *, sharpness: float, average: int, g: Generator | None = None) -> Tensor:
    """(n, A), the mean of `average` candidates drawn without replacement with probabilities softmax(sharpness * value).

    As in the code released with CuGRO (Liu et al. 2024, arXiv 2404.10662), for all rows at once: adding Gumbel noise to the
    logits and taking the largest is drawing without replacement (Kool et al. 2019, arXiv 1903.06059).

    Args:
        actions: (n, M, A).
        values: (n, M).
        g: randomness; None takes torch's global generator.
    """
    logits = sharpness * values
    last = logits.topk(average, dim=1).values[:, -1:]
    uniform = torch.rand(logits.shape, generator=g, device=logits.device, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
    drawn = (torch.minimum(logits, last + WIDEST).double() - (-uniform.log()).log()).topk(average, dim=1).indices
    return torch.gather(actions, 1, drawn.unsqueeze(2).expand(-1, -1, actions.shape[2])).mean(1)
