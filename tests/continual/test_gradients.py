"""project: never against the reference, unchanged where the two agree, and the nearest such vector."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.continual.gradients import project


def vectors(seed, n, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g), torch.randn(n, generator=g) * scale


def joined(parts):
    return torch.cat([part.flatten() for part in parts])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 5000), scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]), lean=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_projected_gradient_never_opposes_the_reference(seed, n, scale, lean):
    noise, reference = vectors(seed, n, scale)
    gradient = noise * (1 - lean) - lean * reference  # from no relation to exactly opposed
    cut = [n // 3, n - n // 3] if n > 2 else [n]
    projected = joined(project(gradient.split(cut), reference.split(cut))).double()
    size = float(gradient.double().norm() * reference.double().norm())
    assert float(projected @ reference.double()) >= -1e-6 * size


@given(seed=st.integers(0, 10**6), n=st.integers(1, 500))
@settings(max_examples=40, deadline=None)
def test_nothing_changes_where_they_agree(seed, n):
    gradient, reference = vectors(seed, n)
    if torch.dot(gradient, reference) < 0:
        gradient = -gradient
    assert torch.equal(project([gradient], [reference])[0], gradient)


def test_it_is_the_nearest_gradient_that_agrees():
    """The projection leaves what is at right angles to the reference, over all parameters as one vector."""
    gradient, reference = [torch.tensor([-3.0, 1.0]), torch.tensor([[2.0]])], [torch.tensor([2.0, 0.0]), torch.tensor([[1.0]])]
    whole, r = joined(gradient), joined(reference)
    assert float(whole @ r) == -4.0
    wanted = whole + 4 / 5 * r
    torch.testing.assert_close(joined(project(gradient, reference)), wanted)
    assert abs(float(wanted @ r)) < 1e-6


def test_none_stands_for_zero():
    g, r = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 1.0])
    only_new, shared, only_old, neither = project([g, g, None, None], [None, r, r, None])
    assert only_new is g, "what the reference does not know is left alone"
    factor = 1 / 4  # -(g . r) / |r|^2, |r|^2 over both tensors of the reference
    torch.testing.assert_close(shared, g + factor * r)
    torch.testing.assert_close(only_old, factor * r)
    assert neither is None
    agreed = project([-g, None], [r, r])
    assert torch.equal(agreed[0], -g)
    assert not agreed[1].any()


@pytest.mark.parametrize("reference", [torch.zeros(3), None])
def test_without_a_reference_nothing_changes(reference):
    g = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(project([g], [reference])[0], g)
