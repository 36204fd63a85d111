"""TaskCopies: parameters of which every task has a copy of its own, such as biases and norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import buffer_name


class TaskCopies(nn.ModuleDict):
    """Task -> its copies, by the policy's parameter names."""

    def open(self, task: int, values: Mapping[str, Tensor]) -> None:
        """Give the task copies that start at these values."""
        self[str(task)] = nn.ParameterDict({buffer_name(name): Parameter(v.detach().clone()) for name, v in values.items()})

    def of(self, task: int) -> dict[str, Parameter]:
        """The task's copies; none if it has not opened any."""
        if str(task) not in self:
            return {}
        return {name.replace("/", "."): p for name, p in self[str(task)].items()}

    def architecture(self) -> dict[str, Any]:
        return {task: {name: list(p.shape) for name, p in group.items()} for task, group in self.items()}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task, group in architecture.items():
            self[task] = nn.ParameterDict({name: Parameter(torch.zeros(shape)) for name, shape in group.items()})
