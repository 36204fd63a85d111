"""Normaliser and return target: of the training split, with constant channels left alone."""

import numpy as np
import pytest
from dataset_samples import CONTINUOUS, DESCRIPTION, IMAGES, episodes

from perdure.core.task import ScoreScale, Task
from perdure.data.stats import SMALLEST_STD, behaviour_means, statistics
from perdure.data.store import Dataset


def dataset(items, spec=CONTINUOUS, holdout=0.25):
    return Dataset.in_memory(items, name="sample", spec=spec, holdout=holdout, **DESCRIPTION)


def test_mean_and_deviation_are_those_of_the_training_split():
    data = dataset(episodes(CONTINUOUS, (5, 8, 3, 7, 9)))
    rows = np.concatenate([data.trajectory(int(e)).observations for e in data.episodes("train")])
    stats = statistics(data)
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.std, rows.std(0), rtol=1e-5)
    for trajectory in (data.trajectory(int(e)) for e in data.episodes("holdout")):
        assert not np.allclose(np.concatenate([rows, trajectory.observations]).mean(0), stats.mean, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.0, SMALLEST_STD / 10])
def test_constant_channels_divide_by_one(noise):
    items = episodes(CONTINUOUS, (6, 6, 6, 6))
    for item in items:
        item.observations[:, 1] = 7.0 + noise * np.random.default_rng(0).standard_normal(7)
    stats = statistics(dataset(items))
    assert float(stats.mean[1]) == pytest.approx(7.0, abs=1e-4)
    assert float(stats.std[1]) == 1.0
    assert (stats.std[[0, 2]] != 1.0).all()


def test_a_channel_that_varies_a_little_is_still_scaled():
    items = episodes(CONTINUOUS, (50, 50, 50, 50))
    for item in items:
        item.observations[:, 1] *= 1e-3
    assert 5e-4 < float(statistics(dataset(items)).std[1]) < 2e-3


def test_target_is_the_upper_quantile_of_the_training_returns():
    data = dataset(episodes(CONTINUOUS, tuple(range(1, 21))))
    returns = [sum(map(float, data.trajectory(int(e)).rewards)) for e in data.episodes("train")]
    stats = statistics(data)
    assert stats.target_return == pytest.approx(np.quantile(returns, 0.95), rel=1e-5)
    assert stats.return_scale == pytest.approx(abs(stats.target_return), rel=1e-5)


@pytest.mark.parametrize("returns", [(0.0, 0.0, 0.0), (-100.0, -80.0, 0.0)])
def test_return_scale_is_never_tiny(returns):
    items = episodes(CONTINUOUS, (2, 2, 2))
    for item, value in zip(items, returns, strict=True):
        item.rewards[:] = value / 2
    assert statistics(dataset(items, holdout=0.0)).return_scale >= max(1e-6, 0.05 * max(map(abs, returns)))


@pytest.mark.parametrize(("returns", "span"), [
    ((0.0, 40.0, 100.0), 100.0), ((-100.0, -80.0, 0.0), 100.0), ((-50.0, 10.0, 150.0), 200.0),
    ((2600.0, 2742.0, 2900.0), 2900.0), ((-330.0, -310.0, -300.0), 330.0), ((0.0, 0.0, 0.0), 1e-6),
])  # fmt: skip
def test_times_the_reward_scale_returns_and_zero_span_as_many_units_as_the_longest_episode_has_steps(returns, span):
    items = episodes(CONTINUOUS, (2, 5, 3))
    for item, value in zip(items, returns, strict=True):
        item.rewards[:] = value / len(item.rewards)
    assert statistics(dataset(items, holdout=0.0)).reward_scale == pytest.approx(5 / span, rel=1e-5)


def test_images_are_not_normalised():
    stats = statistics(dataset(episodes(IMAGES, (3, 3)), IMAGES))
    assert not stats.mean.any()
    assert (stats.std == 1).all()
    assert len(stats.mean) == IMAGES.obs.size


def test_the_mean_of_the_data_is_of_all_episodes_and_on_the_score_s_scale():
    items = episodes(CONTINUOUS, (2, 2, 2, 2))
    for item, value in zip(items, (100.0, 200.0, 300.0, 1000.0), strict=True):
        item.rewards[:] = value / 2
    data = dataset(items)
    task = Task(0, "one", CONTINUOUS, data, score=ScoreScale("return", -100.0, 900.0, "made here"))
    assert behaviour_means(task) == pytest.approx({"mean_return": 400.0, "mean_score": 0.5})
    assert behaviour_means(Task(0, "one", CONTINUOUS, data)) == {"mean_return": 400.0}
