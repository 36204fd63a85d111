"""Uncertainty of reported numbers: Wilson over episodes, bootstrap over seeds, differences paired by seed.

Episodes of one run tell how well that one agent acts; only several seeds tell how well the method learns.
The two are never mixed: an interval over seeds needs at least `LEAST_SEEDS` of them, with fewer the single
values are shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perdure.core.errors import UsageError

LEAST_SEEDS = 5
"""Fewest seeds for an interval over seeds; below, a percentile bootstrap is far too narrow."""

RESAMPLES = 4000
"""Bootstrap resamples, as in Continual World (arXiv 2105.10919)."""

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """95 % interval; `kind` says over what: "episodes" (Wilson) or "seeds" (bootstrap)."""

    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Summary:
    """Values by seed, their mean, and an interval over seeds if there are enough of them."""

    by_seed: tuple[tuple[int, float], ...]
    mean: float
    interval: Interval | None

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for _, value in self.by_seed)


def wilson(successes: int, episodes: int) -> Interval:
    """95 % score interval of a success rate over independent episodes (Wilson 1927, doi 10.2307/2276774).

    Raises:
        UsageError: no episode, or more successes than episodes.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise UsageError(
            f"{successes} successes in {episodes} episodes is impossible; 0 <= successes <= episodes"
        )
    rate, z2 = successes / episodes, Z95**2
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    spread = Z95 / (1 + z2 / episodes) * math.sqrt(rate * (1 - rate) / episodes + z2 / (4 * episodes**2))
    # At 0 and at all successes the bound is exact; rounding would leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - spread)
    high = 1.0 if successes == episodes else min(1.0, centre + spread)
    return Interval(low, high, "episodes")


def bootstrap(values: np.ndarray | list[float] | tuple[float, ...]) -> Interval | None:
    """95 % percentile bootstrap of the mean over seeds; None with fewer than `LEAST_SEEDS` values.

    Deterministic: the resampling generator is always the same, so one set of values has one interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < LEAST_SEEDS:
        return None
    picks = np.random.default_rng(0).integers(values.size, size=(RESAMPLES, values.size))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return Interval(float(low), float(high), "seeds")


def summarise(by_seed: Mapping[int, float]) -> Summary | None:
    """Mean and interval over seeds; None without any value."""
    if not by_seed:
        return None
    pairs = tuple(sorted(by_seed.items()))
    values = [value for _, value in pairs]
    # fsum: the mean of equal values is exactly that value, so "exactly 0" stays visible.
    return Summary(pairs, math.fsum(values) / len(values), bootstrap(values))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Summary | None:
    """Differences first - second seed by seed, over the seeds that both have; None if they share none.

    Pairing removes what a seed has in common in both runs (data order, initial weights of shared parts).
    """
    return summarise({seed: first[seed] - second[seed] for seed in first if seed in second})
