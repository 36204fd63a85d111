"""Episodes that a number names, for environments without goals: the number seeds how an episode begins. Imports no torch."""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium

from perdure.benchmarks import frozen
from perdure.core.errors import UsageError
from perdure.core.task import Goals

FIRST_OF_DATA = 1000
"""Data are made of the episodes with this number and those after it, scores of episodes before it."""


def goals() -> Goals:
    """Numbers of the episodes for evaluation; no data are made with them."""
    lists, begin = {}, 0
    for name, count in frozen.SIZES.items():
        lists[name] = tuple((float(begin + i),) for i in range(count))
        begin += count
    return Goals(**lists)


def goals_of_data(episodes: int) -> list[tuple[float, ...]]:
    """Numbers of the episodes that data are made of."""
    return [(float(FIRST_OF_DATA + i),) for i in range(episodes)]


def number_of(goal: Any, family: str) -> int:
    """The number in a goal.

    Args:
        family: whose episode it is, such as "an Atari", for the message.

    Raises:
        UsageError: the goal is something else.
    """
    with contextlib.suppress(TypeError, ValueError):
        (value,) = (float(x) for x in goal)
        if value.is_integer() and 0 <= value < 2**31:
            return int(value)
    raise UsageError(f"goal of {family} episode is {str(goal)[:80]}; it is one whole number from 0 to {2**31 - 1}, such as [3]")


def episode_of(env: gymnasium.Env, seed: int | None, options: dict[str, Any] | None, family: str) -> int:
    """The number of the episode that a reset of `env` begins: that in `options["goal"]`, else `seed`, else one drawn by `env`.

    Raises:
        UsageError: the goal is something else than one whole number.
    """
    goal = (options or {}).get("goal")
    if goal is not None:
        return number_of(goal, family)
    return int(env.np_random.integers(2**31)) if seed is None else int(seed)
