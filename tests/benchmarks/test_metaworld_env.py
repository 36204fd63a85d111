"""Meta-World episodes follow from goal and actions alone; the frozen goals are what they claim to be."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from perdure.benchmarks import continual_world
from perdure.benchmarks.metaworld_env import SPEC, MetaWorldFactory, expert, goals, raw_environment
from perdure.benchmarks.metaworld_source import measured
from perdure.core.errors import UsageError

pytest.importorskip("metaworld")

from metaworld.env_dict import ENV_CLS_MAP

SIZES = {"final": 50, "curve": 10, "probe": 10, "data": 200}


def rollout(env, policy, goal, noise=0.0, steps=200):
    """Observations, rewards and successes as arrays."""
    generator = np.random.default_rng(0)
    obs, _ = env.reset(options={"goal": goal})
    observations, rewards, successes = [obs], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            action = np.clip(
                policy.get_action(obs.astype(np.float64)), -1, 1
            ) + noise * generator.standard_normal(4)
            obs, reward, terminated, truncated, info = env.step(action)
            assert not terminated
            observations.append(obs)
            rewards.append(reward)
            successes.append(info["success"])
    assert truncated == (steps == 200)
    return np.stack(observations), np.asarray(rewards), successes


def test_environments_of_a_task_copy_one_compiled_model():
    task, (goal, *_) = "push-wall", goals("push-wall")["final"]
    compiled = ENV_CLS_MAP[f"{task}-v3"]().model
    first, other = (MetaWorldFactory(task)() for _ in range(2))
    before = rollout(first, expert(task), goal, steps=20)
    first._env.model.body_pos[:] += 1.0
    for env in (other, MetaWorldFactory(task)()):
        np.testing.assert_array_equal(env._env.model.body_pos, compiled.body_pos)
        for mine, expected in zip(rollout(env, expert(task), goal, steps=20), before, strict=True):
            np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("task", continual_world.TASKS)
def test_an_episode_follows_from_goal_and_actions_alone(task):
    first, second = goals(task)["data"][:2]
    policy, fresh, used = expert(task), MetaWorldFactory(task)(), MetaWorldFactory(task)()
    rollout(used, policy, second, noise=0.5, steps=60)  # another goal, left in the middle of an episode
    here, there = rollout(fresh, policy, first), rollout(used, policy, first)
    assert here[0].tobytes() == there[0].tobytes()
    assert here[1].tobytes() == there[1].tobytes()
    assert here[0].dtype == np.float32
    assert here[0].shape == (201, 39)


@pytest.mark.parametrize("task", continual_world.CW3)
def test_the_expert_succeeds_and_its_success_is_a_bool(task):
    env, policy = MetaWorldFactory(task)(), expert(task)
    for goal in goals(task)["final"][:3]:
        successes = rollout(env, policy, goal)[2]
        assert any(successes)
        assert not successes[0]
        assert all(type(success) is bool for success in successes)


def test_the_goal_is_visible():
    env = MetaWorldFactory("push")()
    goal = goals("push")["final"][0]
    obs, _ = env.reset(options={"goal": goal})
    np.testing.assert_allclose(obs[36:38], goal[3:5], atol=1e-6)
    assert SPEC.obs.names[36] == "goal_x"
    assert SPEC.obs.shape == env.observation_space.shape


def test_actions_are_clipped():
    goal = goals("reach")["final"][0]
    seen = []
    for size in (1.0, 7.0):
        env = MetaWorldFactory("reach")()
        env.reset(options={"goal": goal})
        seen.append(env.step(np.full(4, size)))
    assert seen[0][0].tobytes() == seen[1][0].tobytes()
    assert seen[0][1] == seen[1][1]


def test_the_horizon_truncates():
    env = MetaWorldFactory("reach", horizon=3)()
    env.reset(options={"goal": goals("reach")["final"][0]})
    assert [env.step(np.zeros(4))[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (None, "got no goal"),
        ((0.0, 0.45), "shape"),
        ((5.0, 0.45, 0.0), "outside its range"),
        ((float("nan"), 0.45, 0.0), "outside its range"),
    ],
)
def test_wrong_goals_are_refused(goal, words):
    env = MetaWorldFactory("hammer")()
    with pytest.raises(UsageError, match=words):
        env.reset(seed=0, options={"goal": goal})


def test_a_goal_the_task_would_redraw_for_ever_is_refused():
    env = MetaWorldFactory("push")()
    with pytest.raises(UsageError, match="not accepted"):
        env.reset(options={"goal": (0.0, 0.7, 0.02, 0.0, 0.8, 0.01)})
    env.reset(options={"goal": goals("push")["final"][0]})


def test_wrong_names_are_refused():
    with pytest.raises(UsageError, match="did you mean 'hammer'"):
        MetaWorldFactory("hamer")()
    with pytest.raises(UsageError, match="did you mean 'hammer'"):
        goals("hamer")
    with pytest.raises(UsageError, match="horizon is 501"):
        MetaWorldFactory("hammer", horizon=501)


@pytest.mark.parametrize("task", continual_world.TASKS)
def test_goals_are_disjoint_and_in_range(task):
    lists = goals(task)
    assert {name: len(values) for name, values in lists.items()} == SIZES
    every = [goal for values in lists.values() for goal in values]
    assert len(set(every)) == sum(SIZES.values())
    space = raw_environment(task)._random_reset_space
    vectors = np.asarray(every)
    assert (vectors >= space.low).all()
    assert (vectors <= space.high).all()
    assert (np.round(vectors, 6) == vectors).all()


def test_the_triples_are_what_their_names_say():
    assert len(set(continual_world.CW10)) == 10
    assert continual_world.CW20[10:] == continual_world.CW10
    assert not set(continual_world.CWTUNE) & set(continual_world.CW10 + continual_world.METAWORLD5)
    solved = [task for task in continual_world.CW10 if measured(task)["expert"] >= 0.95]
    assert tuple(task for task in solved if task not in continual_world.CW3)[:3] == continual_world.CW3B
    assert all(measured(task)["expert"] >= 0.95 for task in continual_world.CWTUNE + continual_world.CW3)
    again = {task for task in continual_world.CWPAIRS if task.endswith(continual_world.AGAIN)}
    assert set(continual_world.TEXTS) == set(continual_world.TASKS) | again
    assert len(set(continual_world.TEXTS.values())) == len(continual_world.TEXTS), "who comes again comes with other words"


def test_a_task_that_comes_again_has_other_data_of_the_same_task():
    outlines = {task.name: task for task in continual_world.outline("cwpairs-v3", continual_world.Options())}
    assert len(outlines) == 2 * len(continual_world.PAIRS) + 3
    for name in ("window-close", "push", "faucet-open"):
        first, second = outlines[name], outlines[f"{name}-again"]
        assert first.env == second.env and first.folder != second.folder
        assert not set(second.source.goals()) & set(first.source.goals()[: first.episodes]), "other goals"
        assert first.source.name != second.source.name, "and other noise"
    with pytest.raises(UsageError, match=r"stream.episodes is 101; a task of cwpairs-v3 has goals for 2 to 100"):
        continual_world.outline("cwpairs-v3", continual_world.Options(episodes=101))


RENDER = """
import numpy as np
from perdure.benchmarks.metaworld_env import MetaWorldFactory, goals
env = MetaWorldFactory("hammer")()
env.reset(options={"goal": goals("hammer")["final"][0]})
picture = env.frame(64)
assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
for _ in range(30):
    env.step(np.array([0, 0, 1, 0]))
later = env.frame(64)
assert (later != picture).any()
print(picture[:6].std(), picture[-6:].std())
env.close()
"""


def test_a_frame_is_upright():
    for renderer in ("egl", "osmesa"):
        done = subprocess.run(
            [sys.executable, "-c", RENDER],
            env={"MUJOCO_GL": renderer, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            sky, floor = map(float, done.stdout.split())
            assert sky < 5 < floor  # plain above, floor and table legs below
            return
    pytest.skip("nothing here renders")


def test_touching_is_what_metaworld_itself_answers():
    """On every question of an episode in which the gripper takes and holds the object."""
    env = MetaWorldFactory("push")()
    raw, answers = env._env, []
    ours = raw.touching_object

    def both(geom):
        theirs = type(raw).touching_object(raw, geom)
        answers.append((ours(geom), bool(theirs)))
        return theirs

    raw.touching_object = both
    rollout(env, expert("push"), goals("push")["data"][0], steps=80)
    assert all(mine == theirs for mine, theirs in answers)
    assert {theirs for _, theirs in answers} == {True, False}
