"""Gymnasium environments of user streams: seeds, spaces, success, and sentences for what does not fit."""

import gymnasium
import numpy as np
import pytest

from perdure.benchmarks.gym_env import GymEnv, GymFactory, spec_of
from perdure.core.errors import UsageError
from perdure.core.spec import Discrete


class Odd(gymnasium.Env):
    """An environment with images, its own name for success, and no liking for options."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 5, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        assert options is None
        return np.arange(60, dtype=np.uint8).reshape(4, 5, 3), {}

    def step(self, action):
        return self.reset()[0], 1, False, False, {"is_success": np.float64(1.0)}


def test_episodes_follow_from_the_seed_and_end_at_the_horizon():
    env = GymFactory("CartPole-v1", horizon=3)()
    first, info = env.reset(seed=4, options={"goal": None})
    assert first.dtype == np.float32
    assert "success" not in info
    again, _ = env.reset(seed=4)
    other, _ = env.reset(seed=5)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]
    spec = spec_of(env, "CartPole-v1")
    assert spec.obs_key == "float32-4"
    assert spec.action == Discrete(2)


def test_kwargs_reach_the_environment():
    assert GymFactory("Pendulum-v1", {"g": 2.0})().unwrapped.g == 2.0
    spec = spec_of(GymFactory("Pendulum-v1")(), "Pendulum-v1")
    assert spec.action.low == (-2.0,)
    assert spec.action.high == (2.0,)


def test_images_become_channels_first_and_success_a_bool():
    env = GymEnv(Odd(), "odd")
    obs, info = env.reset(seed=0, options={"goal": None})
    assert (
        obs.shape == (3, 4, 5) == env.observation_space.shape
    )
    assert (
        obs[1, 0, 0] == 1
    )
    assert (
        "success" not in info
    )
    assert env.step(np.zeros(2))[4]["success"] is True
    assert spec_of(env, "odd").obs_key == "uint8-3x4x5"


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="takes no goals"):
        GymFactory("CartPole-v1")().reset(options={"goal": [1.0]})
    with pytest.raises(UsageError, match="did you mean 'CartPole-v1'"):
        GymFactory("CartPolle-v1")()
    with pytest.raises(UsageError, match="does not take the arguments"):
        GymFactory("CartPole-v1", {"colour": "red"})()
    with pytest.raises(UsageError, match="horizon is 0"):
        GymFactory("CartPole-v1", horizon=0)
    with pytest.raises(UsageError, match="observes Discrete"):
        GymFactory("FrozenLake-v1")()
    odd = GymEnv(Odd(), "odd")
    odd.action_space = gymnasium.spaces.MultiBinary(3)
    with pytest.raises(UsageError, match="has the actions MultiBinary"):
        spec_of(odd, "odd")
