"""LowRankBank: W + scale * B A, equal to W at first, an adapter per task and weight."""

import json

import pytest
import torch

from perdure.continual.lowrank import LowRankBank

SIZES = {"a.weight": (6, 5), "thin.weight": (7, 1), "conv.weight": (4, 3, 2, 2)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weights():
    return {name: torch.randn(size, generator=generator()) for name, size in SIZES.items()}


def opened(*tasks):
    bank = LowRankBank()
    for task in tasks:
        bank.open(task, weights(), 3, generator(task))
    return bank


def test_a_new_view_is_the_weight_itself_and_a_has_the_scale_of_a_linear_map():
    bank, base = opened(0), weights()
    for name, value in bank.view(0, base, 4.0).items():
        assert torch.equal(value, base[name])
    a = bank.pairs(0)["down/a/weight"].detach()
    assert a.shape == (3, 5)
    assert 0.1 < float(a.abs().max()) <= 5**-0.5


def test_the_view_is_the_formula():
    bank, base = opened(0, 1), weights()
    with torch.no_grad():
        for p in bank.pairs(1).values():
            p.copy_(torch.randn(p.shape, generator=generator(3)))
    seen, pairs = bank.view(1, base, 0.5), bank.pairs(1)
    assert list(seen) == bank.names(1)
    assert set(seen) == set(SIZES)
    for name in SIZES:
        key = name.replace(".", "/")
        product = torch.einsum("or,ri->oi", pairs[f"up/{key}"], pairs[f"down/{key}"])
        torch.testing.assert_close(seen[name], base[name] + 0.5 * product.view(SIZES[name]))
    assert torch.equal(bank.view(0, base, 0.5)["a.weight"], base["a.weight"]), "tasks do not share adapters"


def test_the_rank_is_cut_to_the_smaller_side():
    bank = opened(0)
    assert {name: size[0] for name, size in bank.architecture()["0"].items()} == {
        "a.weight": 3, "thin.weight": 1, "conv.weight": 3,
    }  # fmt: skip


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_the_weight_only_where_it_requires_one(frozen):
    bank, base = opened(0), {name: w.requires_grad_() for name, w in weights().items()}
    given = {name: w.detach() if frozen else w for name, w in base.items()}
    sum(v.square().sum() for v in bank.view(0, given, 1.0).values()).backward()
    assert all((w.grad is None) == frozen for w in base.values())
    assert bank.pairs(0)["up/a/weight"].grad.any()


def test_the_random_half_follows_the_generator():
    one, same, other = (opened(t).pairs(t)["down/a/weight"] for t in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_architecture_restores_the_adapters():
    bank, other = opened(0, 12), LowRankBank()
    other.rebuild(json.loads(json.dumps(bank.architecture())))
    other.load_state_dict(bank.state_dict())
    assert other.architecture() == bank.architecture()
    assert other.names(12) == bank.names(12)
    assert other.names(3) == []
    assert other.pairs(3) == other.view(3, {}, 1.0) == {}
