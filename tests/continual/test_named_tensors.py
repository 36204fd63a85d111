"""NamedTensors and blocks: what is put comes back, through JSON too, and what is dropped leaves nothing."""

import json

import pytest
import torch

from perdure.continual.named_tensors import BLOCK, NamedTensors, blocks


def values(seed, *names):
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 2, generator=g) for name in names}


def test_parts_are_copies_that_can_be_changed_in_place():
    kept, given = NamedTensors(), values(0, "a.weight", "b.weight")
    kept.put("start", given)
    kept.put("sum", values(1, "a.weight"))
    kept.get("start", ["a.weight"])[0].zero_()
    assert float(given["a.weight"].abs().min()) > 0
    assert [float(v.abs().sum()) == 0 for v in kept.get("start", ["a.weight", "b.weight"])] == [True, False]
    assert (kept.names("start"), kept.names("sum"), kept.names("nothing")) == (["a.weight", "b.weight"], ["a.weight"], [])
    kept.put("start", values(2, "b.weight", "c.weight"))
    assert kept.names("start") == ["a.weight", "b.weight", "c.weight"]
    assert torch.equal(kept.get("start", ["b.weight"])[0], values(2, "b.weight")["b.weight"])


def test_a_dropped_part_leaves_nothing():
    kept = NamedTensors()
    kept.put("start", values(0, "a.weight"))
    kept.put("sum", values(1, "a.weight"))
    kept.drop("start", "never put")
    assert list(kept.state_dict()) == ["sum:a/weight"]
    assert list(kept.architecture()) == ["sum"]
    with pytest.raises(KeyError):
        kept.get("start", ["a.weight"])


def test_architecture_restores_it():
    kept, other = NamedTensors(), NamedTensors()
    kept.put("start", values(0, "a.weight", "b.weight"))
    other.rebuild(json.loads(json.dumps(kept.architecture())))
    other.load_state_dict(kept.state_dict())
    for one, two in zip(kept.get("start", ["a.weight", "b.weight"]), other.get("start", ["a.weight", "b.weight"]), strict=True):
        assert torch.equal(one, two)


def test_blocks_cover_every_tensor_once_and_fit():
    sizes = [10, BLOCK, 5, 5, BLOCK - 4, 3 * BLOCK, 1, 1]
    tensors = [torch.empty(size) for size in sizes]
    parts = [tensors[block] for block in blocks(tensors)]
    assert [t.numel() for part in parts for t in part] == sizes
    assert all(len(part) == 1 or sum(t.numel() for t in part) <= BLOCK for part in parts)
    assert len(parts) == 6
    assert list(blocks([])) == []
