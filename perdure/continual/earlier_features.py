"""EarlierFeatures: the mixture of earlier modules' features for windows of a dataset, computed once for each window.

Modules and their weights stand still while a task's own module learns, so the mixture is a function of the window alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perdure.core.batch import Windows
from perdure.data.sampler import Sampler

BLOCK = 64
"""Windows that are computed together, always the same ones, so that the numbers do not depend on what was asked for first."""


class EarlierFeatures:
    """Filled block by block, as windows are asked for. Nothing of it is saved."""

    def __init__(self, sampler: Sampler, length: int, compute: Callable[[Windows], Tensor], limit: int):
        """`compute`: windows (B) -> (B, L, D); `limit` in bytes, above which every window is computed when it is asked for."""
        self.sampler, self.length, self.compute, self.limit = sampler, length, compute, limit
        self.kept: Tensor | None = None
        self.known = torch.zeros(0, dtype=torch.bool, device=sampler.device)
        self.refused = False

    def of(self, start: Tensor, windows: Windows) -> Tensor:
        """(B, L, D) of the windows that begin at the flat steps `start` (B,)."""
        if self.refused or (self.kept is None and not self._open(start)):
            return self.compute(windows)
        assert self.kept is not None
        for block in (start[~self.known[start]] // BLOCK).unique().tolist():
            steps = torch.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.known)), device=start.device)
            self.kept[steps] = self.compute(self.sampler.windows_at(steps, self.length))
            self.known[steps] = True
        return self.kept[start]

    def _open(self, start: Tensor) -> bool:
        """Whether all windows have room."""
        one = self.compute(self.sampler.windows_at(start[:1], self.length))
        count = len(self.sampler.timestep)
        if count * one.numel() * one.element_size() > self.limit:
            self.refused = True
            return False
        self.kept = one.new_zeros(count, *one.shape[1:])
        self.known = torch.zeros(count, dtype=torch.bool, device=one.device)
        return True
