"""ReplayMemory: raw windows of earlier tasks within a budget, as part of the agent's state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perdure.core.batch import Windows, mix, tensor_fields
from perdure.core.errors import UsageError
from perdure.core.method import Step

UNSTORED = ("task", "weight")
"""Fields that follow from the task; not kept."""


class ReplayMemory(nn.Module):
    """Windows per task, each in the random order they were drawn in, so that a prefix is a uniform sample.

    Observations are raw: each sample is normalised by its own task's statistics when a policy reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[int, list[str]] = {}
        self.spaces: dict[int, str] = {}

    def add(self, task: int, windows: Windows) -> None:
        """Keep these windows, which are in random order, for `task`."""
        self.parts[task] = [name for name in tensor_fields(windows) if name not in UNSTORED]
        self.spaces[task] = windows.spaces
        for name in self.parts[task]:
            self.register_buffer(f"{name}_{task}", windows.__dict__[name].clone())

    def size(self, task: int) -> int:
        """Windows kept of a task."""
        return len(self.get_buffer(f"valid_{task}"))

    def task_bytes(self, task: int) -> int:
        return sum(self.get_buffer(f"{name}_{task}").nbytes for name in self.parts[task])

    def bytes(self) -> int:
        """All that is kept, in bytes."""
        return sum(self.task_bytes(task) for task in self.parts)

    def shrink(self, budget: int) -> None:
        """Cut every task to an equal share of `budget` bytes; a prefix of a random order stays a uniform sample.

        Raises:
            UsageError: the share of a task holds not even one window; names the bytes that would.
        """
        for task in self.parts:
            per_window = self.task_bytes(task) // self.size(task)
            count = min(self.size(task), budget // len(self.parts) // per_window)
            if not count:
                raise UsageError(f"method.memory_bytes is {budget}, less than one window of {per_window} bytes for each of"
                                 f" {len(self.parts)} tasks; give {per_window * len(self.parts)} or more")
            for name in self.parts[task]:
                self.register_buffer(f"{name}_{task}", self.get_buffer(f"{name}_{task}")[:count].clone())

    def draw(self, n: int, step: Step) -> list[Windows]:
        """n windows, uniform over tasks, then over a task's windows; one batch per pair of spaces."""
        tasks = [task for task in self.parts if self.size(task)]
        device = self.get_buffer(f"valid_{tasks[0]}").device
        g = step.generator("memory", device)
        share = [n // len(tasks) + (place < n % len(tasks)) for place in range(len(tasks))]
        turn = step.index % len(tasks)  # the remainder goes to each task in turn
        picked = [self._part(task, torch.randint(self.size(task), (k,), generator=g, device=device))
                  for task, k in zip(tasks[turn:] + tasks[:turn], share, strict=True) if k]
        return mix(picked)

    def all(self, task: int) -> Windows:
        """Everything kept of a task."""
        return self._part(task, torch.arange(self.size(task), device=self.get_buffer(f"valid_{task}").device))

    def _part(self, task: int, index: Tensor) -> Windows:
        fields: dict[str, Any] = {name: self.get_buffer(f"{name}_{task}")[index] for name in self.parts[task]}
        n, device = len(index), index.device
        return Windows(**fields, task=torch.full((n,), task, device=device), weight=torch.ones(n, device=device),
                       tasks=(task,), spaces=self.spaces[task])

    def architecture(self) -> dict[str, Any]:
        """JSON: spaces, fields, shapes and types per task."""
        kept: dict[str, Any] = {}
        for task, names in self.parts.items():
            buffers = {name: self.get_buffer(f"{name}_{task}") for name in names}
            fields = {name: [list(value.shape), str(value.dtype)] for name, value in buffers.items()}
            kept[str(task)] = {"spaces": self.spaces[task], "fields": fields}
        return kept

    def rebuild(self, architecture: dict[str, Any]) -> None:
        types = {str(t): t for t in (torch.float32, torch.int64, torch.bool, torch.uint8)}
        for task, kept in architecture.items():
            self.parts[int(task)], self.spaces[int(task)] = list(kept["fields"]), kept["spaces"]
            for name, (shape, kind) in kept["fields"].items():
                self.register_buffer(f"{name}_{task}", torch.zeros(shape, dtype=types[kind]))


