"""The denoiser of flat vectors: a small U-net of fully connected blocks that see the time and a condition.

Shape: the code released with CuGRO (Liu et al. 2024, arXiv 2404.10662), which is that of SfBC (Chen et al. 2023, arXiv
2209.14548). What a block makes of time and condition does not depend on x, so that sampling computes it once per step and once
per sample.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.core.errors import UsageError
from perdure.nets.diffusion import Predict, Schedule

Sampling = Literal["plain", "bf16", "compiled"]
"""How samples are computed: in single precision, with matrices in bfloat16, or by a program that torch.compile makes."""

FEATURES = 32
"""Frequencies of the time, each as sine and cosine."""

EMBEDDED = 128
"""Size of what a block sees of time and of condition."""


class Block(nn.Module):
    """x (B, n) -> (B, m), with what it is told added between its two layers."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)
        self.time, self.condition = nn.Linear(EMBEDDED, outputs), nn.Linear(EMBEDDED, outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return F.silu(self.second(F.silu(self.first(x)) + told)) + self.skip(x)


class Denoiser(nn.Module):
    """Predicts of a noisy vector (B, D), its time and a condition (B, C) what the diffusion is trained to predict, (B, D)."""

    frequencies: Tensor

    def __init__(self, size: int, condition: int, widths: Sequence[int] = (512, 256, 128), scale: float = 1.0,
                 sampling: Sampling = "plain", stays: int = 0):
        """Args:
        size: D.
        condition: C; 0 for none.
        widths: of the blocks from the outermost to the innermost.
        scale: standard deviation of the random frequencies of the time; 30 in the released code.
        sampling: how `prepared` computes; training is not changed by it.
        stays: so many of the last numbers of a condition are told even where the others are left out.
        """
        super().__init__()
        self.sampling, self.stays = sampling, stays
        self.register_buffer("frequencies", torch.randn(FEATURES) * scale)
        self.of_time = nn.Linear(2 * FEATURES, 64)
        self.of_condition = nn.Linear(condition, 64) if condition else None
        self.absent = nn.Parameter(torch.zeros(64))
        """Stands for the condition where it is left out."""
        self.both = nn.Sequential(nn.Linear(64, EMBEDDED), nn.SiLU(), nn.Linear(EMBEDDED, EMBEDDED))
        outer = list(widths)
        self.down = nn.ModuleList(Block(n, m) for n, m in zip([size, *outer], outer, strict=False))
        self.middle = Block(outer[-1], outer[-1])
        inner = outer[::-1]
        self.up = nn.ModuleList(Block(2 * n, m) for n, m in pairwise(inner))
        self.out = nn.Linear(2 * outer[0], size)

    def blocks(self) -> list[Block]:
        """In the order in which they are run."""
        return [*self.down, self.middle, *self.up]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Args:
        x: (B, D) noisy.
        t: (B,) from 0 to 1.
        condition: (B, C).
        present: (B,) bool, False where the condition is left out; None: it is always there.
        """
        time = F.silu(self._time(t))
        told = F.silu(self._condition(condition, present, len(x)))
        return self._run(x, [block.time(time) + block.condition(told) for block in self.blocks()])

    def _time(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t.unsqueeze(1) * self.frequencies
        return self.both(self.of_time(torch.cat([angle.sin(), angle.cos()], 1)))

    def _condition(self, condition: Tensor | None, present: Tensor | None, n: int) -> Tensor:
        """(B, EMBEDDED)."""
        if condition is None or self.of_condition is None:
            return self.both(self.absent).expand(n, -1)
        embedded = F.silu(self.of_condition(condition))
        if present is not None:
            embedded = torch.where(present.unsqueeze(1), embedded, self._left_out(self.of_condition, condition))
        return self.both(embedded)

    def _left_out(self, layer: nn.Linear, condition: Tensor) -> Tensor:
        """What is left of an embedded condition where it is left out, (64,) or (B, 64)."""
        if not self.stays:
            return self.absent
        return self.absent + F.silu(F.linear(condition[:, -self.stays :], layer.weight[:, -self.stays :]))

    def _run(self, x: Tensor, told: Sequence[Tensor]) -> Tensor:
        kept, at = [], iter(told)
        for block in self.down:
            x = block(x, next(at))
            kept.append(x)
        x = self.middle(x, next(at))
        for block in self.up:
            x = block(torch.cat([x, kept.pop()], 1), next(at))
        return self.out(torch.cat([x, kept.pop()], 1))

    @torch.no_grad()
    def prepared(self, condition: Tensor | None, times: Sequence[float], n: int, guidance: float = 0.0) -> Predict:
        """A function of x (n, D) and one of `times`, with all that does not depend on x computed once.

        Args:
            condition: (n, C), or None.
            guidance: w of classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): (1 + w) times the prediction with
                the condition minus w times the one without, both in one batch; 0 is without guidance.
        """
        run = _compiled() if self.sampling == "compiled" else Denoiser._run
        at = torch.tensor(sorted(set(times)), dtype=torch.float32, device=self.frequencies.device)
        place = {t: i for i, t in enumerate(sorted(set(times)))}
        guided = guidance != 0 and condition is not None
        told = self._condition(condition, None, n)
        if guided:
            told = torch.cat([told, self._condition(condition, torch.zeros(n, dtype=torch.bool, device=told.device), n)])
        time, told = F.silu(self._time(at)), F.silu(told)
        of_time = [block.time(time) for block in self.blocks()]
        of_condition = [block.condition(told) for block in self.blocks()]

        def predict(x: Tensor, t: float) -> Tensor:
            i = place[t]
            doubled = torch.cat([x, x]) if guided else x
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.sampling == "bf16"):
                out = run(self, doubled, [a[i] + b for a, b in zip(of_time, of_condition, strict=True)]).to(x.dtype)
            if not guided:
                return out
            with_it, without = out.chunk(2)
            return (1 + guidance) * with_it - guidance * without

        return predict


@cache
def _compiled() -> Callable[[Denoiser, Tensor, Sequence[Tensor]], Tensor]:
    """`Denoiser._run` through torch.compile, one program for all sizes of a batch.

    Raises:
        UsageError: there is no C++ compiler, which it needs.
    """
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise UsageError("sampling is 'compiled', which needs a C++ compiler (g++ or clang++); install one or use plain")
    return torch.compile(Denoiser._run, dynamic=True)


def denoising_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """(B,), the squared error summed over the vector, as in the released code."""
    return (predicted - target).square().sum(1)


def random_times(n: int, schedule: Schedule, device: torch.device | str = "cpu", earliest: float = 1e-5) -> Tensor:
    """(n,) uniform from `earliest` to where the schedule ends; from torch's global generator, which a run seeds at every step."""
    return earliest + (schedule.latest - earliest) * torch.rand(n, device=device)
