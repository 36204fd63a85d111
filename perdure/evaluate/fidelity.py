"""Measuring replayed data: dreams of a task against its held-out data, which the method itself does not see."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.core.distances import coverage, discrepancy, nearest, random_directions, sliced_wasserstein
from perdure.core.fidelity import Fidelity, Points
from perdure.core.rng import generator
from perdure.data.sampler import Sampler, Split

SAMPLES, DIRECTIONS, SHOWN = 1000, 100, 100


def fidelity(obs: Tensor, action: Tensor, sampler: Sampler, seed: int) -> Fidelity | None:
    """Of dreams (n, O) raw, (n, A); None where the task has fewer than 100 held-out or training rows."""
    held, train = (_rows(sampler, split, seed, len(obs)) for split in ("holdout", "train"))
    if len(held) < SHOWN or len(train) < SHOWN:
        return None
    every = _rows(sampler, "train", seed, None)
    mean, std = every.mean(0), every.std(0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    n = min(len(obs), len(held), len(train))
    every = (every - mean) / std
    made, held, train = ((part[:n] - mean) / std for part in (torch.cat([obs, action], 1).double().cpu(), held, train))
    directions = random_directions(DIRECTIONS, made.shape[1], generator(seed, "fidelity"))
    main = torch.linalg.svd(train, full_matrices=False).Vh[:2].T  # (D, 2), where the data vary most
    return Fidelity(
        distance=sliced_wasserstein(made, held, directions), floor=sliced_wasserstein(train, held, directions),
        mmd=discrepancy(made, held), coverage=coverage(made, held),
        novelty=float(nearest(made, every).median() / nearest(held, every).median().clamp_min(1e-12)),
        real=_points(held @ main), dreamed=_points(made @ main),
    )  # fmt: skip


def _rows(sampler: Sampler, split: Split, seed: int, most: int | None) -> Tensor:
    """(n, O + A) pairs of a split, float64 on the CPU, `most` of them in random order."""
    steps = sampler.starts[split].step
    if most is not None:
        order = torch.randperm(len(steps), generator=generator(seed, "fidelity", sampler.task, split))
        steps = steps[order[:most].to(steps.device)]
    obs = sampler.obs[steps + sampler.episode[steps]]
    return torch.cat([obs, sampler.action[steps]], 1).double().cpu()


def _points(rows: Tensor) -> Points:
    return tuple((round(float(x), 3), round(float(y), 3)) for x, y in rows[:SHOWN].tolist())
