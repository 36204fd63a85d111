"""Times of episodes: drawn as often as the data have them, told as waves."""

import pytest
import torch

from perdure.continual.episode_times import EpisodeTimes


def opened(*episodes):
    times = EpisodeTimes()
    times.open(0)
    times.add(0, torch.cat([torch.arange(length) for length in episodes]))
    return times


@pytest.mark.parametrize("length", [1, 3, 20, 50, 200, 500])
def test_every_step_of_episodes_of_one_length_is_drawn_equally_often(length):
    drawn = opened(length, length).draw(0, 200_000, torch.Generator().manual_seed(0))
    count = torch.bincount(drawn, minlength=length) * length / 200_000
    assert len(count) == length
    assert float(count.min()) > 0.75 and float(count.max()) < 1.25
    assert float(count[0]) == pytest.approx(1, abs=0.15), "a number that is rounded has half as many firsts"


def test_steps_that_only_long_episodes_have_are_drawn_less_often():
    drawn = opened(*[20] * 9, 200).draw(0, 200_000, torch.Generator().manual_seed(0)).double()
    real = torch.cat([torch.arange(20).repeat(9), torch.arange(200)]).double()
    for level in (0.1, 0.3, 0.5, 0.9):
        assert float(drawn.quantile(level)) == pytest.approx(float(real.quantile(level)), abs=2.5)
    assert int(drawn.max()) == 199


def test_each_task_keeps_132_bytes():
    assert sum(b.numel() * b.element_size() for b in opened(200).buffers()) == 132


def test_waves_tell_the_share_of_the_longest_episode():
    told = opened(200).waves(torch.tensor([0, 100]), torch.tensor([0, 0]), (0,))
    assert told.shape == (2, 12)
    torch.testing.assert_close(told[0], torch.cat([torch.zeros(6), torch.ones(6)]))
    torch.testing.assert_close(told[1, 0], torch.tensor(0.5 * torch.pi / 2).sin())
