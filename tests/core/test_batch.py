"""Batches: joined by spaces, averaged by weight."""

from dataclasses import replace

import pytest
import torch
from tiny import config, stream_of

from perdure.core.batch import average, concatenate, map_fields, mix, tensor_fields
from perdure.core.method import Step
from perdure.data.access import Views


def batches(stream="toy", n=3, length=2):
    views = Views(stream_of(config(stream=stream))).views
    return [view.windows(length, n + i, Step(0, 0, "train", 0)) for i, view in enumerate(views)]


def test_mix_joins_equal_spaces_into_one_batch():
    parts = batches()
    (joined,) = mix(*parts)
    assert len(joined) == 3 + 4 + 5
    assert joined.task.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    assert joined.tasks == (0, 1, 2)
    for name in tensor_fields(joined):
        assert torch.equal(getattr(joined, name), torch.cat([getattr(part, name) for part in parts]))


def test_mix_keeps_other_spaces_and_lengths_apart_and_takes_lists():
    one, two, three = batches("toy-spaces")
    assert mix(one, [two, three]) == [one, two, three]
    (joined, alone) = mix(one, two, replace(one, task=one.task + 3, tasks=(3,)))
    assert joined.tasks == (0, 3)
    assert alone is two
    images, vectors = batches("toy-pixels", n=2)[0], batches("toy-discrete", n=2)[0]
    assert len(mix(images, vectors)) == 2


def test_mix_of_nothing_new_is_the_same_object():
    one = batches()[0]
    assert mix(one, []) == [one]
    assert concatenate([one]) is one


def test_average_is_weighted_over_samples_and_batches():
    one, two, _ = batches()
    one, two = replace(one, weight=torch.tensor([1.0, 0.0, 2.0])), replace(two, weight=torch.full((4,), 0.5))

    def loss(batch, scale=1.0):
        return scale * torch.arange(len(batch), dtype=torch.float32)

    assert float(average(loss, one)) == pytest.approx((0 + 4) / 3)
    assert float(average(loss, [one, two], scale=2.0)) == pytest.approx(2 * (4 + 0.5 * 6) / 5)
    assert float(average(loss, [one])) == float(average(loss, one))


def test_average_does_not_depend_on_how_samples_are_grouped():
    parts = batches()

    def loss(batch):
        return batch.obs.flatten(1).sum(1)

    assert float(average(loss, mix(*parts))) == pytest.approx(float(average(loss, parts)), rel=1e-5)


def test_map_fields_changes_tensors_only():
    one = batches()[0]
    first = map_fields(one, lambda tensor: tensor[:1])
    assert len(first) == 1
    assert first.tasks == one.tasks
    assert type(first) is type(one)


def test_equal_observations_with_other_actions_are_other_spaces():
    """Discrete actions have the same shape whatever their number; their logits have not."""
    four = batches("toy-discrete")[0]
    assert "discrete-4" in four.spaces
    six = replace(four, spaces=four.spaces.replace("discrete-4", "discrete-6"), tasks=(1,))
    assert mix(four, six) == [four, six]
