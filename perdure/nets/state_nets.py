"""Generators of states: a diffusion model, a variational autoencoder and a generative adversarial network behind one interface.

They know vectors (B, O) on a common scale and what they are told of the task (B, C); who scales and tells is `StateModel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter

from perdure.nets.denoiser import Denoiser, denoising_loss, random_times
from perdure.nets.diffusion import Linear, Sampler, perturbed

LATENT = 16
"""Numbers that the autoencoder and the adversarial network draw a state from."""


@dataclass(frozen=True)
class Taught:
    """Rows that learn what a network said before, not what was drawn from it."""

    rows: Tensor
    """(B,) bool."""
    weights: Mapping[str, Tensor]
    """Of the network then, by its names."""
    told: Tensor
    """(B, C) what it was told then."""


class StateNet(nn.Module, ABC):
    """A generator of states."""

    recipes: ClassVar[dict[str, dict[str, Any]]] = {"generator": {}}
    """Part -> how its optimizer differs; every part has a loss and parameters of its own."""
    TURNS: ClassVar[int] = 1
    """Updates for every one of the part that draws."""

    def parameters_of(self, part: str) -> dict[str, Parameter]:
        """Those that the loss of a part trains."""
        return dict(self.named_parameters())

    def due(self, part: str, update: int) -> bool:
        """Whether the part is trained in this update."""
        return part != "generator" or update % self.TURNS == self.TURNS - 1

    @abstractmethod
    def loss(self, part: str, x: Tensor, told: Tensor, taught: Taught | None = None) -> Tensor:
        """(B,) of states (B, O), with torch's global randomness. Only a diffusion model can be taught."""

    @abstractmethod
    def draw(self, told: Tensor, g: Generator | None) -> Tensor:
        """(B, O), a state for every row of `told` (B, C)."""


class DiffusionNet(StateNet):
    """Denoising diffusion; left out of a share of the updates, what it is told can be stressed when drawing."""

    def __init__(self, size: int, told: int, width: int, *, scale: float, sampler: Sampler, left_out: float, guidance: float,
                 stays: int = 0):
        """Args:
        width: of the outermost block; the inner ones have a half and a quarter.
        scale: standard deviation of the frequencies of the time.
        left_out: share of the updates' rows that are told nothing.
        guidance: how much what is told is stressed (`Denoiser.prepared`).
        stays: so many of the last numbers told are never left out, nor stressed.
        """
        super().__init__()
        self.denoiser = Denoiser(size, told, (width, width // 2, width // 4), scale, stays=stays)
        self.schedule, self.sampler, self.left_out, self.guidance, self.size = Linear(), sampler, left_out, guidance, size

    def loss(self, part: str, x: Tensor, told: Tensor, taught: Taught | None = None) -> Tensor:
        noise, t = torch.randn_like(x), random_times(len(x), self.schedule, x.device)
        present = torch.rand(len(x), device=x.device) >= self.left_out if self.left_out else None
        noisy, target = perturbed(x, noise, t, self.schedule), noise
        if taught is not None:
            before = {name.removeprefix("denoiser."): value for name, value in taught.weights.items()}
            with torch.no_grad():
                said = functional_call(self.denoiser, before, (noisy, t, taught.told, present))
            target = torch.where(taught.rows.unsqueeze(1), said, noise)
        return denoising_loss(self.denoiser(noisy, t, told, present), target)

    def draw(self, told: Tensor, g: Generator | None) -> Tensor:
        noise = torch.randn((len(told), self.size), generator=g, device=told.device)
        predict = self.denoiser.prepared(told, self.sampler.times(self.schedule), len(told), self.guidance)
        return self.sampler.draw(predict, noise, self.schedule, g=g)


class VAENet(StateNet):
    """A conditional variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114) whose observation noise is learned, so
    that nothing weighs its two terms by hand (Rybkin et al. 2021, arXiv 2006.13202)."""

    def __init__(self, size: int, told: int, width: int):
        super().__init__()
        self.encoder, self.decoder = perceptron(size + told, 2 * LATENT, width), perceptron(LATENT + told, size, width)
        self.log_std = Parameter(torch.zeros(()))

    def loss(self, part: str, x: Tensor, told: Tensor, taught: Taught | None = None) -> Tensor:
        mean, log_std = self.encoder(torch.cat([x, told], 1)).chunk(2, 1)
        log_std = log_std.clamp(-7, 2)
        latent = mean + log_std.exp() * torch.randn_like(mean)
        error = ((self.decoder(torch.cat([latent, told], 1)) - x) * (-self.log_std).exp()).square()
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
        return (0.5 * error + self.log_std).sum(1) + divergence.sum(1)

    def draw(self, told: Tensor, g: Generator | None) -> Tensor:
        latent = torch.randn((len(told), LATENT), generator=g, device=told.device)
        mean = self.decoder(torch.cat([latent, told], 1))
        return mean + self.log_std.exp() * torch.randn(mean.shape, generator=g, device=told.device)


class GANNet(StateNet):
    """A conditional Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028), as deep generative replay
    uses (Shin et al. 2017, arXiv 1705.08690)."""

    recipes = {part: {"lr": 3e-4, "betas": (0.0, 0.9)} for part in ("discriminator", "generator")}
    PENALTY, TURNS = 10.0, 5

    def __init__(self, size: int, told: int, width: int):
        super().__init__()
        self.generator, self.discriminator = perceptron(LATENT + told, size, width), perceptron(size + told, 1, width)

    def parameters_of(self, part: str) -> dict[str, Parameter]:
        return {name: p for name, p in self.named_parameters() if name.startswith(f"{part}.")}

    def loss(self, part: str, x: Tensor, told: Tensor, taught: Taught | None = None) -> Tensor:
        made = self.draw(told, None)
        if part == "generator":
            return -self._judged(made, told.detach())  # else it would learn to tell what the discriminator likes
        made, share = made.detach(), torch.rand(len(x), 1, device=x.device)
        between = (share * x + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(self._judged(between, told).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square()
        return self._judged(made, told) - self._judged(x, told) + self.PENALTY * penalty

    def _judged(self, x: Tensor, told: Tensor) -> Tensor:
        return self.discriminator(torch.cat([x, told], 1)).squeeze(1)

    def draw(self, told: Tensor, g: Generator | None) -> Tensor:
        latent = torch.randn((len(told), LATENT), generator=g, device=told.device)
        return self.generator(torch.cat([latent, told], 1))


def perceptron(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))


NETS: dict[str, type[StateNet]] = {"diffusion": DiffusionNet, "vae": VAENet, "gan": GANNet}
"""Kind -> class."""
