"""independent: nothing is shared, and the first model is what finetuning makes of the first task."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import UsageError


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_tasks_share_nothing(policy):
    lab = Lab(config("independent", policy)).learn(0)
    before, actions = lab.method.copy(), lab.actions(0)
    lab.learn(1, 2)
    own = [{p.data_ptr() for p in net.parameters()} for net in lab.method.policies.values()]
    assert not own[0] & own[1]
    assert not own[1] & own[2]
    for name, p in before.named_parameters():
        assert torch.equal(p, dict(lab.method.named_parameters())[name])
    assert torch.equal(lab.actions(0), actions)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_first_model_is_finetunes(policy):
    """Bit for bit, but for clipping: it adds up the gradient's norm in another order of the parameters."""
    mine, plain = (Lab(config(method, policy, clip=0.0)).learn(0) for method in ("independent", "finetune"))
    theirs = dict(plain.method.policy.named_parameters())
    for name, p in mine.method.policies["0"].named_parameters():
        assert torch.equal(p, theirs[name]), name


def test_every_task_starts_from_the_same_trunk():
    lab = Lab(config("independent", steps=1, learning_rate=1e-12, weight_decay=0.0)).learn(0, 1)
    first, second = (dict(lab.method.policies[k].named_parameters()) for k in "01")
    torch.testing.assert_close(first["trunk.1.weight"], second["trunk.1.weight"], atol=1e-9, rtol=0)
    assert not torch.allclose(first["bank.heads.task-0.weight"], second["bank.heads.task-1.weight"])


def test_unknown_task_is_named():
    lab = Lab(config("independent")).learn(0)
    with pytest.raises(UsageError, match="task 2 was not learned; this agent knows the tasks 0"):
        lab.method.actor(2)
