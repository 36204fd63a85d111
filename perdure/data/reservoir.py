"""Reservoir: a random sample of everything that was offered, in a fixed number of rows, as part of the agent's state.

Every offered window gets a random key; the memory holds those with the smallest keys, which is a uniform sample without
replacement of all that was offered (Efraimidis and Spirakis 2006, with equal weights). Unlike the reservoir of Vitter
1985 it can grow and shrink, and a batch is taken in at once. A step costs the same whatever the number of rows: windows
are appended until the rows are full, and then one row in `SLACK` is freed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.data.memory import TYPES, stored_fields, windows_of

SLACK = 16
"""When all rows are taken, the largest keys leave until one row in this many is free."""

OWN = {"key": torch.float64, "task": torch.int16}
"""What is kept of a window beside its fields."""


class Reservoir(nn.Module):
    """A sample of the windows offered so far, per pair of spaces, all in flat tensors of fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, int] = {}
        """Spaces -> rows that may be taken."""
        self.taken: dict[str, int] = {}
        """Spaces -> rows that are; the first ones."""
        self.limit: dict[str, float] = {}
        """Spaces -> windows with a key above this are not taken in; infinite while there is room."""
        self.of_spaces: dict[str, list[int]] = {}
        """Spaces -> tasks that offered windows, in order."""
        self.fields: dict[str, list[str]] = {}
        """Spaces -> names of what is kept of a window; `extra:` marks what a method added."""

    def tasks(self) -> list[int]:
        """The tasks that were opened."""
        return [task for tasks in self.of_spaces.values() for task in tasks]

    def count(self) -> int:
        """Windows that are held."""
        return sum(self.taken.values())

    def bytes(self) -> int:
        """All rows, taken or not, in bytes."""
        return sum(self.rows[spaces] * self._row_bytes(spaces) for spaces in self.rows)

    def _buffer(self, spaces: str, name: str) -> Tensor:
        return self.get_buffer(f"{name}|{spaces}")

    def _names(self, spaces: str) -> list[str]:
        return [*OWN, *self.fields[spaces]]

    def _row_bytes(self, spaces: str) -> int:
        return sum(self._buffer(spaces, name)[0].nbytes for name in self._names(spaces))

    # -- changing it ----------------------------------------------------------------------------------------

    def open(self, task: int, like: Windows, *, more: int, budget: int | None = None) -> None:
        """Make room for a task whose windows are as `like`: `more` rows, or `budget` bytes for all tasks together, shared
        among the pairs of spaces by their number of tasks.

        Raises:
            UsageError: a share of the budget holds not even one window; names the bytes that would.
        """
        spaces = like.spaces
        if spaces not in self.fields:
            values = stored_fields(like)
            self.fields[spaces] = list(values)
            self.rows[spaces], self.taken[spaces], self.limit[spaces], self.of_spaces[spaces] = 0, 0, float("inf"), []
            for name, value in values.items():
                self.register_buffer(f"{name}|{spaces}", value[:1].detach().clone())
            for name, kind in OWN.items():
                self.register_buffer(f"{name}|{spaces}", torch.zeros(1, dtype=kind, device=like.task.device))
        self.of_spaces[spaces].append(task)
        if budget is None:
            self._resize(spaces, self.rows[spaces] + more)
            return
        count, sizes = len(self.tasks()), {name: self._row_bytes(name) for name in self.rows}
        rows = {name: budget * len(self.of_spaces[name]) // count // size for name, size in sizes.items()}
        if not all(rows.values()):
            raise UsageError(f"method.memory_bytes is {budget}, less than one window of {max(sizes.values())} bytes for each of"
                             f" {count} tasks; give {max(sizes.values()) * count} or more")
        for name, number in rows.items():
            self._resize(name, number)

    def _resize(self, spaces: str, rows: int) -> None:
        """Change the number of rows; the largest keys leave where there are fewer, and new room is open to every key."""
        if rows > self.rows[spaces]:
            self.limit[spaces] = float("inf")
        if rows < self.taken[spaces]:
            self._lower(spaces, self._buffer(spaces, "key")[: self.taken[spaces]], rows)
        taken = self.taken[spaces]
        for name in self._names(spaces):
            old = self._buffer(spaces, name)
            new = old.new_zeros(rows, *old.shape[1:])
            new[:taken] = old[:taken]
            self.register_buffer(f"{name}|{spaces}", new)
        self.rows[spaces] = rows

    def _lower(self, spaces: str, keys: Tensor, count: int) -> None:
        """Set the limit to the `count` smallest of `keys`, and drop the windows above it."""
        limit = float(keys.kthvalue(count).values)
        stay = (self._buffer(spaces, "key")[: self.taken[spaces]] <= limit).nonzero().flatten()
        for name in self._names(spaces):
            values = self._buffer(spaces, name)
            values[: len(stay)] = values[stay]
        self.limit[spaces], self.taken[spaces] = limit, len(stay)

    @torch.no_grad()
    def offer(self, windows: Windows, g: Generator) -> None:
        """Let a batch of an open task compete for the rows; `g` is a CPU generator of this place."""
        spaces = windows.spaces
        key = torch.rand(len(windows), generator=g, dtype=torch.float64)
        chosen = (key < self.limit[spaces]).nonzero().flatten()
        if self.taken[spaces] + len(chosen) > self.rows[spaces]:
            held = self._buffer(spaces, "key")[: self.taken[spaces]]
            most = self.rows[spaces] - self.rows[spaces] // SLACK
            self._lower(spaces, torch.cat([held, key[chosen].to(held.device)]), most)
            chosen = (key <= self.limit[spaces]).nonzero().flatten()
        if not len(chosen):
            return
        begin = self.taken[spaces]
        place = chosen.to(windows.task.device)
        values = stored_fields(windows) | {"key": key.to(place.device), "task": windows.task}
        for name in self._names(spaces):
            self._buffer(spaces, name)[begin : begin + len(chosen)] = values[name].index_select(0, place)
        self.taken[spaces] += len(chosen)

    # -- reading it -----------------------------------------------------------------------------------------

    def draw(self, n: int, step: Step, purpose: str = "memory") -> list[Windows]:
        """n windows, uniform over all that are held; one batch per pair of spaces."""
        place = torch.randint(self.count(), (n,), generator=step.generator(purpose))
        drawn = []
        for spaces, taken in self.taken.items():
            rows = place if len(self.taken) == 1 else place[(place >= 0) & (place < taken)]
            place = place - taken
            if len(rows):
                drawn.append(self._windows(spaces, rows))
        return drawn

    def all(self, spaces: str) -> Windows:
        """Everything held of these spaces."""
        return self._windows(spaces, torch.arange(self.taken[spaces]))

    def _windows(self, spaces: str, rows: Tensor) -> Windows:
        rows = rows.to(self._buffer(spaces, "key").device)
        fields = {name: self._buffer(spaces, name).index_select(0, rows) for name in self.fields[spaces]}
        task = self._buffer(spaces, "task").index_select(0, rows).long()
        return windows_of(fields, task, tuple(self.of_spaces[spaces]), spaces)

    # -- saving it ------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        """JSON: per pair of spaces its tasks, rows and limit, and shapes and types of what a row holds."""
        return {
            spaces: {
                "tasks": self.of_spaces[spaces], "rows": self.rows[spaces], "taken": self.taken[spaces],
                "limit": None if self.limit[spaces] == float("inf") else self.limit[spaces],
                "fields": {name: [list(self._buffer(spaces, name).shape[1:]), str(self._buffer(spaces, name).dtype)]
                           for name in self.fields[spaces]},
            }
            for spaces in self.rows
        }  # fmt: skip

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for spaces, entry in architecture.items():
            self.of_spaces[spaces], self.fields[spaces] = list(entry["tasks"]), list(entry["fields"])
            self.rows[spaces], self.taken[spaces] = int(entry["rows"]), int(entry["taken"])
            self.limit[spaces] = float("inf") if entry["limit"] is None else float(entry["limit"])
            for name, (shape, kind) in entry["fields"].items():
                self.register_buffer(f"{name}|{spaces}", torch.zeros(entry["rows"], *shape, dtype=TYPES[kind]))
            for name, kind in OWN.items():
                self.register_buffer(f"{name}|{spaces}", torch.zeros(entry["rows"], dtype=kind))
