"""bc: what is its own."""

import pytest
import torch
from policy_samples import VECTOR, generator, make, opened, windows
from torch import nn

from perdure.core.errors import UsageError
from perdure.policies.bc import BC, BCConfig


def test_acting_equals_forward_in_environment_units():
    policy = opened("bc", VECTOR)
    batch = windows(policy, VECTOR)
    actor = policy.actor(0)
    action, carry = actor.act(batch.obs[:, 0], actor.start(4), generator())
    low, high = torch.tensor(VECTOR.action.low), torch.tensor(VECTOR.action.high)
    torch.testing.assert_close(action, (policy(batch).mean[:, 0] + 1) / 2 * (high - low) + low)
    assert carry == {}


def test_the_actor_without_a_task_takes_the_newest():
    policy = opened("bc", VECTOR, VECTOR)
    obs = windows(policy, VECTOR).obs[:, 0]
    mine, newest = policy.actor(None), policy.actor(1)
    assert torch.equal(mine.act(obs, {}, generator())[0], newest.act(obs, {}, generator())[0])


def test_trunk_of_the_paper_profile():
    """Continual World's actor: LayerNorm and tanh after the first layer, then LeakyReLU."""
    trunk = BC(BCConfig(**BC.PROFILES["paper"]["policy"])).trunk
    assert [type(m) for m in trunk] == [nn.LayerNorm, nn.Tanh, *[nn.Linear, nn.LeakyReLU] * 3]
    assert all(m.in_features == m.out_features == 256 for m in trunk if isinstance(m, nn.Linear))


def test_trunk_of_the_cpu_profile():
    assert [type(m) for m in make("bc", layers=3).trunk] == [nn.ReLU, *[nn.Linear, nn.ReLU] * 2]


def test_unknown_activation_is_named():
    with pytest.raises(UsageError, match=r"policy\.activation is 'sine'; use one of relu, leaky_relu"):
        BCConfig(activation="sine")
