"""One episode: exact conversion to stored types, and a sentence for every shape or type that does not fit."""

import re

import numpy as np
import pytest
from dataset_samples import CONTINUOUS, DISCRETE, IMAGES, episode

from perdure.core.errors import UsageError
from perdure.data.trajectory import episode_arrays


def changed(spec, **fields):
    item = episode(spec, 5, np.random.default_rng(0))
    for name, change in fields.items():
        setattr(item, name, change(getattr(item, name)))
    return item


def test_length_counts_steps():
    assert episode(CONTINUOUS, 5, np.random.default_rng(0)).length == 5


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(">f4"),
        lambda a: a.astype(np.float64),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a.tolist(),
    ],
    ids=["big-endian", "float64", "fortran", "strided", "list"],
)
def test_other_layouts_are_converted_by_value(convert):
    original = episode(CONTINUOUS, 5, np.random.default_rng(0))
    arrays = episode_arrays(changed(CONTINUOUS, observations=convert, actions=convert), CONTINUOUS, 0)
    for name in ("observations", "actions"):
        assert arrays[name].dtype == np.float32
        assert arrays[name].flags.c_contiguous
        np.testing.assert_array_equal(arrays[name], vars(original)[name])


def test_integer_rewards_and_small_integer_actions_are_converted():
    item = changed(DISCRETE, actions=lambda a: a.astype(np.int8), rewards=lambda r: np.arange(len(r)))
    arrays = episode_arrays(item, DISCRETE, 0)
    assert arrays["actions"].dtype == np.int64
    assert arrays["rewards"].tolist() == [0, 1, 2, 3, 4]


REFUSED = {
    "no last observation": (
        CONTINUOUS,
        "observations",
        lambda a: a[:-1],
        r"\(5, 3\).*\(6, 3\).*one observation more",
    ),
    "other width": (CONTINUOUS, "observations", lambda a: a[:, :2], r"\(6, 2\).*\(6, 3\)"),
    "action per channel": (CONTINUOUS, "actions", lambda a: a[:, 0], r"actions.*\(5,\).*\(5, 2\)"),
    "column of discrete actions": (DISCRETE, "actions", lambda a: a[:, None], r"actions.*\(5, 1\).*\(5,\)"),
    "float discrete actions": (
        DISCRETE,
        "actions",
        lambda a: a + 0.5,
        "float64.*numbers of discrete actions",
    ),
    "float images": (IMAGES, "observations", lambda a: a / 255, "float64.*uint8"),
    "wide integer images": (
        IMAGES,
        "observations",
        lambda a: a.astype(np.uint16),
        "wider than 8 bits.*uint8",
    ),
    "integers of 32 bits": (IMAGES, "observations", lambda a: a.astype(np.uint32), "wider than 8 bits"),
    "objects": (CONTINUOUS, "rewards", lambda a: a.astype(object), "rewards: the type is object"),
    "text": (CONTINUOUS, "rewards", lambda a: a.astype(str), "rewards: the type is <U"),
    "complex": (CONTINUOUS, "actions", lambda a: a.astype(complex), "actions: the type is complex128"),
    "ragged": (
        CONTINUOUS,
        "actions",
        lambda a: [[1.0], [1.0, 2.0]],
        "actions: its rows have different lengths",
    ),
    "no steps": (CONTINUOUS, "rewards", lambda a: a[:0], "no steps.*at least one step"),
    "single number": (CONTINUOUS, "rewards", lambda a: 1.0, "no steps"),
    "fewer flags": (CONTINUOUS, "terminated", lambda a: a[1:], r"terminated.*\(4,\).*\(5,\)"),
    "float flags": (
        CONTINUOUS,
        "truncated",
        lambda a: a.astype(float),
        "truncated: the type is float64; store bool",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_episode_array_and_remedy(case):
    spec, name, change, pattern = REFUSED[case]
    with pytest.raises(UsageError, match=r"^episode 7, ") as caught:
        episode_arrays(changed(spec, **{name: change}), spec, 7)
    assert re.search(pattern, str(caught.value)), caught.value
