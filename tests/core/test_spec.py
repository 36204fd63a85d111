"""Spec: JSON and back, the first difference in words, and refusals that name the field."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Discrete, Spec

ARM = Spec(
    Box((2,), names=("angle", "speed"), units=("rad", "rad/s")),
    Box((2,), low=(-1.0, 0.0), high=(1.0, 0.5), names=("torque", "grip")),
)
PIXELS = Spec(Box((3, 84, 84), "uint8"), Discrete(6, ("left",) * 6))


@pytest.mark.parametrize("spec", [ARM, PIXELS])
def test_json_and_back(spec):
    assert Spec.from_json(spec.to_json()) == spec


def test_keys():
    assert (ARM.obs_key, ARM.action_key, PIXELS.obs_key, PIXELS.action_key) == (
        "float32-2",
        "box-2",
        "uint8-3x84x84",
        "discrete-6",
    )
    assert PIXELS.discrete
    assert not ARM.discrete


def box(**changes):
    return Spec(ARM.obs, Box(**{"shape": (2,), "low": (-1.0, 0.0), "high": (1.0, 0.5), **changes}))


@pytest.mark.parametrize(
    ("other", "phrase"),
    [
        (Spec(Box((3,)), ARM.action), "obs is float32-2 here and float32-3 there"),
        (Spec(ARM.obs, Discrete(3)), "action is box-2 here and discrete-3 there"),
        (box(low=(-2.0, 0.0)), "action.low is [-1.0, 0.0] here and [-2.0, 0.0] there"),
        (box(high=(1.0, 9.0)), "action.high is [1.0, 0.5] here and [1.0, 9.0] there"),
        (box(), None),
    ],
)
def test_difference_names_the_first_field(other, phrase):
    assert ARM.difference(other) == phrase


def test_names_and_units_do_not_count():
    assert ARM.difference(Spec(Box((2,)), box().action)) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box((2,), "float64"), "dtype is 'float64'; a space is 'float32' or 'uint8'"),
        (lambda: Box(()), r"shape is \[\]"),
        (lambda: Box((0,)), r"shape is \[0\]"),
        (lambda: Box((-1,)), r"shape is \[-1\]"),
        (lambda: Box((2.0,)), r"shape is \[2.0\]"),
        (lambda: Box((2**20, 2**20)), "positive whole numbers, 16777216 values at most"),
        (lambda: Box((2,), low=(1.0,)), "low has 1 entries; a space of shape .2. needs 2"),
        (lambda: Box((1,), names=("a", "b")), "names has 2 entries"),
        (lambda: Box((1,), low=(1.0,), high=(1.0,)), "low is not below high"),
        (lambda: Discrete(0), "n is 0; a discrete space has 1 to 65536 actions"),
        (lambda: Discrete(True), "n is True"),
        (lambda: Spec(Box((1,)), Box((1,))), "action has no bounds"),
        (lambda: Spec(Box((1,)), Box((1,), "uint8", (0.0,), (1.0,))), "continuous actions are a float32 vector"),
        (lambda: Spec(Box((1,)), Box((1, 1), low=(0.0,), high=(1.0,))), "continuous actions are a float32 vector"),
    ],
)
def test_impossible_spaces_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "exactly the fields 'obs' and 'action'"),
        ({"obs": {}}, "exactly the fields 'obs' and 'action'"),
        ({"obs": {"kind": "cone"}, "action": {}}, "spec.obs is malformed; its 'kind' must be 'box' or 'discrete'"),
        ({"obs": {"kind": "discrete", "n": 2}, "action": {"kind": "discrete", "n": 2}}, "spec.obs is discrete"),
        (
            {"obs": {"kind": "box", "shape": [1]}, "action": {"kind": "discrete"}},
            "spec.action is malformed .KeyError",
        ),
        (
            {"obs": {"kind": "box", "shape": 3}, "action": {"kind": "discrete", "n": 1}},
            "spec.obs is malformed .TypeError",
        ),
        (
            {
                "obs": {"kind": "box", "shape": [1]},
                "action": {"kind": "box", "shape": [1], "low": [1e999], "high": [0]},
            },
            "bounds must be finite",
        ),
    ],
)
def test_malformed_json_is_named(value, message):
    with pytest.raises(UsageError, match=message):
        Spec.from_json(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "shape", "n", "low", "high", "names"]), inner)
    ),
    max_leaves=8,
)


def outcome(value):
    """The spec's keys, or the sentence that refuses it."""
    try:
        return Spec.from_json(value).obs_key
    except UsageError as problem:
        return str(problem)


@settings(max_examples=200, deadline=None)
@given(values, st.sampled_from(["box", "discrete"]))
def test_no_json_does_worse_than_a_sentence(value, kind):
    part = {"kind": kind, **value} if isinstance(value, dict) else value
    for made in ({"obs": part, "action": part}, {"obs": {"kind": "box", "shape": [1]}, "action": part}, value):
        assert "\n" not in outcome(made)


def test_a_stack_is_of_whole_frames_of_images():
    space = Box((4, 8, 8), "uint8", stack=4)
    assert space.stored.shape == (1, 8, 8) and Box((4, 8, 8), "uint8").stored.shape == (4, 8, 8)
    spec = Spec(space, Discrete(2))
    assert Spec.from_json(spec.to_json()) == spec and "stack" not in Spec(space.stored, Discrete(2)).to_json()["obs"]
    assert spec.difference(Spec(Box((4, 8, 8), "uint8", stack=2), Discrete(2))) == "obs.stack is 4 here and 2 there"
    for shape, dtype, stack in (((4, 8, 8), "uint8", 3), ((4, 8, 8), "uint8", 0), ((4,), "float32", 2)):
        with pytest.raises(UsageError, match="stack is"):
            Box(shape, dtype, stack=stack)
    with pytest.raises(UsageError, match=r"spec\.obs"):
        Spec.from_json({**spec.to_json(), "obs": {**spec.to_json()["obs"], "stack": "four"}})
