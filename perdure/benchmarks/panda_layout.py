"""How the observations of Panda tasks are laid out as vectors: by key, each task's own, or as published. Imports no torch.

A task's own vector is the published one: `observation` with the remaining time 1 - t/50 at its end, then `achieved_goal`, then
`desired_goal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Box, Spec

LayoutName = Literal["aligned", "separate", "compat"]

BLOCKS = {
    "ee_position": ("m", "xyz"),
    "ee_velocity": ("m/s", "xyz"),
    "fingers_width": ("m", ""),
    "object_position": ("m", "xyz"),
    "object_rotation": ("rad", "xyz"),
    "object_velocity": ("m/s", "xyz"),
    "object_angular_velocity": ("rad/s", "xyz"),
    "time_left": ("1", ""),
    "achieved_goal": ("m", "xyz"),
    "desired_goal": ("m", "xyz"),
}
"""Key -> unit and axes (none: one number), in the order of every vector. `ee` is the end effector."""

OBJECT = ("object_position", "object_rotation", "object_velocity", "object_angular_velocity")

ABSENT: dict[str, tuple[str, ...]] = {"reach": ("fingers_width", *OBJECT), "push": ("fingers_width",), "pick-and-place": ()}
"""Task -> keys that it does not have."""

ACTIONS = {"reach": 3, "push": 3, "pick-and-place": 4}
"""Task -> size of its actions: the hand's displacement, and where the fingers can move, their opening."""

ACTION_NAMES, ACTION_UNITS = ("move_x", "move_y", "move_z", "open_fingers"), ("5 cm per step",) * 3 + ("20 cm per step",)

COMPAT_OBS, COMPAT_ACTION = 26, 4
"""The published layout pads to the largest of the three tasks."""


def size(key: str) -> int:
    """How many numbers a key has."""
    return max(1, len(BLOCKS[key][1]))


def channels(key: str) -> tuple[str, ...]:
    """Names of a key's numbers, such as ee_position_x."""
    axes = BLOCKS[key][1]
    return tuple(f"{key}_{axis}" for axis in axes) if axes else (key,)


@dataclass(frozen=True)
class Layout:
    """The vectors of one task.

    aligned: every key at a place of its own, the same in all tasks, zeros where a task does not have it; then for each key 1 if
    the task has it and 0 if not. separate: only the task's own keys. compat: those, padded with zeros at the end to 26, and
    actions padded to 4; what stands in the padding of an action is ignored.
    """

    task: str
    name: LayoutName = "aligned"

    def __post_init__(self) -> None:
        if self.task not in ABSENT:
            hint = nearest(self.task, ABSENT) or "; known: " + ", ".join(ABSENT)
            raise UsageError(f"there is no Panda task '{self.task}'{hint}")
        if self.name not in get_args(LayoutName):
            known = get_args(LayoutName)
            raise UsageError(f"layout is '{self.name}'{nearest(self.name, known)}; use one of {', '.join(known)}")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that the task has, in order."""
        return tuple(key for key in BLOCKS if key not in ABSENT[self.task])

    @cached_property
    def own(self) -> dict[str, slice]:
        """Key -> its place in the task's own vector."""
        return _places(self.keys)

    @cached_property
    def spec(self) -> Spec:
        """Spaces of the task in this layout."""
        keys = tuple(BLOCKS) if self.name == "aligned" else self.keys
        names = tuple(name for key in keys for name in channels(key))
        units = tuple(BLOCKS[key][0] for key in keys for _ in range(size(key)))
        count = ACTIONS[self.task]
        action_names, action_units = ACTION_NAMES[:count], ACTION_UNITS[:count]
        if self.name == "aligned":
            names, units = (*names, *(f"has_{key}" for key in keys)), (*units, *("1",) * len(keys))
        if self.name == "compat":
            names, units = _padded(names, COMPAT_OBS, "padding"), _padded(units, COMPAT_OBS, "")
            action_names = _padded(action_names, COMPAT_ACTION, "ignored")
            action_units = _padded(action_units, COMPAT_ACTION, "")
            count = COMPAT_ACTION
        action = Box((count,), low=(-1.0,) * count, high=(1.0,) * count, names=action_names, units=action_units)
        return Spec(Box((len(names),), names=names, units=units), action)

    def observations(self, own: np.ndarray) -> np.ndarray:
        """(..., own size) in the task's own order -> (..., O) float32 in this layout."""
        if self.name == "separate":
            return np.asarray(own, np.float32)
        laid = np.zeros((*own.shape[:-1], self.spec.obs.size), np.float32)
        if self.name == "compat":
            laid[..., : own.shape[-1]] = own
            return laid
        places = _places(tuple(BLOCKS))
        for key in self.keys:
            laid[..., places[key]] = own[..., self.own[key]]
        laid[..., -len(BLOCKS) :] = [key in self.keys for key in BLOCKS]
        return laid

    def actions(self, own: np.ndarray) -> np.ndarray:
        """(..., 3 or 4) as the environment executes them -> (..., A) float32 in this layout, zeros in the padding."""
        laid = np.zeros((*own.shape[:-1], self.spec.action.size), np.float32)
        laid[..., : own.shape[-1]] = own
        return laid

    def executed(self, action: np.ndarray) -> np.ndarray:
        """(..., A) in this layout -> (..., 3 or 4) float32 within [-1, 1], as the environment executes them."""
        return np.clip(np.asarray(action, np.float32)[..., : ACTIONS[self.task]], -1.0, 1.0)


def _places(keys: tuple[str, ...]) -> dict[str, slice]:
    ends = np.cumsum([size(key) for key in keys]).tolist()
    return {key: slice(end - size(key), end) for key, end in zip(keys, ends, strict=True)}


def _padded(words: tuple[str, ...], count: int, word: str) -> tuple[str, ...]:
    """As many words as `count`, numbered where they have a name."""
    return words + tuple(f"{word}_{i + 1}" if word else "1" for i in range(count - len(words)))
