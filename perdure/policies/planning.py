"""In-sample planning: returns of logged episodes, with the choice at every step to leave the episode for a better continuation.

SfBC (Chen et al. 2023, arXiv 2209.14548), section 3.3 and code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def discounted_returns(sampler: Any, discount: float, floor: Tensor | None = None) -> Tensor:
    """(S,) float32, sum of the discounted rewards from every step to the end of its episode, whatever ended it.

    Args:
        floor: (S,) value of the states; with it a return is nowhere below the value where it is taken, and goes on from there:
            y_t = max(r_t + discount y_{t+1}, floor_t).
    """
    reward, last = sampler.reward.double(), sampler.end - 1
    found = torch.zeros_like(reward)
    left = last - torch.arange(len(reward), device=reward.device)  # steps to the end of the episode
    order = left.argsort(stable=True)
    counts = torch.bincount(left)
    for steps in order.split(counts.tolist()):  # all steps that are equally far from their end
        ends = steps == last[steps]
        after = torch.where(ends, torch.zeros_like(reward[steps]), found[(steps + 1).clamp_max(len(reward) - 1)])
        value = reward[steps] + discount * after
        found[steps] = value if floor is None else torch.maximum(value, floor[steps].double())
    return found.float()


def soft_value(values: Tensor, sharpness: float) -> Tensor:
    """(n,), the mean of candidate values (n, M), each weighted by softmax(sharpness * value)."""
    return ((sharpness * values).softmax(1) * values).sum(1)
