"""ActionDist: likelihoods against torch.distributions, and cotangents whose squares are the Fisher diagonal."""

import pytest
import torch
from torch.distributions import Categorical, Normal

from perdure.core.policy import ActionDist


def generator():
    return torch.Generator().manual_seed(0)


def gaussian():
    g = generator()
    return ActionDist(mean=torch.randn(3, 2, 4, generator=g), log_std=torch.randn(3, 2, 4, generator=g) * 0.3)


def categorical():
    return ActionDist(logits=torch.randn(3, 2, 5, generator=generator()) * 2)


def test_gaussian_likelihood_but_for_the_constant():
    dist, action = gaussian(), torch.randn(3, 2, 4, generator=generator())
    wanted = -Normal(dist.mean, dist.log_std.exp()).log_prob(action).sum(-1) - 4 * 0.5 * torch.log(
        torch.tensor(2 * torch.pi)
    )
    torch.testing.assert_close(dist.negative_log_likelihood(action), wanted, rtol=1e-5, atol=1e-5)
    unit = ActionDist(mean=dist.mean, log_std=torch.zeros_like(dist.mean))
    torch.testing.assert_close(unit.negative_log_likelihood(action), 0.5 * (action - dist.mean).square().sum(-1))


def test_categorical_likelihood():
    dist, action = categorical(), torch.randint(0, 5, (3, 2), generator=generator())
    torch.testing.assert_close(
        dist.negative_log_likelihood(action), -Categorical(logits=dist.logits).log_prob(action)
    )


def test_best_error_and_output():
    dist, action = gaussian(), torch.zeros(3, 2, 4)
    assert dist.best() is dist.output() is dist.mean
    torch.testing.assert_close(dist.error(action), dist.mean.square().mean(-1))
    chosen = categorical()
    assert torch.equal(chosen.best(), chosen.logits.argmax(-1))
    assert chosen.error(chosen.best()).sum() == 0
    assert (chosen.error((chosen.best() + 1) % 5) == 1).all()


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_roots_sum_to_the_fisher_matrix_of_the_output(make):
    """sum of root root^T = E[score score^T]: 1/sigma^2 for a Gaussian mean, diag(p) - p p^T for logits."""
    dist = make()
    roots = torch.stack(list(dist.fisher_roots()), -1)  # (B, L, A, roots)
    found = roots @ roots.transpose(-1, -2)
    if dist.logits is None:
        wanted = torch.diag_embed((-2 * dist.log_std).exp())
    else:
        p = dist.logits.softmax(-1)
        wanted = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_random_roots_have_that_matrix_as_their_mean(make):
    dist, g = make(), generator()
    draws = torch.stack([dist.random_root(g) for _ in range(4000)])
    exact = torch.stack(list(dist.fisher_roots()), -1)
    wanted = exact @ exact.transpose(-1, -2)
    found = (draws.unsqueeze(-1) * draws.unsqueeze(-2)).mean(0)
    assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_error_root_is_the_gradient_of_the_likelihood(make):
    dist = make()
    action = torch.randint(0, 5, (3, 2)) if dist.logits is not None else torch.randn(3, 2, 4)
    output = dist.output().clone().requires_grad_()
    same = ActionDist(logits=output) if dist.logits is not None else ActionDist(mean=output, log_std=dist.log_std)
    same.negative_log_likelihood(action).sum().backward()
    torch.testing.assert_close(dist.error_root(action), output.grad, rtol=1e-5, atol=1e-6)
