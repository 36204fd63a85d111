"""UnionView: several datasets drawn from as one, each window from its own task and uniform over all steps."""

import pytest
import torch
from dataset_samples import CONTINUOUS, DESCRIPTION, DISCRETE, episodes

from perdure.core.batch import tensor_fields
from perdure.core.method import Step
from perdure.data.sampler import Sampler
from perdure.data.store import Dataset
from perdure.data.union import Joined, UnionView

LENGTHS = {0: (9, 12, 7), 1: (20, 25, 31, 8), 2: (5, 6)}


def sampler(task, spec=CONTINUOUS):
    data = Dataset.in_memory(episodes(spec, LENGTHS[task], seed=task), name="sample", spec=spec, **DESCRIPTION)
    return Sampler(data, task)


@pytest.mark.parametrize("length", [1, 4])
def test_windows_are_those_of_the_parts(length):
    parts, plain = [sampler(task) for task in (1, 0, 2)], [sampler(task) for task in (1, 0, 2)]
    joined = Joined(parts)
    before = 0
    for part in plain:
        steps = torch.arange(len(part.reward))
        mine, theirs = joined.windows_at(steps + before, length), part.windows_at(steps, length)
        for name in tensor_fields(mine):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
        mine, theirs = joined.transitions_at(steps + before), part.transitions_at(steps)
        for name in tensor_fields(mine):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
        before += len(part.reward)


def test_nothing_is_held_twice_and_the_parts_draw_as_before():
    parts = [sampler(task) for task in (0, 1)]
    before = [part.windows(3, 16, torch.Generator().manual_seed(0)) for part in parts]
    joined = Joined(parts)
    for part, old in zip(parts, before, strict=True):
        new = part.windows(3, 16, torch.Generator().manual_seed(0))
        assert all(torch.equal(getattr(new, name), getattr(old, name)) for name in tensor_fields(new))
        assert part.obs.untyped_storage().data_ptr() == joined.obs.untyped_storage().data_ptr()


@pytest.mark.parametrize("draw", ["steps", "episodes"])
def test_draws_are_uniform_over_all_steps_or_episodes(draw):
    parts = [sampler(task, DISCRETE if task == 2 else CONTINUOUS) for task in (0, 1, 2)]
    union = UnionView(parts, draw)
    drawn = [union.windows(2, 50, Step(0, 2, "train", i)) for i in range(200)]
    assert all(sum(len(batch) for batch in batches) == 50 for batches in drawn)
    counts = torch.bincount(torch.cat([batch.task for batches in drawn for batch in batches]), minlength=3).float()
    train = [part.starts["train"] for part in parts]
    sizes = torch.tensor([len(s.step if draw == "steps" else s.first) for s in train]).float()
    expected = 10_000 * sizes / sizes.sum()
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


def test_draws_are_keyed_and_keep_to_the_split():
    union = UnionView([sampler(task) for task in (0, 1)])
    one, same, other = (union.windows(2, 30, Step(0, 1, "train", i))[0] for i in (3, 3, 4))
    assert torch.equal(one.obs, same.obs)
    assert not torch.equal(one.obs, other.obs)
    assert one.tasks == (0, 1)
    joined = union.groups[0]
    train, holdout = (set(joined.starts[split].step.tolist()) for split in ("train", "holdout"))
    assert not train & holdout
    assert len(train) == sum(sampler(task).count("train") for task in (0, 1))
