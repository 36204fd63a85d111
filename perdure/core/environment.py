"""EnvFactory: how a task says which environment scores it.

Evaluation and collection step environments in worker processes that they start afresh. What crosses to such a
worker is a small frozen dataclass of plain values, never an environment. Imports neither torch nor gymnasium.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import gymnasium


class EnvFactory(Protocol):
    """A frozen dataclass of plain values; calling it makes one environment with the Gymnasium API.

    The environment's `reset(seed=..., options={"goal": [...] | None})` starts the episode that seed and goal
    name; its `info["success"]` (bool) is there where the environment knows success.
    """

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        ...

    def __call__(self) -> gymnasium.Env:
        """A new environment.

        Raises:
            UsageError: the package it needs is not installed, or there is no such environment.
        """
        ...
