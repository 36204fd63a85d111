"""The options of every method that keeps past data, so that methods are compared at the same number of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.core.errors import UsageError
from perdure.core.method import MethodConfig


@dataclass(frozen=True)
class ReplayConfig(MethodConfig):
    """A memory of past data."""

    memory_share: float = 0.05
    """Share of each task's training transitions that is kept."""
    memory_bytes: int | None = None
    """Budget for all tasks together, in bytes, shared equally; replaces `memory_share`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.memory_share <= 1:
            raise UsageError(f"method.memory_share is {self.memory_share}; give a share above 0 and at most 1")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise UsageError(f"method.memory_bytes is {self.memory_bytes}; give a number of bytes above 0, or none")
