"""Score masks: the gradient of the scores, exactly k entries, bits that come back, exhausted capacity."""

import pytest
import torch

from perdure.continual.subnetworks import ScoreMasks, largest, pack, unpack
from perdure.core.errors import GuardError


def opened(keep=0.5, occupied=None, shape=(3, 3)):
    masks, weight = ScoreMasks(), torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    masks.open(0, {"a.weight": weight}, keep, occupied or {}, torch.Generator().manual_seed(1))
    return masks, weight


def test_straight_through_gradients():
    masks, weight = opened()
    score = masks.current()["a.weight"]
    frozen = torch.zeros(3, 3, dtype=torch.bool)
    frozen[0] = True
    chosen = masks.choose({})
    x, seen = torch.randn(5, 3), masks.view({"a.weight": weight}, chosen, {"a.weight": (~frozen).float()})["a.weight"]
    assert torch.equal(seen, weight * chosen["a.weight"])
    (x @ seen.T).sin().sum().backward()
    product = (weight * chosen["a.weight"]).detach().requires_grad_()
    (x @ product.T).sin().sum().backward()
    assert torch.equal(score.grad, product.grad * weight.detach() * score.detach().sign())
    assert torch.equal(weight.grad, product.grad * (chosen["a.weight"] & ~frozen))
    assert bool(score.grad[0].any()), "scores of frozen weights still learn"


@pytest.mark.parametrize("count", [1, 4, 9])
def test_ties_never_exceed_the_count(count):
    for sizes in (torch.ones(3, 3), torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.2, 0.5, 0.9]])):
        mask = largest(sizes, None, count)
        assert int(mask.sum()) == count
        assert float(sizes[mask].min()) >= float(sizes[~mask].max() if count < 9 else 0.0)
    assert largest(torch.ones(4), None, 2).tolist() == [True, True, False, False]


def test_occupied_entries_are_never_chosen():
    occupied = torch.zeros(3, 3, dtype=torch.bool)
    occupied[:2] = True
    masks, _ = opened(keep=0.67, occupied={"a.weight": occupied})
    with torch.no_grad():
        masks.current()["a.weight"][:2] += 10.0
    chosen = masks.choose({"a.weight": occupied})["a.weight"]
    assert int(chosen.sum()) == 2, "the share is one of the free entries"
    assert not bool((chosen & occupied).any())


def test_masks_come_back_from_bits():
    masks, weight = opened(shape=(5, 7))
    first = masks.choose({})
    masks.close(0, first)
    assert masks.get_buffer("task-0").numel() == 5  # 35 bits
    masks.open(3, {"a.weight": weight, "b.weight": torch.zeros(2, 3)}, 0.5, {}, torch.Generator().manual_seed(2))
    second = masks.choose({})
    masks.close(3, second)
    other = ScoreMasks()
    other.rebuild(masks.architecture())
    other.load_state_dict(masks.state_dict())
    for task, wanted in ((0, first), (3, second)):
        found = other.mask(task)
        assert list(found) == list(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    union = other.occupied([0, 3])
    assert torch.equal(union["a.weight"], first["a.weight"] | second["a.weight"])
    assert torch.equal(union["b.weight"], second["b.weight"])


def test_open_scores_come_back():
    masks, _ = opened()
    other = ScoreMasks()
    other.rebuild(masks.architecture())
    other.load_state_dict(masks.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.choose({}).values(), masks.choose({}).values(), strict=True))


def test_exhausted_capacity_is_an_error():
    with pytest.raises(GuardError, match=r"task 1 finds no free weight in a.weight: the capacity is exhausted"):
        opened(occupied={"a.weight": torch.ones(3, 3, dtype=torch.bool)})


def test_bits_of_any_length():
    for n in (1, 7, 8, 9, 1000):
        bits = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
        assert torch.equal(unpack(pack(bits), n), bits)
        assert pack(bits).numel() == -(-n // 8)
