"""StoredBatches keeps whole batches up to a cap; `loss_through_head` reads any sample through one head."""

import json

import pytest
import torch
from tiny import Lab, config

from perdure.continual.replay import StoredBatches, loss_through_head
from perdure.core.batch import tensor_fields
from perdure.core.errors import UsageError
from perdure.core.method import Need, Step

MEMORY = frozenset({Need.MEMORY})


def filled(tasks, cap=200, batch=4, stream="toy"):
    lab = Lab(config("finetune", stream=stream, tasks=tasks), MEMORY)
    memory = StoredBatches(cap)
    for task in range(tasks):
        memory.remember(lab.access(task), 1, batch, seed=0)
    return lab, memory


def test_five_batches_of_each_task_in_the_order_they_came():
    lab, memory = filled(3)
    assert [memory.stored(i).task.tolist() for i in range(15)] == [[i // 5] * 4 for i in range(15)]
    wanted = lab.access(1).current.windows(1, 4, Step(0, 1, "memory", 2))
    got = memory.stored(7)
    assert all(torch.equal(getattr(got, name), getattr(wanted, name)) for name in tensor_fields(got))


def test_above_the_cap_whole_batches_leave_and_the_rest_is_shuffled():
    lab, memory = filled(6, cap=20)
    assert len(memory.order) == 20
    assert memory.bytes() == sum(value.nbytes for value in memory.state_dict().values()) == filled(4)[1].bytes()
    drawn = [lab.access(task).current.windows(1, 4, Step(0, task, "memory", i)) for task in range(6) for i in range(5)]
    known = [(int(batch.task[0]), batch.obs) for batch in drawn]
    found = [next(i for i, (task, obs) in enumerate(known) if task == int(one.task[0]) and torch.equal(one.obs, obs))
             for one in map(memory.stored, range(20))]
    assert len(set(found)) == 20
    assert found != sorted(found)


def test_a_task_without_batches_is_forgotten():
    _, memory = filled(3, cap=1)
    assert memory.tasks() == [int(memory.stored(0).task[0])]
    assert len(memory.stored(0)) == 4


def test_spaces_without_batches_are_forgotten():
    _, memory = filled(3, cap=2, stream="toy-spaces")
    assert len(memory.fields) <= 2
    assert memory.bytes() == sum(value.nbytes for value in memory.state_dict().values())
    assert all(len(memory.stored(i)) == 4 for i in range(2))


def test_rebuild_from_json():
    _, memory = filled(6, cap=20)
    other = StoredBatches(20)
    other.rebuild(json.loads(json.dumps(memory.architecture())))
    other.load_state_dict(memory.state_dict())
    for i in range(20):
        assert torch.equal(other.stored(i).obs, memory.stored(i).obs)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_any_sample_through_the_newest_head_and_its_own_statistics(policy):
    lab = Lab(config("er", policy)).learn(0, 1)
    net, batch = lab.method.policy.eval(), lab.method.memory.all(0)
    with torch.no_grad():
        before, own = loss_through_head(net, batch, 1), net.loss(batch)
        assert not torch.equal(before, own)
        assert torch.equal(loss_through_head(net, batch, 0), own)
        for p in net.private(0).values():
            p.add_(1.0)
        net.normalizer.get_buffer("mean_1").add_(1.0)
        net.get_buffer("returns_1").mul_(2.0)
        assert torch.equal(loss_through_head(net, batch, 1), before)
        for p in net.private(1).values():
            p.add_(1.0)
        assert not torch.equal(loss_through_head(net, batch, 1), before)


@pytest.mark.parametrize("method", ["agem", "perfect_memory"])
def test_other_actions_are_refused(method):
    lab = Lab(config(method, stream="toy-spaces", compat=True))
    with pytest.raises(UsageError, match="scores old samples through the newest head, but task 1 has other actions"):
        lab.learn()
