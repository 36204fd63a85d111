"""scratch: right after learning a task it is what independent has, bit for bit; before, the trunk is initial again."""

import pytest
import torch
from tiny import Lab, config


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-spaces", "toy-discrete"])
def test_after_each_task_it_is_the_independent_model_bit_for_bit(policy, stream):
    """With clipping, dropout and weight decay on."""
    mine, alone = (Lab(config(method, policy, stream)) for method in ("scratch", "independent"))
    for task in range(3):
        mine.learn(task)
        alone.learn(task)
        weights = mine.method.policy.state_dict()
        for name, value in alone.method.policies[str(task)].state_dict().items():
            assert torch.equal(weights[name], value), name
        assert torch.equal(mine.actions(task), alone.actions(task))
        mine.method.train()  # acting left the mode of evaluation, which a new policy of independent would not be in
        alone.method.train()


def test_a_task_not_yet_learned_is_scored_as_independent_does():
    mine, alone = (Lab(config(method)).learn(0) for method in ("scratch", "independent"))
    for lab in (mine, alone):
        lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    assert torch.equal(mine.actions(1), alone.actions(1))


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_the_trunk_starts_again_and_old_heads_stay(policy):
    lab = Lab(config("scratch", policy)).learn(0)
    head = lab.method.policy.bank.heads["task-0"].weight.detach().clone()
    initial = dict(Lab(config("scratch", policy)).method.policy.named_parameters())
    lab.phases(1)[0].begin()
    for name, p in lab.method.policy.named_parameters():
        assert name not in initial or torch.equal(p, initial[name]), name
    lab.learn(2)
    assert torch.equal(lab.method.policy.bank.heads["task-0"].weight, head)


def test_a_single_head_starts_again_too():
    lab = Lab(config("scratch", policy_options={"heads": "single"})).learn(0, 1)
    alone = Lab(config("independent", policy_options={"heads": "single"})).learn(0, 1)
    assert torch.equal(lab.actions(1), alone.actions(1))


def test_it_forgets():
    lab = Lab(config("scratch", steps=150, batch=32, learning_rate=0.01, tasks=2, episodes=20)).learn(0)
    before = lab.loss(0)
    assert lab.learn(1).loss(0) > 2 * before
