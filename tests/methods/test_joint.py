"""joint and incremental_joint: balanced batches of all tasks, and the rights they need."""

import pytest
import torch
from tiny import Lab, config, execute

from perdure.core.errors import UsageError
from perdure.core.method import Need
from perdure.core.task import Protocol, Stream
from perdure.data.access import grant
from perdure.methods.incremental_joint import IncrementalJoint
from perdure.methods.joint import Joint


def batches_of(lab, task):
    """Task counts of every batch that the policy learns from."""
    counts = []
    plain = lab.method.policy.loss

    def loss(batch, **rest):
        counts.append(tuple(torch.bincount(batch.task, minlength=3).tolist()))
        return plain(batch, **rest)

    lab.method.policy.loss = loss
    lab.learn(task)
    return counts


def test_joint_has_only_the_last_row(tmp_path):
    matrix = execute(config("joint"), tmp_path / "run")
    assert sorted(matrix.cells) == [(3, 0), (3, 1), (3, 2)]
    assert not matrix.curve
    assert [path.name for path in (tmp_path / "run" / "agent").iterdir()] == ["3"]


def test_joint_is_balanced_and_spends_what_a_sequence_spends():
    counts = batches_of(Lab(config("joint", batch=9, steps=5)), 2)
    assert counts == [(3, 3, 3)] * 15


def test_incremental_joint_balances_the_tasks_so_far():
    lab = Lab(config("incremental_joint", batch=9, steps=4))
    assert batches_of(lab, 0) == [(9, 0, 0)] * 4
    assert batches_of(lab, 1)[-4:] == [(4, 4, 0)] * 4
    assert batches_of(lab, 2)[-4:] == [(3, 3, 3)] * 4


def test_first_task_of_incremental_joint_is_finetunes():
    mine, plain = Lab(config("incremental_joint")).learn(0), Lab(config("finetune")).learn(0)
    theirs = dict(plain.method.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in mine.method.named_parameters())


@pytest.mark.parametrize("method", [Joint, IncrementalJoint])
def test_both_need_past_data(method):
    name = "joint" if method is Joint else "incremental_joint"
    assert Need.PAST_DATA in method.needs(None)
    with pytest.raises(UsageError, match=r"Need\.PAST_DATA"):
        Lab(config(name), frozenset()).phases(1)
    plain = Lab(config(name)).stream
    strict = Stream("strict", plain.tasks, Protocol(past_data_allowed=False))
    with pytest.raises(
        UsageError, match=rf"{method.__name__} needs the datasets of earlier tasks .* the stream strict forbids"
    ):
        grant(method, None, strict)
