"""Scales of moments: early observations far from all others become as wide as those."""

import torch

from perdure.continual.episode_scales import ENOUGH, FLOOR, KNOTS, EpisodeScales
from perdure.continual.state_model import FARTHEST, StateModel
from perdure.core.policy import Stats


def fallen(episodes=200, length=60):
    """Episodes that begin close together, far above where they soon lie, with a channel that begins equal; and their steps."""
    torch.manual_seed(0)
    steps = torch.arange(length).repeat(episodes)
    height = 20 * 0.3**steps + torch.randn(len(steps)) * torch.where(steps == 0, 0.01, 1.0)
    speed = torch.where(steps == 0, 0.0, torch.randn(len(steps)) + 5)
    return torch.stack([height, speed, torch.full_like(height, 7.0)], 1), steps


def opened(obs, steps):
    scales = EpisodeScales()
    for task, shift in enumerate((0.0, 100.0)):
        scales.open(task, obs.shape[1])
        scales.add(task, obs + shift, steps, obs.mean(0) + shift, obs.std(0))
    return scales


def test_every_moment_has_deviation_one():
    obs, steps = fallen()
    mean, deviation = opened(obs, steps).at(steps, torch.zeros_like(steps), (0,))
    scaled = (obs - mean) / deviation
    for step in (0, 1, 3, 10, 40):
        of_step = scaled[steps == step]
        assert bool((of_step[:, :2].mean(0).abs() < 0.8).all()) and 0.5 < float(of_step[:, 0].std()) < 1.5, step
    assert float(scaled.abs().max()) < 8
    whole = (obs - obs.mean(0)) / obs.std(0)
    assert float(whole[steps == 0][:, 0].mean()) > 5, "which the scale of a whole task does not do"


def test_what_never_varies_divides_by_a_share_of_the_task_s_deviation():
    obs, steps = fallen()
    _, deviation = opened(obs, steps).at(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), (0,))
    torch.testing.assert_close(deviation[0, 1], FLOOR * obs.std(0)[1], rtol=0.5, atol=0)
    assert float(deviation[0, 2]) == 1


def test_each_task_has_its_own_and_rows_of_several_mix():
    obs, steps = fallen()
    scales, some = opened(obs, steps), torch.tensor([5, 5, 5])
    mean, _ = scales.at(some, torch.tensor([1, 0, 1]), (0, 1))
    torch.testing.assert_close(mean[0], mean[2])
    torch.testing.assert_close(mean[0] - mean[1], torch.full((3,), 100.0), rtol=1e-3, atol=1e-2)


def test_moments_that_the_data_lack_have_the_scale_of_the_task():
    obs, steps = fallen(length=6)
    scales = opened(obs, steps)
    late = torch.tensor([600])
    mean, deviation = scales.at(late, torch.zeros_like(late), (0,))
    torch.testing.assert_close(mean[0], obs.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(deviation[0, :2], obs.std(0)[:2], rtol=1e-3, atol=1e-3)
    assert scales.get_buffer("mean_0").shape == (len(KNOTS), 3)


def test_the_state_model_scales_by_the_moment_and_back():
    obs, steps = fallen()
    states = StateModel(lambda size: None, "task", 0.0, timed=True)
    states.add_task(0, Stats(obs.mean(0), obs.std(0), 1.0, 1.0), obs, steps)
    index = torch.zeros_like(steps)
    scaled = states.scaled(obs, index, (0,), steps)
    assert 0.5 < float(scaled[steps == 0][:, 0].std()) < 2
    torch.testing.assert_close(states.unscaled(scaled, 0, steps), obs, rtol=1e-3, atol=1e-3)


def test_a_few_episodes_leave_none_of_their_observations_behind():
    for episodes in (1, ENOUGH - 1):
        obs, steps = fallen(episodes)
        known = opened(obs, steps).get_buffer("mean_0")
        torch.testing.assert_close(known[:4], obs.mean(0).expand(4, -1))
        assert float(torch.cdist(obs, known).min()) > 0.01


def test_what_lies_far_from_its_moment_is_bounded():
    model = StateModel(lambda size: None, "task", 0.0, timed=True)
    obs, steps = fallen()
    model.add_task(0, Stats(obs.mean(0), obs.std(0), 1.0, 1.0), obs, steps)
    away = model.scaled(obs[steps == 40][:5], torch.zeros(5, dtype=torch.int64), (0,), torch.zeros(5, dtype=torch.int64))
    assert float(away.abs().max()) == FARTHEST
