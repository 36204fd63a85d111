import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from point_envs import DISCRETE, SPEC, FaultyFactory, GridFactory, PointFactory

from perdure.core.errors import GuardError, UsageError
from perdure.core.spec import Box, Spec
from perdure.core.task import ScoreScale
from perdure.data.trajectory import episode_arrays
from perdure.evaluate.rollout import rollout
from perdure.evaluate.workers import EnvPool

GOALS = [(round(0.6 * np.cos(i), 3), round(0.6 * np.sin(i), 3)) for i in range(11)] + [(2.0, 0.5)]
RETURN = ScoreScale("return", -100.0, 0.0, "test")


class Walker:
    """Towards the goal, disturbed by a small network of observation, previous reward and steps so far."""

    def __init__(self, noise=0.0, speed=3.0):
        g = torch.Generator().manual_seed(0)
        self.first, self.second = torch.randn(6, 64, generator=g), torch.randn(64, 2, generator=g) * 0.03
        self.noise, self.speed = noise, speed
        self.batches = set()

    def start(self, n):
        return {"steps": torch.zeros(n), "seen": torch.zeros(n, 4)}

    def act(self, obs, carry, g, reward=None):
        assert torch.is_inference_mode_enabled() and obs.dtype == reward.dtype == torch.float32
        self.batches.add(tuple(obs.shape))
        begun = carry["steps"] == 0
        assert (carry["seen"][begun] == 0).all() and (reward[begun] == 0).all()
        features = torch.cat([obs + 0.01 * carry["seen"], reward[:, None], carry["steps"][:, None]], 1)
        action = self.speed * (obs[:, 2:] - obs[:, :2]) + (features @ self.first).tanh() @ self.second
        action = action + self.noise * torch.randn(action.shape, generator=g)
        return action.clamp(-1, 1), {"steps": carry["steps"] + 1, "seen": obs}


def run(actor=None, factory=None, goals=GOALS, **options):
    """Episodes and trajectories of a rollout."""
    options = {"spec": SPEC, "seed": 3, "place": (0, 1), "slots": 4, "workers": 0, **options}
    trajectories = []
    episodes = rollout(actor or Walker(), factory or PointFactory(), goals, kept=trajectories, **options)
    return list(zip(episodes, trajectories, strict=True))


def bits(played):
    return [
        (e, t.observations.tobytes(), t.actions.tobytes(), t.rewards.tobytes(), t.seed, t.goal)
        for e, t in played
    ]


def test_latched_success_ends_an_episode():
    played = run()
    lengths = [e.length for e, _ in played]
    assert len(set(lengths)) > 3 and max(lengths) < 40
    for goal, (episode, trajectory) in zip(GOALS, played, strict=True):
        assert (episode.score, episode.success, episode.raw_return) == (1.0, True, None)
        assert trajectory.goal == goal and trajectory.success and trajectory.length == episode.length
        distance = np.linalg.norm(trajectory.observations[:, :2] - trajectory.observations[:, 2:], axis=1)
        assert distance[-1] < 0.1 <= distance[1:-1].min()
        assert trajectory.truncated.tolist() == [False] * (episode.length - 1) + [True]
        episode_arrays(trajectory, SPEC, 0)


def test_full_episodes_keep_the_latch_and_their_return():
    for options in ({"stop_at_success": False}, {"scale": RETURN}):
        for episode, trajectory in run(**options):
            assert episode.length == 40 and episode.success is True
            assert episode.raw_return == pytest.approx(float(trajectory.rewards.sum()), abs=1e-4)
            score = 1.0 if "scale" not in options else (episode.raw_return + 100) / 100
            assert episode.score == score


def test_a_failed_episode_scores_zero_and_has_its_return():
    (episode, _), *_ = run(actor=Walker(speed=-3.0), goals=[(0.9, 0.9)])
    assert (episode.score, episode.success, episode.length) == (0.0, False, 40) and episode.raw_return < -40


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_an_episode_depends_on_its_own_row_alone(noise, tmp_path):
    """Bit for bit: number of episodes or workers, a lost worker, and other rows change nothing."""
    everything = bits(run(Walker(noise)))
    for count in (1, 5, 9):
        assert bits(run(Walker(noise), goals=GOALS[:count])) == everything[:count]
    for workers in (1, 2, 3):
        assert bits(run(Walker(noise), workers=workers)) == everything
    with EnvPool(FaultyFactory("exit", str(tmp_path), times=3), 4, 2, deadline=5.0) as pool:
        assert bits(run(Walker(noise), factory=pool.factory, pool=pool)) == everything
        assert pool.replaced == 3
    # rows 1 to 3 get other goals, whose episodes have other lengths; row 0 does not see it
    others = [goal if i % 4 == 0 else (-0.9, 0.1 * i) for i, goal in enumerate(GOALS)]
    changed = bits(run(Walker(noise), goals=others))
    assert changed[::4] == everything[::4] and changed[1] != everything[1]


def test_without_noise_the_earlier_episodes_of_the_row_do_not_matter_either():
    everything = bits(run())
    others = [goal if i >= 8 else (-0.9, 0.1 * i) for i, goal in enumerate(GOALS)]
    assert bits(run(goals=others))[8:] == everything[8:]


def test_the_batch_has_always_the_same_size():
    actor = Walker()
    for count in (1, 3, 12):
        run(actor, goals=GOALS[:count])
    assert actor.batches == {(4, 4)}


def test_nothing_to_do():
    assert run(goals=[]) == []


def test_seeds_and_places():
    """Noise follows the place; environment seeds follow `episode_place`, so cells can meet equal episodes."""
    blind = [None] * 5
    first = run(goals=blind)
    assert bits(run(goals=blind)) == bits(first)
    assert len({t.seed for _, t in first}) == 5
    assert [t.seed for _, t in run(goals=blind, seed=4)] != [t.seed for _, t in first]
    assert [t.seed for _, t in run(goals=blind, place=(0, 2))] != [t.seed for _, t in first]
    a, b = (run(Walker(0.3), goals=blind, place=(0, row), episode_place=(0, "final")) for row in (1, 2))
    assert [t.seed for _, t in a] == [t.seed for _, t in b] and bits(a) != bits(b)
    assert bits(run(goals=blind, episode_place=(0, "final"))) == bits(
        run(goals=blind, place=(0, 2), episode_place=(0, "final"))
    )


def test_global_random_state_and_the_actor_stay_as_they_are():
    actor = Walker(0.3)
    weights = actor.first.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    run(actor)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(actor.first, weights) and not torch.is_inference_mode_enabled()


class Counter:
    """Discrete actions from images; counts the steps of each row in place."""

    def start(self, n):
        return {"steps": torch.zeros(n, dtype=torch.int64)}

    def act(self, obs, carry, g, reward=None):
        assert obs.dtype == torch.uint8
        carry["steps"] += 1
        return carry["steps"] % 5, carry


@pytest.mark.parametrize("workers", [0, 1])
def test_images_discrete_actions_and_ends(workers):
    played = run(Counter(), GridFactory(), [None] * 12, spec=DISCRETE, scale=RETURN, workers=workers)
    assert {e.length for e, _ in played} == {3, 4, 5, 6}
    for episode, trajectory in played:
        wanted = 3 + trajectory.seed % 7
        assert episode.success is None and episode.length == min(wanted, 6)
        assert trajectory.actions.tolist() == [1, 2, 3, 4, 0, 1][: episode.length]
        assert episode.raw_return == sum([1, 2, 3, 4, 0, 1][: episode.length])
        assert bool(trajectory.terminated[-1]) == (wanted <= 6) == (not trajectory.truncated[-1])
        episode_arrays(trajectory, DISCRETE, 0)


def test_success_must_be_reported_where_it_is_the_score():
    with pytest.raises(UsageError, match=r"GridFactory.*reports no info\['success'\]"):
        run(Counter(), GridFactory(), [None], spec=DISCRETE)


def test_spec_pool_and_environment_must_fit():
    with pytest.raises(UsageError, match=r"float32 \[4\]; the task's spec has float32 \[5\]"):
        run(spec=Spec(Box((5,)), SPEC.action))
    with EnvPool(PointFactory(), 3, 0) as pool, pytest.raises(UsageError, match="pool has 3 slots"):
        run(pool=pool)
    with EnvPool(PointFactory(7), 4, 0) as pool, pytest.raises(UsageError, match="horizon=7"):
        run(pool=pool)


@dataclass
class Broken(Walker):
    action: torch.Tensor

    def start(self, n):
        return {}

    def act(self, obs, carry, g, reward=None):
        return self.action, carry


def test_a_broken_actor_is_named():
    with pytest.raises(UsageError, match=r"shape \[4, 3\]; the task needs \[4, 2\]"):
        run(Broken(torch.zeros(4, 3)))
    with pytest.raises(GuardError, match=r"the actor returned the action \[nan, nan\] in episode 0"):
        run(Broken(torch.full((4, 2), torch.nan)))


def test_nan_in_idle_rows_is_nobodys_business():
    action = torch.zeros(4, 2)
    action[1:] = torch.nan
    assert len(run(Broken(action), goals=GOALS[:1])) == 1


def test_an_open_pool_stays_open_and_the_heartbeat_interrupts():
    beats = itertools.count()

    def heartbeat():
        if next(beats) == 5:
            raise InterruptedError

    with EnvPool(PointFactory(), 4, 1) as pool:
        first = bits(run(pool=pool))
        worker = pool._workers[0]
        assert bits(run(pool=pool)) == first and pool._workers[0] is worker
        with pytest.raises(InterruptedError):
            run(pool=pool, heartbeat=heartbeat)
        assert bits(run(pool=pool)) == first
