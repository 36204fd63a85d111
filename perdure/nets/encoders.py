"""Encoders from one observation to a feature vector: a linear map for vectors, a small conv net for images."""

import torch
from torch import Tensor, nn

from perdure.core.errors import UsageError
from perdure.core.spec import Box

LEAST = 36
"""Pixels of an image, in height and in width."""


class ImageEncoder(nn.Module):
    """Three convolutions and a linear map (the shape of Mnih et al. 2015, Nature 518, for any input of 36 pixels or more)."""

    def __init__(self, shape: tuple[int, ...], width: int):
        """
        Raises:
            UsageError: no image of a size that three convolutions can read.
        """
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < LEAST:
            raise UsageError(f"observations are uint8 of shape {list(shape)}; images are [channels, height, width] with {LEAST} x"
                             f" {LEAST} pixels or more: scale them up, or put the channels first")
        channels, height, breadth = shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()
        )

        def size(n: int) -> int:
            return (((n - 8) // 4 + 1) - 4) // 2 + 1 - 2

        self.project = nn.Linear(64 * size(height) * size(breadth), width)

    def forward(self, image: Tensor) -> Tensor:
        """(..., C, H, W) uint8 -> (..., width)."""
        lead = image.shape[:-3]
        flat = image.flatten(0, -4)  # (..., C, H, W) -> (n, C, H, W)
        flat = flat.contiguous(memory_format=torch.channels_last).float() / 255  # convolutions take 0.7 of the time so
        return self.project(self.convolutions(flat).flatten(1)).view(*lead, -1)


def encoder(obs: Box, width: int) -> nn.Module:
    """The encoder for an observation space."""
    return ImageEncoder(obs.shape, width) if obs.dtype == "uint8" else nn.Linear(obs.size, width)
