"""tsn_replaykl: the released rule on stored observations, and memory that is counted."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import UsageError
from perdure.methods.tsn_replaykl import observation_distance


def test_the_distance_is_a_divergence_of_softmaxes():
    old, new = (torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    a, b = (torch.distributions.Categorical(logits=rows) for rows in (old, new))
    assert observation_distance(old, new) == pytest.approx(float(torch.distributions.kl_divergence(a, b).mean()), rel=1e-5)
    assert observation_distance(old, old) == 0.0
    pixels = torch.randint(0, 256, (3, 84 * 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert observation_distance(pixels, pixels.flip(1)) < 0.25, "over pixels it is next to nothing"


@pytest.mark.parametrize(("threshold", "copies"), [(0.0, [0, 1, 2]), (1e6, [0, 0, 0])])
def test_far_tasks_get_copies(threshold, copies):
    lab = Lab(config("tsn_replaykl", threshold=threshold, samples=16)).learn()
    assert list(lab.method.pool.copy_of.values()) == copies
    assert lab.method.memory_bytes() == 3 * 16 * 2 * 4


@pytest.mark.parametrize("threshold", [0.0, 1e6])
def test_old_tasks_act_bit_for_bit_as_before(threshold):
    lab = Lab(config("tsn_replaykl", "dt", threshold=threshold, weight_decay=0.1, learning_rate=0.02)).learn(0)
    before = lab.actions(0)
    lab.learn(1, 2)
    assert torch.equal(lab.actions(0), before)


def test_tasks_of_other_spaces_are_far():
    lab = Lab(config("tsn_replaykl", stream="toy-spaces", threshold=1e6)).learn()
    assert list(lab.method.pool.copy_of.values()) == [0, 1, 2]


def test_a_threshold_that_cannot_be():
    with pytest.raises(UsageError, match=r"method\.threshold -1\.0"):
        config("tsn_replaykl", threshold=-1.0)
