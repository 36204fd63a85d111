"""PathIntegral on a quadratic: the sum over small updates is the fall of the loss, weight by weight."""

import json

import pytest
import torch
from torch.nn import Parameter

from perdure.continual.path_integral import PathIntegral

CURVE = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
TARGET = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)


def loss(p):
    """Of each weight."""
    return 0.5 * CURVE * (p.detach() - TARGET).square()


def descend(path, p, rate, steps, disturb=lambda gradient: None):
    """Gradient descent; `disturb` is what penalty and clipping do to a gradient after it was marked."""
    for _ in range(steps):
        p.grad = CURVE * (p.detach() - TARGET)
        path.mark({"p": p})
        disturb(p.grad)
        p.data -= rate * p.grad
        path.advance({"p": p})


@pytest.mark.parametrize("disturb", [lambda g: None, lambda g: g.mul_(0.1), lambda g: g.add_(torch.tensor([0.2, 0.1, -0.3]))])
def test_it_is_the_fall_of_the_loss(disturb):
    """Up to an error in proportion to the step, whatever else moves the weights."""
    errors = []
    for rate, steps in ((1e-3, 1000), (5e-4, 2000)):
        p, path = Parameter(torch.zeros(3, dtype=torch.float64)), PathIntegral()
        before = loss(p)
        descend(path, p, rate, steps, disturb)
        fall, integral = before - loss(p), path.get("integral", ["p"])[0]
        assert float(fall.abs().min()) > 1e-3
        torch.testing.assert_close(integral, fall, rtol=5e-3, atol=1e-4)
        torch.testing.assert_close(integral.sum(), fall.sum(), rtol=5e-3, atol=0)
        errors.append(float((integral - fall).abs().max()))
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.05)


def test_start_turn_and_close():
    p, path = Parameter(torch.zeros(3, dtype=torch.float64)), PathIntegral(squares=True)
    descend(path, p, 0.01, 1)
    gradient = -CURVE * TARGET
    torch.testing.assert_close(path.get("squares", ["p"])[0], gradient.square())
    torch.testing.assert_close(path.get("integral", ["p"])[0], 0.01 * gradient.square())
    descend(path, p, 0.01, 4)
    assert torch.equal(path.get("start", ["p"])[0], torch.zeros(3, dtype=torch.float64))
    path.turn({"p": p})
    assert torch.equal(path.get("start", ["p"])[0], p)
    assert not any(path.get(part, ["p"])[0].any() for part in ("integral", "squares"))
    path.close()
    assert not path.state_dict()
    assert path.architecture() == {"parts": {}, "updates": 0}
    descend(path, p, 0.01, 1)
    assert torch.equal(path.get("start", ["p"])[0] - 0.01 * p.grad, p), "a new way begins where it stands"


def test_a_parameter_without_gradient_is_not_followed():
    p, q, path = Parameter(torch.zeros(3)), Parameter(torch.zeros(2)), PathIntegral()
    p.grad = torch.ones(3)
    both = {"q": q, "p": p}
    path.mark(both)
    p.data -= 0.1
    path.advance(both)
    assert list(path.moved(both)) == ["p"]
    q.grad = torch.ones(2)  # one that comes later begins then
    path.mark(both)
    q.data -= 0.5
    path.advance(both)
    torch.testing.assert_close(path.get("integral", ["p", "q"])[0], torch.full((3,), 0.1))
    torch.testing.assert_close(path.get("integral", ["p", "q"])[1], torch.full((2,), 0.5))


def test_it_goes_on_from_a_saved_state():
    def run(cut):
        p, path = Parameter(torch.zeros(3, dtype=torch.float64)), PathIntegral(squares=True)
        descend(path, p, 0.01, cut)
        other = PathIntegral(squares=True)
        other.rebuild(json.loads(json.dumps(path.architecture())))
        other.double().load_state_dict(path.state_dict())
        descend(other, p, 0.01, 10 - cut)
        assert other.updates == 10
        return other.state_dict()

    one, two = run(4), run(7)
    assert set(one) == {"integral:p", "squares:p", "start:p"}
    assert all(torch.equal(value, two[name]) for name, value in one.items())
