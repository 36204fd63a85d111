"""Intervals: published values, determinism, and no interval out of too few seeds."""

import numpy as np
import pytest

from perdure.core.errors import UsageError
from perdure.core.intervals import bootstrap, paired, summarise, wilson


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (50, 50, 0.9287, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_agrees_with_published_values(successes, episodes, low, high):
    interval = wilson(successes, episodes)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert interval.kind == "episodes"


@pytest.mark.parametrize("counts", [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(counts):
    with pytest.raises(UsageError, match="impossible"):
        wilson(*counts)


def test_bootstrap_needs_five_seeds():
    assert bootstrap([0.1, 0.2, 0.3, 0.4]) is None
    interval = bootstrap([0.1, 0.2, 0.3, 0.4, 0.5])
    assert interval.kind == "seeds"
    assert 0.1 < interval.low < 0.3 < interval.high < 0.5


def test_bootstrap_is_deterministic_and_covers():
    values = np.random.default_rng(3).normal(size=12)
    assert bootstrap(values) == bootstrap(values.copy())
    samples = np.random.default_rng(4).normal(size=(200, 20))
    covered = sum(interval.low <= 0 <= interval.high for interval in map(bootstrap, samples))
    assert 0.85 < covered / 200 < 0.99


def test_summary_keeps_single_values_in_seed_order():
    summary = summarise({2: 0.4, 0: 0.2})
    assert summary.by_seed == ((0, 0.2), (2, 0.4))
    assert summary.mean == pytest.approx(0.3)
    assert summary.interval is None
    assert summarise({}) is None
    assert summarise(dict.fromkeys(range(7), 0.1)).mean == 0.1


def test_differences_are_paired_by_seed():
    summary = paired({0: 0.9, 1: 0.5, 7: 1.0}, {1: 0.4, 0: 0.6})
    assert summary.by_seed == ((0, pytest.approx(0.3)), (1, pytest.approx(0.1)))
    assert paired({0: 1.0}, {1: 1.0}) is None
