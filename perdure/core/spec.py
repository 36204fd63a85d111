"""Spec of one task: the spaces of its observations and actions, with channel names and units where known.

Imports no torch: environment worker processes read specs too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from perdure.core.errors import UsageError

LARGEST_SPACE = 2**24
"""Most numbers one observation or action may have; more is a damaged or hostile file."""


@dataclass(frozen=True)
class Box:
    """A float vector (`float32`) or an image (`uint8`, channels first)."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: tuple[float, ...] | None = None
    """Lower bound per channel, flat; None is unbounded."""
    high: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    stack: int = 1
    """An image is this many successive frames, joined along the first axis (the first frame of an episode is repeated); a
    dataset stores every frame once."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "uint8"):
            raise UsageError(f"dtype is {self.dtype!r}; a space is 'float32' or 'uint8'")
        if not self.shape or any(type(n) is not int or n < 1 for n in self.shape) or self.size > LARGEST_SPACE:
            raise UsageError(f"shape is {list(self.shape)}; it needs positive whole numbers, {LARGEST_SPACE} values at most")
        if type(self.stack) is not int or self.stack < 1 or self.shape[0] % self.stack:
            raise UsageError(f"stack is {self.stack!r}; the {self.shape[0]} channels of shape {list(self.shape)} must be a"
                             " multiple of it")
        if self.stack > 1 and self.dtype != "uint8":
            raise UsageError(f"stack is {self.stack} for {self.dtype}; only images are stacked")
        for field in ("low", "high", "names", "units"):
            values = self.__dict__[field]
            if values and len(values) != self.size:
                raise UsageError(f"{field} has {len(values)} entries; a space of shape {list(self.shape)} needs {self.size}")
        if self.low and self.high and not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise UsageError("low is not below high in every channel; give low < high")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stored(self) -> Box:
        """What a dataset stores per step: this space, or one frame of it where frames are stacked."""
        return self if self.stack == 1 else Box((self.shape[0] // self.stack, *self.shape[1:]), self.dtype)

    @property
    def key(self) -> str:
        return f"{self.dtype}-{'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Discrete:
    """`n` actions, numbered 0 to n-1."""

    n: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.n) is not int or not 1 <= self.n <= 2**16:
            raise UsageError(f"n is {self.n!r}; a discrete space has 1 to 65536 actions")

    @property
    def key(self) -> str:
        return f"discrete-{self.n}"


@dataclass(frozen=True)
class Spec:
    """Observation and action space of one task. Continuous actions always have bounds."""

    obs: Box
    action: Box | Discrete

    def __post_init__(self) -> None:
        if isinstance(self.action, Box):
            if self.action.low is None or self.action.high is None:
                raise UsageError("action has no bounds; continuous actions need low and high per channel")
            if self.action.dtype != "float32" or len(self.action.shape) != 1:
                raise UsageError(f"action is {self.action.key}; continuous actions are a float32 vector")

    @property
    def discrete(self) -> bool:
        return isinstance(self.action, Discrete)

    @property
    def obs_key(self) -> str:
        return self.obs.key

    @property
    def action_key(self) -> str:
        return self.action.key if self.discrete else f"box-{self.action.key.removeprefix('float32-')}"

    @property
    def key(self) -> str:
        """Both, as the name of a pair of spaces."""
        return f"{self.obs_key} {self.action_key}"

    def difference(self, other: Spec) -> str | None:
        """One phrase naming the first field in which the spaces differ; None if they are the same.

        Names and units do not count: they describe a space and do not change what fits into it.
        """
        if self.obs_key != other.obs_key:
            return f"obs is {self.obs_key} here and {other.obs_key} there"
        if self.action_key != other.action_key:
            return f"action is {self.action_key} here and {other.action_key} there"
        if self.obs.stack != other.obs.stack:
            return f"obs.stack is {self.obs.stack} here and {other.obs.stack} there"
        if isinstance(self.action, Box) and isinstance(other.action, Box):
            for field in ("low", "high"):
                mine, theirs = self.action.__dict__[field], other.action.__dict__[field]
                if mine != theirs:
                    return f"action.{field} is {list(mine)} here and {list(theirs)} there"
        return None

    def to_json(self) -> dict[str, Any]:
        return {"obs": _box_to_json(self.obs), "action": _space_to_json(self.action)}

    @classmethod
    def from_json(cls, value: Any) -> Spec:
        """Raises UsageError, naming the field, for anything that is not a spec."""
        if not isinstance(value, dict) or set(value) != {"obs", "action"}:
            raise UsageError("spec is malformed; it needs exactly the fields 'obs' and 'action'")
        obs, action = _space_from_json("obs", value["obs"]), _space_from_json("action", value["action"])
        if isinstance(obs, Discrete):
            raise UsageError("spec.obs is discrete; observations are float vectors or uint8 images")
        return cls(obs, action)


def _box_to_json(space: Box) -> dict[str, Any]:
    fields: dict[str, Any] = {"kind": "box", "shape": list(space.shape), "dtype": space.dtype}
    for field in ("low", "high", "names", "units"):
        if space.__dict__[field]:
            fields[field] = list(space.__dict__[field])
    return fields if space.stack == 1 else fields | {"stack": space.stack}


def _space_to_json(space: Box | Discrete) -> dict[str, Any]:
    if isinstance(space, Box):
        return _box_to_json(space)
    return {"kind": "discrete", "n": space.n, "names": list(space.names)}


def _space_from_json(field: str, value: Any) -> Box | Discrete:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in ("box", "discrete"):
        raise UsageError(f"spec.{field} is malformed; its 'kind' must be 'box' or 'discrete'")
    try:
        names = tuple(str(name) for name in value.get("names", ()))
        if kind == "discrete":
            return Discrete(value["n"], names)
        bounds = {k: tuple(float(x) for x in value[k]) if value.get(k) else None for k in ("low", "high")}
        if any(not math.isfinite(x) for bound in bounds.values() if bound for x in bound):
            raise UsageError("bounds must be finite numbers")
        units = tuple(str(unit) for unit in value.get("units", ()))
        return Box(tuple(value["shape"]), str(value.get("dtype", "float32")), bounds["low"], bounds["high"], names, units,
                   value.get("stack", 1))
    except UsageError as problem:
        raise UsageError(f"spec.{field}: {problem}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise UsageError(f"spec.{field} is malformed ({type(problem).__name__}: {str(problem)[:80]})") from None
