"""Statistics of a task's training split: the observation normaliser and the return target; and how good its data are."""

import numpy as np
import torch

from perdure.core.policy import Stats
from perdure.core.task import Data, Task

SMALLEST_STD = 1e-4
"""A channel that varies less than this (environment units) counts as constant and is divided by 1, not blown up."""

TARGET_QUANTILE = 0.95
"""Of the episode returns of the data; the return a conditioned policy is asked for."""


def statistics(data: Data) -> Stats:
    """Mean and standard deviation per channel (zeros and ones for images); return scale and target.

    The return scale is the target's size, so that a window of a good episode starts near 1 in every task. Times the reward scale,
    the returns and 0 span as many units as the longest episode has steps.
    """
    chosen = np.asarray(data.episodes("train"))
    returns = np.asarray(data.returns, dtype=np.float64)[chosen]
    target = float(np.quantile(returns, TARGET_QUANTILE))
    scale = max(abs(target), float(np.abs(returns).max()) * 0.05, 1e-6)
    size = data.spec.obs.size
    mean, std = np.zeros(size), np.ones(size)
    if data.spec.obs.dtype == "float32":
        ends = np.cumsum(np.asarray(data.lengths) + 1)
        observations = data.array("observations")
        flat = [observations[ends[e] - data.lengths[e] - 1 : ends[e]].reshape(-1, size) for e in chosen]
        rows = np.concatenate(flat).astype(np.float64)
        mean, std = rows.mean(0), rows.std(0)
        std = np.where(std < SMALLEST_STD, 1.0, std)
    # with 0: returns of about one size lie close together, and scaled by that alone each reward would be many units
    span = max(float(max(returns.max(), 0.0) - min(returns.min(), 0.0)), 1e-6)
    reward_scale = float(np.asarray(data.lengths)[chosen].max()) / span
    return Stats(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32), scale, target, reward_scale)


def behaviour_means(task: Task) -> dict[str, float]:
    """`mean_return` over all episodes of a task's data, in environment units; where returns are scored, also its `mean_score`."""
    mean = float(task.data.returns.mean())
    return {"mean_return": mean} | ({"mean_score": task.score.score(None, mean)} if task.score.kind == "return" else {})
