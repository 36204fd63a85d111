"""finetune: heads per task or one head for all."""

import pytest
import torch
from tiny import Lab, actions_of, config

from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.run_config import find, policy_of


def snapshot(lab):
    return {name: p.detach().clone() for name, p in lab.method.named_parameters()}


def changed(lab, before):
    return {name for name, p in lab.method.named_parameters() if name in before and not torch.equal(p, before[name])}


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_per_task_heads_leave_the_old_head_alone(policy):
    lab = Lab(config("finetune", policy)).learn(0)
    before = snapshot(lab)
    lab.learn(1)
    assert set(lab.method.policy.bank.heads) == {"task-0", "task-1"}
    moved = changed(lab, before)
    assert not any("task-0" in name for name in moved)
    assert any("task-0" not in name for name in moved), "the trunk is shared and moves"


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_a_single_head_is_shared_and_moves(policy):
    lab = Lab(config("finetune", policy, policy_options={"heads": "single", "normaliser": "first"})).learn(0)
    before = snapshot(lab)
    assert lab.method.policy.private(0) == {}
    lab.learn(1)
    assert list(lab.method.policy.bank.heads) == ["all-box-2"]
    assert {"policy.bank.heads.all-box-2.weight", "policy.bank.heads.all-box-2.bias"} <= changed(lab, before)


def test_with_one_head_and_one_normaliser_bc_cannot_tell_tasks_apart():
    lab = Lab(config("finetune", policy_options={"heads": "single", "normaliser": "first"})).learn(0, 1)
    obs = lab.views.views[0].sampler.obs
    assert torch.equal(actions_of(lab.method.actor(0), obs), actions_of(lab.method.actor(1), obs))


def test_single_heads_of_other_spaces_are_separate():
    lab = Lab(
        config("finetune", stream="toy-spaces", policy_options={"heads": "single", "normaliser": "first"})
    ).learn()
    assert list(lab.method.policy.bank.heads) == ["all-box-2", "all-box-3", "all-box-1"]


def test_every_method_keeps_the_recipe_of_its_profile():
    for name in METHODS:
        policy = policy_of(name, "")
        settings = config(name, policy, steps=8, learning_rate=0.002)
        assert settings.method_config["learning_rate"] == 0.002
        decay = find(policy, POLICIES, "policy").PROFILES["cpu"]["training"].get("weight_decay", 1e-4)
        assert settings.method_config["weight_decay"] == decay
