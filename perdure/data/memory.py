"""ReplayMemory: raw windows of earlier tasks within a budget, as part of the agent's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from perdure.core.batch import Windows, tensor_fields
from perdure.core.errors import UsageError
from perdure.core.method import Step

UNSTORED = ("task", "weight")
"""Fields that follow from the task; not kept."""

TYPES = {str(t): t for t in (torch.float32, torch.int64, torch.bool, torch.uint8)}


class ReplayMemory(nn.Module):
    """Windows per task, each in the random order they were drawn in, so that a prefix is a uniform sample.

    Observations are raw: each sample is normalised by its own task's statistics when a policy reads it. Tasks of equal
    spaces lie in the same flat tensors, so that a draw costs one gather whatever the number of tasks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, int] = {}
        """Task -> windows kept of it, in the order the tasks came."""
        self.spaces: dict[int, str] = {}
        """Task -> its spaces; tasks of equal spaces share a group of tensors."""
        self.fields: dict[str, list[str]] = {}
        """Spaces -> names of what is kept of a window; `extra:` marks what a method added."""

    # -- what is kept ---------------------------------------------------------------------------------------

    def tasks(self) -> list[int]:
        """The tasks of which something is kept."""
        return list(self.counts)

    def size(self, task: int) -> int:
        """Windows kept of a task."""
        return self.counts[task]

    def task_bytes(self, task: int) -> int:
        return self.counts[task] * self._window_bytes(self.spaces[task])

    def bytes(self) -> int:
        """All that is kept, in bytes."""
        return sum(self.task_bytes(task) for task in self.counts)

    def _group(self, spaces: str) -> list[int]:
        """Tasks of these spaces, in the order of their rows."""
        return [task for task in self.counts if self.spaces[task] == spaces]

    def _buffer(self, spaces: str, name: str) -> Tensor:
        return self.get_buffer(_key(spaces, name))

    def _window_bytes(self, spaces: str) -> int:
        return sum(self._buffer(spaces, name)[0].nbytes for name in self.fields[spaces])

    def _rows(self, task: int) -> Tensor:
        """Rows of a task in the tensors of its spaces."""
        spaces = self.spaces[task]
        before = self._group(spaces)
        start = sum(self.counts[t] for t in before[: before.index(task)])
        return torch.arange(start, start + self.counts[task], device=self._device(spaces))

    def _device(self, spaces: str) -> torch.device:
        return self._buffer(spaces, "valid").device

    # -- changing it ----------------------------------------------------------------------------------------

    def add(self, task: int, windows: Windows) -> None:
        """Keep these windows, which are in random order, for `task`; all of equal spaces keep the same fields."""
        values = stored_fields(windows)
        spaces = windows.spaces
        known = spaces in self.fields
        assert not known or self.fields[spaces] == list(values), "windows of equal spaces keep the same fields"
        self.fields[spaces] = list(values)
        for name, value in values.items():
            kept = [self._buffer(spaces, name)] if known else []
            self.register_buffer(_key(spaces, name), torch.cat([*kept, value]))
        self.counts[task], self.spaces[task] = len(windows), spaces

    def shrink(self, budget: int) -> None:
        """Cut every task to an equal share of `budget` bytes; a prefix of a random order stays a uniform sample.

        Raises:
            UsageError: the share of a task holds not even one window; names the bytes that would.
        """
        share = budget // len(self.counts)
        fitting = {task: min(n, share // self._window_bytes(self.spaces[task])) for task, n in self.counts.items()}
        if not all(fitting.values()):
            largest = max(self._window_bytes(spaces) for spaces in self.fields)
            raise UsageError(f"method.memory_bytes is {budget}, less than one window of {largest} bytes for each of"
                             f" {len(self.counts)} tasks; give {largest * len(self.counts)} or more")
        self.select({task: torch.arange(count) for task, count in fitting.items()})

    def select(self, places: Mapping[int, Tensor]) -> None:
        """Keep, of every task, the windows at these places among its own, in this order; a task without any is dropped."""
        for spaces in list(self.fields):
            rows = torch.cat([self._rows(task)[places[task].to(self._device(spaces))] for task in self._group(spaces)])
            for name in self.fields[spaces]:
                kept = self._buffer(spaces, name)[rows]
                del self._buffers[_key(spaces, name)]
                if len(rows):
                    self.register_buffer(_key(spaces, name), kept)
            if not len(rows):
                del self.fields[spaces]
        self.counts = {task: len(places[task]) for task in self.counts if len(places[task])}
        self.spaces = {task: self.spaces[task] for task in self.counts}

    # -- reading it -----------------------------------------------------------------------------------------

    def draw(self, n: int, step: Step, purpose: str = "memory") -> list[Windows]:
        """n windows, uniform over tasks, then over a task's windows; one batch per pair of spaces.

        Every task gets n/N of them; what remains goes to each task in turn, step after step.
        """
        order = list(self.counts)
        device = self._device(next(iter(self.fields)))
        # the step decides who gets the remainder, so that no task is favoured
        slot = (torch.arange(n, device=device) + step.index * (n % len(order))) % len(order)
        sizes = torch.tensor([self.counts[task] for task in order], device=device)
        share = torch.rand(n, generator=step.generator(purpose, device), device=device, dtype=torch.float64)
        place = (share * sizes[slot]).long()
        drawn = []
        for spaces in self.fields:
            group = self._group(spaces)
            counts = [self.counts[task] for task in group]
            starts = dict(zip(group, accumulate([0, *counts]), strict=False))
            start = torch.tensor([starts.get(task, -1) for task in order], device=device)[slot]
            task = torch.tensor(order, device=device)[slot]
            mine = slice(None) if len(self.fields) == 1 else start >= 0
            batch = self._windows(spaces, (start + place)[mine], task[mine], tuple(group))
            if len(batch):
                drawn.append(batch)
        return drawn

    def all(self, task: int) -> Windows:
        """Everything kept of a task."""
        rows = self._rows(task)
        return self._windows(self.spaces[task], rows, torch.full_like(rows, task), (task,))

    def _windows(self, spaces: str, rows: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Windows:
        values = {name: self._buffer(spaces, name).index_select(0, rows) for name in self.fields[spaces]}
        return windows_of(values, task, tasks, spaces)

    # -- saving it ------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        """JSON: counts and spaces per task; fields, shapes and types per pair of spaces."""
        kept = {
            spaces: {name: [list(self._buffer(spaces, name).shape), str(self._buffer(spaces, name).dtype)] for name in names}
            for spaces, names in self.fields.items()
        }
        return {"tasks": [[task, self.spaces[task], count] for task, count in self.counts.items()], "fields": kept}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task, spaces, count in architecture["tasks"]:
            self.counts[int(task)], self.spaces[int(task)] = int(count), spaces
        for spaces, fields in architecture["fields"].items():
            self.fields[spaces] = list(fields)
            for name, (shape, kind) in fields.items():
                self.register_buffer(_key(spaces, name), torch.zeros(shape, dtype=TYPES[kind]))


def stored_fields(windows: Windows) -> dict[str, Tensor]:
    """What is kept of windows, by name; `extra:` marks what a method added."""
    own = {name: windows.__dict__[name] for name in tensor_fields(windows) if name not in UNSTORED}
    return own | {f"extra:{name}": value for name, value in windows.extra.items()}


def windows_of(fields: Mapping[str, Tensor], task: Tensor, tasks: tuple[int, ...], spaces: str) -> Windows:
    """The windows of which these fields were kept."""
    extra = {name.removeprefix("extra:"): value for name, value in fields.items() if name.startswith("extra:")}
    own = {name: value for name, value in fields.items() if not name.startswith("extra:")}
    weight = torch.ones(len(task), device=task.device)
    return Windows(**own, task=task, weight=weight, tasks=tasks, spaces=spaces, extra=extra)


def with_extra(windows: Windows, **extra: Tensor) -> Windows:
    """The same windows with tensors of a method's own, leading axis B, kept and drawn with them."""
    return replace(windows, extra={**windows.extra, **extra})


def _key(spaces: str, name: str) -> str:
    """Buffer names may not contain dots; those of spaces and fields have none."""
    return f"{name}|{spaces}"
