"""MaskSet: claims take the largest free weights, views follow the owners, nothing is owned twice."""

import pytest
import torch

from perdure.continual.masks import MaskSet, buffer_name
from perdure.core.errors import GuardError


def weights(seed=0):
    return {"a.weight": torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))}


def covered(parameters):
    masks = MaskSet()
    masks.cover(parameters)
    return masks


def test_claim_takes_the_largest_free_weights_and_zeroes_the_rest():
    parameters = weights()
    original, masks = parameters["a.weight"].clone(), covered(parameters)
    masks.claim(parameters, 0, {"a.weight": 6})
    mine = masks.owner("a.weight") == 1
    assert int(mine.sum()) == 6
    assert original.abs()[mine].min() >= original.abs()[~mine].max()
    assert torch.equal(parameters["a.weight"], original * mine)
    parameters["a.weight"][~mine] = 9.0  # the next task trains them
    masks.claim(parameters, 1, {"a.weight": 14})
    assert masks.counts("a.weight") == [0, 6, 14]
    assert torch.equal(parameters["a.weight"][mine], original[mine])


def test_owned_visible_and_all_but():
    parameters = weights()
    masks = covered(parameters)
    for task, quota in enumerate((5, 7)):
        masks.claim(parameters, task, {"a.weight": quota})
    first, second = masks.owner("a.weight") == 1, masks.owner("a.weight") == 2
    assert torch.equal(masks.owned(before=1)["a.weight"], first)
    assert torch.equal(masks.visible(0)["a.weight"], first)
    assert torch.equal(masks.visible(1)["a.weight"], first | second)
    assert torch.equal(masks.all_but(1)["a.weight"], ~second)
    assert masks.claimed(0)
    assert masks.claimed(1)
    assert not masks.claimed(2)


def test_equal_weights_give_exactly_the_quota():
    parameters = {"a.weight": torch.zeros(3, 7)}
    masks = covered(parameters)
    for task in range(3):
        masks.claim(parameters, task, {"a.weight": 7})
    assert masks.counts("a.weight") == [0, 7, 7, 7]


def test_exhausted_capacity_names_task_and_tensor():
    parameters = weights()
    masks = covered(parameters)
    masks.claim(parameters, 0, {"a.weight": 20})
    with pytest.raises(GuardError, match=r"task 2 finds no free weight in a\.weight: the capacity is exhausted"):
        masks.claim(parameters, 1, {"a.weight": 1})
    masks.claim(parameters, 1, {"a.weight": 0})  # a share of nothing is no fault


def test_the_largest_of_all_parameters_are_shared_out_exactly():
    parameters = weights() | {"b.weight": torch.full((3, 2), 9.0), "c.bias": torch.zeros(4)}
    masks = covered(parameters)
    assert masks.free() == 30
    assert masks.share_out(parameters, 6) == {"a.weight": 0, "b.weight": 6, "c.bias": 0}
    assert sum(masks.share_out(parameters, 28).values()) == 28, "equal weights are counted as well"
    masks.claim(parameters, 0, masks.share_out(parameters, 6))
    assert masks.free() == 24
    assert masks.share_out(parameters, 24) == {"a.weight": 20, "b.weight": 0, "c.bias": 4}, "what is owned is not free"


def test_covering_again_keeps_what_is_owned():
    parameters = weights()
    masks = covered(parameters)
    masks.claim(parameters, 0, {"a.weight": 3})
    masks.cover(parameters | {"b.weight": torch.zeros(2, 2)})
    assert masks.counts("a.weight")[1] == 3
    assert masks.counts("b.weight") == [4]


def test_architecture_restores_the_owners():
    parameters = weights()
    masks = covered(parameters)
    masks.claim(parameters, 0, {"a.weight": 3})
    other = MaskSet()
    other.rebuild(masks.architecture())
    other.load_state_dict(masks.state_dict())
    assert torch.equal(other.owner("a.weight"), masks.owner("a.weight"))
    assert other.shapes == masks.shapes


def test_buffer_names_have_no_dots():
    assert buffer_name("a.b.weight") == "a/b/weight"
