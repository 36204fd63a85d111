"""QuadraticAnchor against autograd, against the sum of separate penalties, and against the closed-form optimum."""

import pytest
import torch
from torch.nn import Parameter

from perdure.continual.anchor import QuadraticAnchor

SHAPES = {"layer.weight": (3, 2), "layer.bias": (3,)}


def parameters(seed):
    g = torch.Generator().manual_seed(seed)
    return {name: Parameter(torch.randn(shape, generator=g, dtype=torch.float64)) for name, shape in SHAPES.items()}


def importances(seed):
    g = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=g, dtype=torch.float64) for name, shape in SHAPES.items()}


def anchored(*tasks, **options):
    """An anchor after tasks, each (parameter seed, importance seed)."""
    anchor = QuadraticAnchor()
    for at, weight in tasks:
        here = parameters(at)
        anchor.open(here)
        anchor.accumulate(importances(weight))
        anchor.commit(here, 1, **{"normalise": False, **options})
    return anchor


def gradient(anchor, theta, strength):
    for p in theta.values():
        p.grad = torch.zeros_like(p)
    anchor.add_gradient(theta, strength)
    return {name: p.grad for name, p in theta.items()}


@pytest.mark.parametrize("merge", ["sum", "online"])
def test_gradient_equals_autograd_of_the_penalty(merge):
    anchor, theta = anchored((1, 2), (3, 4), merge=merge), parameters(5)
    wanted = torch.autograd.grad(anchor.penalty(theta, 0.7), list(theta.values()))
    for (name, mine), theirs in zip(gradient(anchor, theta, 0.7).items(), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


def test_gradient_is_added_to_what_is_there():
    anchor, theta = anchored((1, 2)), parameters(5)
    alone = {name: g.clone() for name, g in gradient(anchor, theta, 2.0).items()}
    for p in theta.values():
        p.grad = torch.full_like(p, 3.0)
    anchor.add_gradient(theta, 2.0)
    for name, p in theta.items():
        torch.testing.assert_close(p.grad, alone[name] + 3.0)


def test_penalty_and_gradient_are_zero_at_the_anchor():
    anchor, theta = anchored((1, 2)), parameters(1)
    assert float(anchor.penalty(theta, 5.0)) == 0
    assert not any(g.any() for g in gradient(anchor, theta, 5.0).values())


def test_without_tasks_there_is_no_penalty():
    theta = parameters(1)
    assert float(QuadraticAnchor().penalty(theta, 1.0)) == 0
    assert not any(g.any() for g in gradient(QuadraticAnchor(), theta, 1.0).values())


def test_parameters_without_gradient_are_left_out():
    anchor, theta = anchored((1, 2)), parameters(5)
    theta["layer.bias"].grad = torch.zeros(3, dtype=torch.float64)
    anchor.add_gradient(theta, 1.0)
    assert theta["layer.weight"].grad is None
    assert theta["layer.bias"].grad.any()


def test_two_tasks_equal_the_merged_penalty_up_to_a_constant():
    one, two, both = anchored((1, 2)), anchored((3, 4)), anchored((1, 2), (3, 4))
    gaps = [
        float(one.penalty(parameters(s), 1.0) + two.penalty(parameters(s), 1.0) - both.penalty(parameters(s), 1.0))
        for s in range(6)
    ]
    assert max(gaps) - min(gaps) < 1e-9
    assert gaps[0] > 0
    assert all(float(a.penalty(parameters(9), 1.0)) > 0 for a in (one, two))


def test_online_decays_the_importance_and_moves_the_anchor():
    anchor = anchored((1, 2), (3, 4), merge="online", decay=0.5)
    for name in SHAPES:
        torch.testing.assert_close(
            anchor._buffer("importance", name), 0.5 * importances(2)[name] + importances(4)[name]
        )
        assert torch.equal(anchor._buffer("anchor", name), parameters(3)[name])


def test_commit_averages_over_batches_and_normalises():
    anchor, here = QuadraticAnchor(), parameters(1)
    anchor.open(here)
    anchor.accumulate(importances(2))
    anchor.accumulate(importances(3))
    anchor.commit(here, 2, normalise=False)
    torch.testing.assert_close(
        anchor._buffer("importance", "layer.bias"), (importances(2)["layer.bias"] + importances(3)["layer.bias"]) / 2
    )
    normalised = anchored((1, 2), normalise=True)
    values = torch.cat([normalised._buffer("importance", name).flatten() for name in SHAPES])
    assert float(values.mean()) == pytest.approx(1.0)
    assert not normalised.running


def test_weights_of_no_importance_keep_a_finite_anchor():
    anchor = QuadraticAnchor()
    for at in (1, 3):
        anchor.open(parameters(at))
        anchor.commit(parameters(at), 1)
    assert torch.equal(anchor._buffer("anchor", "layer.bias"), parameters(3)["layer.bias"])
    assert float(anchor.penalty(parameters(5), 1.0)) == 0


@pytest.mark.parametrize("strength", [0.0, 1.0, 10.0, 1000.0, 1e6])
def test_optimum_of_a_quadratic_tends_to_the_anchor(strength):
    """min a/2 (x - c)^2 + s/2 f (x - x0)^2 has its optimum at (a c + s f x0) / (a + s f)."""
    anchor, name = anchored((1, 2)), "layer.bias"
    curve = importances(7)[name] + 0.5
    target, x0, f = parameters(8)[name].detach(), parameters(1)[name].detach(), importances(2)[name]
    x = Parameter(target.clone())
    for _ in range(50):  # Newton's method on a separable quadratic, with the gradient that training would use
        x.grad = curve * (x.detach() - target)
        anchor.add_gradient({name: x}, strength)
        x.data -= x.grad / (curve + strength * f)
    closed = (curve * target + strength * f * x0) / (curve + strength * f)
    torch.testing.assert_close(x.data, closed)
    assert (x.data - x0).abs().max() <= (curve / (curve + strength * f)).max() * (target - x0).abs().max() + 1e-12


def test_architecture_restores_mid_accumulation():
    anchor, here = anchored((1, 2)), parameters(3)
    anchor.open(here)
    anchor.accumulate(importances(4))
    other = QuadraticAnchor().double()
    other.rebuild(anchor.architecture())
    other.double().load_state_dict(anchor.state_dict())
    for one in (anchor, other):
        one.commit(here, 1, normalise=False)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in anchor.state_dict().items())
