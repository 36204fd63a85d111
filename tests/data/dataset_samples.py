"""Small random datasets of every kind for the tests in this folder."""

import numpy as np
from hypothesis import strategies as st

from perdure.core.spec import Box, Discrete, Spec
from perdure.data.store import Dataset, write_dataset
from perdure.data.trajectory import Trajectory

ARRAYS = ("observations", "actions", "rewards", "terminated", "truncated")
DESCRIPTION = {"quality": "expert", "behaviour": {"policy": "random"}, "licence": "MIT", "source": "a test"}
CONTINUOUS = Spec(Box((3,)), Box((2,), low=(-1.0, -1.0), high=(1.0, 1.0)))
DISCRETE = Spec(Box((3,)), Discrete(4))
IMAGES = Spec(Box((2, 4, 5), dtype="uint8"), Discrete(3))
STACKED = Spec(Box((6, 4, 5), dtype="uint8", stack=3), Discrete(5))
ALL_SPECS = (CONTINUOUS, DISCRETE, IMAGES, Spec(Box((2, 3, 3), dtype="uint8"), CONTINUOUS.action), STACKED)


def episode(spec: Spec, steps: int, rng: np.random.Generator, **facts) -> Trajectory:
    """A random episode that fits `spec` and ends by one flag."""
    if spec.obs.dtype == "uint8":
        observations = rng.integers(0, 256, (steps + 1, *spec.obs.stored.shape), dtype=np.uint8)
    else:
        observations = rng.normal(size=(steps + 1, *spec.obs.shape)).astype(np.float32)
    if isinstance(spec.action, Box):
        actions = rng.uniform(spec.action.low, spec.action.high, (steps, *spec.action.shape)).astype(
            np.float32
        )
    else:
        actions = rng.integers(0, spec.action.n, steps)
        actions[0] = spec.action.n - 1
    ends = np.zeros((2, steps), bool)
    ends[rng.integers(2), -1] = True
    rewards = rng.normal(size=steps).astype(np.float32)
    return Trajectory(observations, actions, rewards, ends[0], ends[1], **facts)


def episodes(spec: Spec, lengths=(4, 1, 6), seed: int = 0) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    facts = [
        {"success": None if e % 3 == 2 else e % 2 == 0, "goal": (0.5 * e, -1.0), "seed": e}
        for e in range(len(lengths))
    ]
    return [episode(spec, n, rng, level=0.1 * e, **facts[e]) for e, n in enumerate(lengths)]


def written(folder, spec: Spec = CONTINUOUS, lengths=(4, 1, 6), **changes) -> Dataset:
    return write_dataset(
        folder, episodes(spec, lengths), **{"name": "sample", "spec": spec, **DESCRIPTION, **changes}
    )


def assert_same_arrays(one: Dataset, other: Dataset) -> None:
    """Bit for bit."""
    assert one.lengths.tolist() == other.lengths.tolist()
    for name in ARRAYS:
        a, b = one.array(name), other.array(name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name


@st.composite
def specs(draw) -> Spec:
    if draw(st.booleans()):
        obs = Box((draw(st.integers(1, 5)),))
    else:
        obs = Box(tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))), dtype="uint8")
    if draw(st.booleans()):
        return Spec(obs, Discrete(draw(st.integers(1, 5))))
    low = draw(st.lists(st.floats(-5, 4), min_size=1, max_size=4))
    width = draw(st.floats(0.1, 10))
    return Spec(obs, Box((len(low),), low=tuple(low), high=tuple(x + width for x in low)))


lengths_of_episodes = st.lists(st.integers(1, 7), min_size=1, max_size=6)
