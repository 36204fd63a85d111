"""How near replayed data are to the data that they stand for, as it is kept with the scores."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from perdure.core.errors import UsageError

NUMBERS = ("distance", "floor", "mmd", "coverage", "novelty")

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Fidelity:
    """Dreams of a task against its held-out data: pairs of observation and action, in standard deviations of the data."""

    distance: float
    """Sliced Wasserstein distance of dreams and held-out data."""
    floor: float
    """The same of training and held-out data: what perfect dreams would have."""
    mmd: float
    """Maximum mean discrepancy (Gretton et al. 2012) with a Gaussian kernel as wide as the median distance."""
    coverage: float
    """Share of the held-out data with a dream nearer than their fifth neighbour (Naeem et al. 2020, arXiv 2002.09797)."""
    novelty: float
    """Median distance of dreams to the nearest training data, over that of held-out data: near 0 they are copies."""
    real: Points = ()
    """Some held-out pairs along the two directions in which the data vary most."""
    dreamed: Points = ()
    """Some dreams along the same."""

    def __post_init__(self) -> None:
        for name in NUMBERS:
            if not math.isfinite(self.__dict__[name]):
                raise UsageError(f"fidelity.{name} is {self.__dict__[name]}; it must be a finite number")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Fidelity:
        """Raises UsageError naming the field, for anything that `to_json` does not give."""
        if not isinstance(value, dict) or set(value) != {*NUMBERS, "real", "dreamed"}:
            raise UsageError(f"fidelity has not the fields {', '.join(NUMBERS)}, real, dreamed")
        for name in NUMBERS:
            if type(value[name]) not in (int, float):
                raise UsageError(f"fidelity.{name} is {ascii(value[name])[:60]}; it must be a finite number")
        numbers = {name: float(value[name]) for name in NUMBERS}
        return cls(**numbers, real=_points(value["real"], "real"), dreamed=_points(value["dreamed"], "dreamed"))


def _points(value: Any, name: str) -> Points:
    pairs = isinstance(value, list) and all(isinstance(point, list) and len(point) == 2 for point in value)
    if not pairs or not all(type(x) in (int, float) and math.isfinite(x) for point in value for x in point):
        raise UsageError(f"fidelity.{name} must list points of two finite numbers")
    return tuple((float(x), float(y)) for x, y in value)
