"""Goal lists and noise ladders that ship with the package: frozen, one JSON file each, below `goals/`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError, nearest
from perdure.core.files import read_json
from perdure.data.roll import Level

FOLDER = Path(__file__).parent / "goals"

SIZES = {"final": 50, "curve": 10, "probe": 10}
"""Goals per list of a task; the list `data` holds as many as the benchmark records episodes."""


@cache
def tasks_of(file: Path) -> dict[str, Any]:
    """What a file holds, by task."""
    return read_json(file)["tasks"]


def goal_lists(file: Path, task: str, family: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The frozen, disjoint goal lists of a task: those of SIZES, and `data`.

    Args:
        family: whose task it is, such as "Meta-World", for the message.

    Raises:
        UsageError: the file has no goals for the task.
    """
    lists = tasks_of(file)
    if task not in lists:
        raise UsageError(f"there are no frozen goals for {family} task '{task}'{nearest(task, lists)}")
    return {name: tuple(tuple(goal) for goal in values) for name, values in lists[task].items()}


def ladder(measured: Mapping[str, Any]) -> tuple[Level, ...]:
    """The five levels of a task as `tools/calibrate_noise.py` measured them, best first."""
    return tuple(Level(row["noise"], row["random"], row["tries"]) for row in measured["levels"])
