"""Mixtures of Gaussians whose noise is known exactly: what a sampler does without any network's error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from perdure.nets.diffusion import Predict, Schedule


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one deviation, equally likely."""

    modes: Tensor
    """(M, D) float64."""
    deviation: float

    @classmethod
    def random(cls, count: int, size: int, deviation: float, g: Generator) -> Mixture:
        """Modes drawn from the cube [-0.8, 0.8]^D."""
        return cls(torch.rand(count, size, dtype=torch.float64, generator=g) * 1.6 - 0.8, deviation)

    def samples(self, n: int, g: Generator) -> Tensor:
        """(n, D) true samples."""
        count, size = self.modes.shape
        chosen = self.modes[torch.randint(count, (n,), generator=g)]
        return chosen + self.deviation * torch.randn(n, size, generator=g, dtype=torch.float64)

    def noise(self, schedule: Schedule) -> Predict:
        """The expected noise in x_t, which a perfect network would predict."""

        def predict(x: Tensor, t: float) -> Tensor:
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            apart, variance = x.unsqueeze(1) - alpha * self.modes, alpha**2 * self.deviation**2 + sigma**2
            share = (-apart.square().sum(-1) / (2 * variance)).softmax(1)
            return sigma * (share.unsqueeze(-1) * apart).sum(1) / variance

        return predict

    def inside(self, samples: Tensor, radius: float) -> float:
        """Share of the samples (n, D) that lie within `radius` deviations of a mode."""
        nearest = torch.cdist(samples.double(), self.modes).amin(1)
        return float((nearest < radius * self.deviation).double().mean())
