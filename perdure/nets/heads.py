"""HeadBank: output heads chosen per sample by its task, so that replayed samples go through their own head."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class HeadBank(nn.Module):
    """Linear heads by name, and which head each task uses (its own, or one shared by tasks of equal spaces)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.heads = nn.ModuleDict()
        self.of_task: dict[int, str] = {}

    def add(self, task: int, name: str, size: int) -> None:
        """Let `task` use head `name`, made if it does not exist."""
        if name not in self.heads:
            self.heads[name] = nn.Linear(self.width, size)
        self.of_task[task] = name

    def own(self, task: int) -> str | None:
        """The head that only this task uses, if it has one."""
        name = self.of_task[task]
        return name if list(self.of_task.values()).count(name) == 1 and name.startswith("task-") else None

    def forward(self, features: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, ..., D) -> (B, ..., size); `task` (B,) says whose head each row goes through."""
        names = {self.of_task[t] for t in tasks}
        if len(names) == 1:
            return self.heads[names.pop()](features)
        order = sorted(tasks)
        lookup = torch.zeros(max(order) + 1, dtype=torch.int64, device=task.device)
        lookup[torch.tensor(order, device=task.device)] = torch.arange(len(order), device=task.device)
        row = lookup[task]
        heads = [cast(nn.Linear, self.heads[self.of_task[t]]) for t in order]
        weight, bias = torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads])
        flat = features.flatten(1, -2)  # (B, ..., D) -> (B, L, D)
        if bias.shape[1] == 1:  # to ask all heads of one number costs less than a copy of the weights for every row
            every = nn.functional.linear(flat, weight.squeeze(1), bias.squeeze(1))  # (B, L, heads)
            out = every.gather(2, row.view(-1, 1, 1).expand(-1, every.shape[1], 1))
        else:
            out = torch.baddbmm(bias[row].unsqueeze(1), flat, weight[row].transpose(1, 2))  # (B, size, D) of every row's head
        return out.view(*features.shape[:-1], -1)


class Normalizer(nn.Module):
    """Mean and standard deviation of the observations, per task, applied to each sample by its own task."""

    LIMIT = 10.0
    """Normalised values are clamped to this many standard deviations: far outside the data nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def add(self, task: int, mean: Tensor, std: Tensor) -> None:
        self.sizes[task] = len(mean)
        self.register_buffer(f"mean_{task}", mean.clone())
        self.register_buffer(f"std_{task}", std.clone())

    def forward(self, obs: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, ..., O) raw -> normalised; images (uint8) pass unchanged."""
        if obs.dtype == torch.uint8:
            return obs
        if len(tasks) == 1:
            mean, std = self.get_buffer(f"mean_{tasks[0]}"), self.get_buffer(f"std_{tasks[0]}")
        else:
            lookup = torch.zeros(max(tasks) + 1, dtype=torch.int64, device=task.device)
            lookup[torch.tensor(tasks, device=task.device)] = torch.arange(len(tasks), device=task.device)
            shape = (len(task),) + (1,) * (obs.dim() - 2) + (-1,)
            mean = torch.stack([self.get_buffer(f"mean_{t}") for t in tasks])[lookup[task]].view(shape)
            std = torch.stack([self.get_buffer(f"std_{t}") for t in tasks])[lookup[task]].view(shape)
        return ((obs - mean) / std).clamp(-self.LIMIT, self.LIMIT)
