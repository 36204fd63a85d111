"""ValueNet: Q(s, a) or V(s) of every task, through a shared trunk and each sample's own head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perdure.nets.heads import HeadBank


class ValueNet(nn.Module):
    """(B, I) observations, or observations with actions -> (B,) values."""

    def __init__(self, width: int, layers: int, activation: type[nn.Module] = nn.ReLU):
        """`layers` hidden layers of `width` units, the encoder included."""
        super().__init__()
        self.width = width
        self.encoders = nn.ModuleDict()
        inner = [module for _ in range(layers - 1) for module in (nn.Linear(width, width), activation())]
        self.trunk = nn.Sequential(activation(), *inner)
        self.bank = HeadBank(width)

    def add_task(self, task: int, spaces: str, inputs: int) -> None:
        """Open the task's head, and the encoder of its spaces if they are new."""
        if spaces not in self.encoders:
            self.encoders[spaces] = nn.Linear(inputs, self.width)
        self.bank.add(task, f"task-{task}", 1)

    def forward(self, x: Tensor, spaces: str, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """`task` (B,) says whose head a row goes through; `tasks` are those that occur."""
        features = self.trunk(self.encoders[spaces](x)).unsqueeze(1)  # (B, D) -> (B, 1, D)
        return self.bank(features, task, tasks).flatten()


def mean_per_task(values: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
    """(B,) -> (B,), in every row the mean over the rows of its task."""
    if len(tasks) == 1:
        return values.mean().expand_as(values)
    same = (task.unsqueeze(1) == torch.tensor(tasks, device=task.device)).to(values.dtype)  # (B, K)
    return same @ (same.T @ values / same.sum(0).clamp_min(1))
