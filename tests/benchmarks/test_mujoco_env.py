"""MuJoCo tasks: rewards against their formulas, episodes that repeat, observations that do not say what is asked for."""

import math

import numpy as np
import pytest

from perdure.benchmarks.mujoco_env import ACTIONS, MujocoFactory
from perdure.benchmarks.mujoco_tasks import ANT_ANGLES, FAMILIES, PROPERTIES, SPREAD, find_task, walker_factors
from perdure.core.errors import UsageError

pytest.importorskip("mujoco")

ONE_EACH = {family: next(iter(tasks)) for family, tasks in FAMILIES.items()}


def played(factory, number, steps=30, env=None):
    env = env or factory()
    rng = np.random.default_rng(number)
    obs, _ = env.reset(options={"goal": [number]})
    rows, rewards = [obs], []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, ACTIONS[factory.what.body]))
        rows.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(rows), np.array(rewards)


@pytest.mark.parametrize(("family", "task"), ONE_EACH.items())
def test_equal_numbers_and_actions_give_equal_episodes_whatever_went_before(family, task):
    factory = MujocoFactory(family, task)
    first, rewards = played(factory, 3)
    used = factory()
    played(factory, 8, env=used)
    again, same = played(factory, 3, env=used)
    assert np.array_equal(first, again) and np.array_equal(rewards, same)
    assert not np.array_equal(first, played(factory, 4)[0])


@pytest.mark.parametrize(("family", "variant", "size"), [
    ("cheetah-vel", "v5", 17), ("cheetah-vel", "published", 20), ("swimmer-dir", "published", 8),
    ("walker-params", "published", 17), ("ant-dir", "published", 27), ("bodies", "v5", 11),
])  # fmt: skip
def test_observations_have_the_published_sizes(family, variant, size):
    factory = MujocoFactory(family, ONE_EACH[family], variant)
    assert factory.spec.obs.size == size
    assert played(factory, 1, 1)[0].shape[1] == size
    assert factory().observation_space.shape == (size,)


@pytest.mark.parametrize("family", ["cheetah-vel", "swimmer-dir", "ant-dir"])
def test_what_is_asked_for_is_in_the_reward_alone(family):
    one, other = list(FAMILIES[family])[:2]
    for variant in ("v5", "published"):
        a, b = (played(MujocoFactory(family, task, variant), 5, 20) for task in (one, other))
        assert np.array_equal(a[0], b[0])
        assert not np.allclose(a[1], b[1])


def velocity(factory, action):
    """(x, y) in m/s of the first step of episode 2, and the reward of it."""
    env = factory()
    env.reset(options={"goal": [2]})
    inner = env._env
    place = (lambda: inner.data.body(1).xpos[:2].copy()) if factory.what.body == "ant" else (lambda: inner.data.qpos[:2].copy())
    before = place()
    reward = env.step(action)[1]
    return (place() - before) / inner.dt, reward, env


def test_the_reward_of_a_velocity():
    action = np.full(6, 0.5)
    moved, reward, _ = velocity(MujocoFactory("cheetah-vel", "velocity-0.825"), action)
    assert reward == pytest.approx(-abs(moved[0] - 0.825) - 0.05 * 1.5, abs=1e-9)


def test_the_reward_of_a_swimmers_direction():
    action, angle = np.array([0.5, -1.0]), 3.6166
    moved, reward, env = velocity(MujocoFactory("swimmer-dir", "direction-207"), action)
    along = moved @ [math.cos(angle), math.sin(angle)]
    assert reward == pytest.approx(along - 1e-4 * 1.25, abs=1e-9)
    published = velocity(MujocoFactory("swimmer-dir", "direction-207", "published"), action)[1]
    assert published == pytest.approx(along / env._env.dt - 1e-4 * 1.25, abs=1e-9)


def test_the_reward_of_an_ants_direction():
    action, angle = np.full(8, 0.5), ANT_ANGLES[18]
    moved, reward, env = velocity(MujocoFactory("ant-dir", "ant-18"), action)
    contacts = 5e-4 * np.square(np.clip(env._env.data.cfrc_ext, -1, 1)).sum()
    wanted = moved @ [math.cos(angle), math.sin(angle)] - 0.5 * 2.0 - contacts + 1.0
    assert reward == pytest.approx(wanted, abs=1e-6)


def test_actions_beyond_the_bounds_cost_as_much_as_the_executed_ones():
    factory = MujocoFactory("cheetah-vel", "velocity-0.45")
    assert velocity(factory, np.full(6, 3.0))[1] == velocity(factory, np.ones(6))[1]


def test_walkers_differ_and_stay_what_they_are():
    factory = MujocoFactory("walker-params", "walker-2")
    plain, changed = MujocoFactory("bodies", "walker2d")()._env.model, factory()._env.model
    for name, values in walker_factors(2).items():
        before, after = getattr(plain, name), getattr(changed, name)
        count = len(values)
        ratio = (after[-count:] / before[-count:]).reshape(count, -1)
        np.testing.assert_allclose(ratio, np.repeat(values[:, None], ratio.shape[1], 1), rtol=1e-12)
        assert np.array_equal(before[:-count], after[:-count]), "neither the floor nor the root"
        base = PROPERTIES[name][1]
        assert (base**-3 <= values).all() and (values <= base**3).all()
    assert np.array_equal(factory()._env.model.body_mass, factory()._env.model.body_mass)
    assert not np.array_equal(walker_factors(1)["body_mass"], walker_factors(2)["body_mass"])
    assert len(find_task("walker-params", "walker-1").aim) == sum(count for count, _ in PROPERTIES.values())


def test_episodes_are_cut_at_the_horizon_and_end_where_the_body_falls():
    env = MujocoFactory("cheetah-vel", "velocity-0.45")()
    env.reset(options={"goal": [0]})
    ends = [env.step(np.zeros(6))[2:4] for _ in range(200)]
    assert ends[-1] == (False, True) and not any(a or b for a, b in ends[:-1])
    hopper = MujocoFactory("bodies", "hopper")
    assert hopper.horizon == 1000
    rows, _ = played(hopper, 0, 1000)
    assert len(rows) < 200


def test_directions_that_are_said_to_be_spread_are():
    angles = sorted(math.degrees(ANT_ANGLES[number]) for number in SPREAD)
    gaps = [(b - a) % 360 for a, b in zip(angles, [*angles[1:], angles[0]], strict=True)]
    assert min(gaps) > 42 and max(gaps) < 91


@pytest.mark.parametrize(("call", "words"), [
    (lambda: MujocoFactory("ant-dir", "ant-11"), "ant-dir has no task 'ant-11'"),
    (lambda: MujocoFactory("ants", "ant-10"), "there is no MuJoCo family 'ants'"),
    (lambda: MujocoFactory("ant-dir", "ant-10", "v4"), "variant is 'v4'"),
    (lambda: MujocoFactory("bodies", "hopper")().reset(options={"goal": [0.5]}), "goal of a MuJoCo episode is"),
])  # fmt: skip
def test_wrong_names_are_refused_in_one_sentence(call, words):
    with pytest.raises(UsageError, match=words):
        call()
