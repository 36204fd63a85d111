"""Sampler against a plain Python loop over one window at a time, and its probabilities."""

import numpy as np
import pytest
import torch
from dataset_samples import ALL_SPECS, CONTINUOUS, DESCRIPTION, episodes

from perdure.core.spec import Box, Spec
from perdure.data.sampler import Sampler, scale_action, unscale_action
from perdure.data.store import Dataset

LENGTHS = (4, 1, 6, 3, 9)


def dataset(spec=CONTINUOUS, lengths=LENGTHS, holdout=0.25):
    return Dataset.in_memory(episodes(spec, lengths), name="sample", spec=spec, holdout=holdout, **DESCRIPTION)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scaled(action, spec):
    if spec.discrete:
        return int(action)
    low, high = np.float32(spec.action.low), np.float32(spec.action.high)
    return (action - low) / (high - low) * 2 - 1


def seen(one, spec, t):
    """The observation at step t: the last frames, oldest first, the first one repeated before the episode began."""
    return np.concatenate([one.observations[max(t - back, 0)] for back in reversed(range(spec.obs.stack))])


def plain_window(data, e, t, length):
    """The window that starts at step t of episode e, made one step at a time."""
    one, steps = data.trajectory(e), int(data.lengths[e])
    fields = {
        name: []
        for name in ("obs", "action", "reward", "return_to_go", "timestep", "terminated", "truncated", "valid")
    }
    for k in range(t, t + length):
        at = min(k, steps - 1)  # padding repeats the last step and is marked
        fields["obs"].append(seen(one, data.spec, at))
        fields["action"].append(scaled(one.actions[at], data.spec))
        fields["reward"].append(one.rewards[at])
        fields["return_to_go"].append(sum(float(r) for r in one.rewards[at:]))
        fields["timestep"].append(at)
        fields["terminated"].append(one.terminated[at])
        fields["truncated"].append(one.truncated[at])
        fields["valid"].append(k < steps)
    return fields, seen(one, data.spec, min(t + length, steps))


def places(data, split="train"):
    """Every (episode, step) of a split, in the order of flat step indices."""
    return [(int(e), t) for e in data.episodes(split) for t in range(data.lengths[e])]


@pytest.mark.parametrize("length", [1, 3, 10])
@pytest.mark.parametrize("spec", ALL_SPECS, ids=lambda spec: f"{spec.obs_key}-{spec.action_key}")
def test_every_window_equals_the_plain_one(spec, length):
    data = dataset(spec)
    sampler = Sampler(data, task=2)
    batch = sampler.windows_at(sampler.starts["all"].step, length)
    assert len(batch) == sum(LENGTHS)
    for row, (e, t) in enumerate(places(data, "all")):
        fields, last = plain_window(data, e, t, length)
        for name, values in fields.items():
            mine = getattr(batch, name)[row].numpy()
            np.testing.assert_allclose(
                mine, np.stack(values), rtol=1e-5, atol=1e-5, err_msg=f"{name} of episode {e}, step {t}"
            )
        np.testing.assert_array_equal(batch.last_obs[row].numpy(), last)
    assert set(batch.task.tolist()) == {2}
    assert batch.tasks == (2,)
    assert batch.obs.dtype == (torch.uint8 if spec.obs.dtype == "uint8" else torch.float32)
    assert batch.action.dtype == (torch.int64 if spec.discrete else torch.float32)
    assert batch.valid[:, 0].all(), "a window starts inside an episode and is padded on the right"
    assert (batch.valid[:, 1:] <= batch.valid[:, :-1]).all()


def test_windows_never_cross_into_the_next_episode():
    data = dataset()
    sampler = Sampler(data, 0)
    batch = sampler.windows_at(sampler.starts["all"].step, 10)
    assert (batch.timestep[:, 1:] >= batch.timestep[:, :-1]).all()
    episode = {tuple(o.tolist()): e for e in range(len(LENGTHS)) for o in data.trajectory(e).observations}
    for row, (e, _) in enumerate(places(data, "all")):
        assert {episode[tuple(o.tolist())] for o in batch.obs[row]} == {e}
        assert episode[tuple(batch.last_obs[row].tolist())] == e


@pytest.mark.parametrize("spec", [*ALL_SPECS[:3], ALL_SPECS[4]], ids=lambda spec: spec.action_key)
def test_transitions_equal_the_plain_ones(spec):
    data = dataset(spec)
    sampler = Sampler(data, 1)
    batch = sampler.transitions_at(sampler.starts["all"].step)
    for row, (e, t) in enumerate(places(data, "all")):
        one = data.trajectory(e)
        np.testing.assert_array_equal(batch.obs[row], seen(one, spec, t))
        np.testing.assert_array_equal(batch.next_obs[row], seen(one, spec, t + 1))
        np.testing.assert_allclose(batch.action[row], scaled(one.actions[t], spec), atol=1e-6)
        assert float(batch.reward[row]) == float(one.rewards[t])
        assert bool(batch.terminated[row]) == bool(one.terminated[t])


def test_return_to_go_of_a_long_episode_keeps_its_digits():
    data = dataset(lengths=(2000, 5), holdout=0.0)
    sampler = Sampler(data, 0)
    rewards = data.array("rewards")[:2000].astype(np.float64)
    np.testing.assert_allclose(
        sampler.return_to_go[:2000], [rewards[t:].sum() for t in range(2000)], rtol=1e-4, atol=1e-4
    )


def frequencies(data, split, by, n=40_000):
    sampler = Sampler(data, 0)
    drawn = sampler.draw_steps(n, generator(), split, by)
    return np.bincount(drawn.numpy(), minlength=sum(LENGTHS)) / n


@pytest.mark.parametrize("split", ["train", "holdout", "all"])
@pytest.mark.parametrize("by", ["steps", "episodes"])
def test_probabilities(split, by):
    """`steps`: every step alike, so an episode counts by its length; `episodes`: every episode alike."""
    data = dataset()
    chosen, ends = data.episodes(split), np.cumsum(LENGTHS)
    expected = np.zeros(sum(LENGTHS))
    for e in chosen:
        share = 1 / sum(LENGTHS[c] for c in chosen) if by == "steps" else 1 / len(chosen) / LENGTHS[e]
        expected[ends[e] - LENGTHS[e] : ends[e]] = share
    found = frequencies(data, split, by)
    assert (found[expected == 0] == 0).all(), "no step of the other split is ever drawn"
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / 40_000)


def test_holdout_is_never_drawn_for_training():
    data = dataset()
    assert set(data.episodes("train")) | set(data.episodes("holdout")) == set(range(5))
    assert not set(data.episodes("train")) & set(data.episodes("holdout"))
    sampler = Sampler(data, 0)
    kept_out = {tuple(o.tolist()) for e in data.episodes("holdout") for o in data.trajectory(e).observations}
    seen = {tuple(o.tolist()) for o in sampler.windows(4, 3000, generator()).obs.flatten(0, 1)}
    seen |= {tuple(o.tolist()) for o in sampler.transitions(3000, generator()).next_obs}
    assert kept_out
    assert not seen & kept_out
    assert sampler.count("train") + sampler.count("holdout") == sampler.count("all") == sum(LENGTHS)


def test_draws_follow_their_generator_alone():
    sampler = Sampler(dataset(), 0)
    torch.manual_seed(0)
    one = sampler.windows(3, 16, generator(5))
    torch.manual_seed(9)
    assert torch.equal(sampler.windows(3, 16, generator(5)).obs, one.obs)
    assert not torch.equal(sampler.windows(3, 16, generator(6)).obs, one.obs)


def test_actions_scale_to_one_and_back():
    spec = Spec(Box((1,)), Box((2,), low=(-3.0, 0.0), high=(1.0, 0.5)))
    ends = torch.tensor([[-3.0, 0.0], [1.0, 0.5], [-1.0, 0.25]])
    assert scale_action(ends, spec).tolist() == [[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]
    torch.testing.assert_close(unscale_action(scale_action(ends, spec), spec), ends)
    assert unscale_action(torch.tensor([[-7.0, 7.0]]), spec).tolist() == [[-3.0, 0.5]]


def test_the_dataset_is_not_changed():
    data = dataset()
    before = {name: data.array(name).copy() for name in ("observations", "actions", "rewards")}
    sampler = Sampler(data, 0)
    sampler.action.mul_(0)
    sampler.obs.mul_(0)
    for name, values in before.items():
        np.testing.assert_array_equal(data.array(name), values)
