"""frozen_trunk: the trunk is that of the first task for ever, and later tasks learn a head on it."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import UsageError

DECAY = {"weight_decay": 0.1, "learning_rate": 0.02}
both = pytest.mark.parametrize("policy", ["bc", "dt"])


def copies(lab):
    return {name: p.detach().clone() for name, p in lab.method.policy.named_parameters()}


@both
def test_only_heads_move_after_the_first_task(policy):
    lab = Lab(config("frozen_trunk", policy, **DECAY)).learn(0)
    before, first = copies(lab), lab.actions(0)
    lab.method.zero_grad()
    lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    head = copies(lab)["bank.heads.task-1.weight"]
    lab = Lab(config("frozen_trunk", policy, **DECAY)).learn(0, 1, 2)
    after = copies(lab)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.equal(after["bank.heads.task-1.weight"], head)
    assert torch.equal(lab.actions(0), first)


@both
def test_first_task_is_finetunes_bit_for_bit(policy):
    mine, plain = (Lab(config(method, policy)).learn(0) for method in ("frozen_trunk", "finetune"))
    theirs = copies(plain)
    assert all(torch.equal(value, theirs[name]) for name, value in copies(mine).items())


@both
def test_an_update_asks_for_no_gradient_of_the_trunk(policy):
    lab = Lab(config("frozen_trunk", policy, steps=2)).learn(0)
    lab.method.zero_grad()
    lab.learn(1)
    assert {name for name, p in lab.method.policy.named_parameters() if p.grad is not None} == set(lab.method.policy.private(1))


@both
def test_an_encoder_that_opens_late_is_trained_by_its_task_alone(policy):
    lab = Lab(config("frozen_trunk", policy, "toy-spaces", tasks=4, **DECAY)).learn(0)
    trunk, first = copies(lab), lab.actions(0)
    lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    fresh = copies(lab)
    lab = Lab(config("frozen_trunk", policy, "toy-spaces", tasks=4, **DECAY)).learn(0, 1)
    second = copies(lab)
    assert all(torch.equal(second[name], value) for name, value in trunk.items())
    assert not torch.equal(second["encoders.float32-3.weight"], fresh["encoders.float32-3.weight"])
    lab.learn(2, 3)
    after = copies(lab)
    assert all(torch.equal(after[name], value) for name, value in second.items())
    assert torch.equal(lab.actions(0), first)


def test_a_single_head_leaves_nothing_to_train_and_is_refused():
    with pytest.raises(UsageError, match=r"policy\.heads is 'single'"):
        Lab(config("frozen_trunk", policy_options={"heads": "single"}))
