"""TaskIndex: the earlier tasks whose data are most like those of a new one, without comparing with all of them.

A task's signature are statistics of its data. Signatures lie in groups around pivots, about the square root of their number
(an inverted file, Jegou et al. 2011, IEEE TPAMI 33(1)); a query looks into the groups whose pivots are nearest. So routing
measures affinities, which take forward passes, for a fixed number of tasks, and compares about sqrt(tasks) signatures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.core.batch import Windows

GROUPS = 3
"""Groups that a query looks into."""

POOLED = 4
"""Cells along each side to which an image is averaged for its signature."""

SMALLEST = 1e-4
"""Standard deviation below which a coordinate counts as constant."""


class TaskIndex(nn.Module):
    """Signatures of tasks, in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.members: list[list[int]] = []
        """Tasks of every group; the first one is its pivot."""
        self.compared = 0
        """Signatures that were compared with a query so far."""

    def tasks(self) -> list[int]:
        return sorted(task for group in self.members for task in group)

    def signature(self, task: int) -> Tensor:
        return self.get_buffer(f"signature-{task}")

    def add(self, task: int, signature: Tensor) -> None:
        """Take in a task; the groups are made anew whenever there are four times as many tasks as before."""
        self.register_buffer(f"signature-{task}", signature)
        tasks = [*self.tasks(), task]
        if len(tasks) > (2 * len(self.members)) ** 2 or not self.members:
            self._regroup(tasks)
        else:
            self.members[self._nearest_groups(signature, 1)[0]].append(task)

    def near(self, signature: Tensor, count: int, among: Sequence[int] | None = None) -> list[int]:
        """The `count` most similar tasks, nearest first; all that there are if they are no more than that.

        Args:
            among: only these tasks, default all.
        """
        allowed = set(self.tasks() if among is None else among)
        if len(allowed) <= count:
            return sorted(allowed)
        found: list[int] = []
        for rank, group in enumerate(self._nearest_groups(signature, len(self.members))):
            if rank >= GROUPS and len(found) >= count:
                break
            found += [task for task in self.members[group] if task in allowed]
        return self._sorted(signature, found)[:count]

    def _distances(self, signature: Tensor, tasks: Sequence[int]) -> Tensor:
        self.compared += len(tasks)
        return torch.stack([(self.signature(task) - signature).square().sum() for task in tasks])

    def _sorted(self, signature: Tensor, tasks: Sequence[int]) -> list[int]:
        gaps = self._distances(signature, tasks).tolist()
        return [task for _, task in sorted(zip(gaps, tasks, strict=True))]

    def _nearest_groups(self, signature: Tensor, count: int) -> list[int]:
        pivots = [group[0] for group in self.members]
        return self._distances(signature, pivots).argsort(stable=True).tolist()[:count]

    def _regroup(self, tasks: Sequence[int]) -> None:
        """As many pivots as the square root of the number of tasks, evenly spaced among them."""
        count = math.isqrt(len(tasks) - 1) + 1
        self.members = [[tasks[i * len(tasks) // count]] for i in range(count)]
        pivots = {group[0] for group in self.members}
        for task in tasks:
            if task not in pivots:
                self.members[self._nearest_groups(self.signature(task), 1)[0]].append(task)

    def architecture(self) -> dict[str, Any]:
        return {"members": [list(group) for group in self.members],
                "sizes": {str(task): len(self.signature(task)) for task in self.tasks()}}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        self.members = [[int(task) for task in group] for group in architecture["members"]]
        for task, size in architecture["sizes"].items():
            self.register_buffer(f"signature-{task}", torch.zeros(size, dtype=torch.float64))


@torch.no_grad()
def signature_of(batches: Sequence[Windows], actions: int) -> Tensor:
    """(S,) float64: mean and spread of observations and actions, and the correlation of every pair of them.

    Args:
        actions: number of discrete actions, which are then counted; of continuous ones it is not used.
    """
    seen = torch.cat([_features(b.obs[b.valid]) for b in batches]).double()
    acted = torch.cat([b.action[b.valid] for b in batches])
    acted = F.one_hot(acted, actions).double() if acted.dtype == torch.int64 else acted.double()
    both = [_standardised(rows) for rows in (seen, acted)]
    correlation = both[0].T @ both[1] / len(seen)
    spread = seen.std(0, unbiased=False).clamp_min(SMALLEST).log10() / 4
    return torch.cat([seen.mean(0).asinh(), spread, acted.mean(0), acted.std(0, unbiased=False), correlation.flatten()])


def _features(obs: Tensor) -> Tensor:
    """(N, *O) -> (N, F): images become averages of their cells, 0 to 1."""
    if obs.dtype != torch.uint8:
        return obs.flatten(1)
    return F.adaptive_avg_pool2d(obs.float() / 255, (min(POOLED, obs.shape[-2]), min(POOLED, obs.shape[-1]))).flatten(1)


def _standardised(rows: Tensor) -> Tensor:
    deviation = rows.std(0, unbiased=False)
    return (rows - rows.mean(0)) / torch.where(deviation < SMALLEST, torch.ones_like(deviation), deviation)
