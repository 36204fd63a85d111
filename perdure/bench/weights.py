"""What is done to all weights at once: importances, the penalty of `ewc`, the optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from perdure.bench.measure import Bench, Equality, Figure, Target, check_equal
from perdure.bench.reference import fisher_loop, penalty_by_autograd, plain_adamw
from perdure.bench.workload import batch, open_policy, stream
from perdure.continual.anchor import QuadraticAnchor
from perdure.continual.importance import Kind, fisher_diagonal
from perdure.continual.masks import buffer_name
from perdure.core.policy import Policy
from perdure.core.rng import generator
from perdure.data.access import Views

STRENGTH = 1e-3


def importance(bench: Bench) -> list[Figure]:
    """The Fisher diagonal of the bc MLP against a loop over the samples."""
    views = Views(stream(bench.scale), bench.device)
    policy = open_policy("bc", "cpu", bench.scale, views, bench.device).eval()
    samples = batch(policy, views, bench.scale.samples)
    shared, g = policy.shared(), generator(0, "bench")

    def figure(kind: Kind) -> Figure:
        def ours() -> dict[str, Tensor]:
            return fisher_diagonal(policy, samples, shared, g, kind)

        def loop() -> dict[str, Tensor]:
            return fisher_loop(policy, samples, list(shared), kind == "empirical")

        return bench.compare(
            f"importance of the bc MLP, {kind}, {len(samples)} samples", ours, loop,
            equality=check_equal(f"{kind} Fisher diagonal", ours().values(), loop().values(), 1e-3),
            target=Target(20), parameters=sum(p.numel() for p in shared.values()),
        )  # fmt: skip

    return [figure("expected"), figure("empirical")]


def _anchored(policy: Policy) -> QuadraticAnchor:
    """An anchor near the present weights with random importances."""
    anchor, shared = QuadraticAnchor(), policy.shared()
    g = generator(0, "bench", "importance")
    anchor.open(shared)
    anchor.accumulate({name: torch.rand(p.shape, generator=g).to(p.device) for name, p in shared.items()})
    anchor.commit({name: p + 0.01 for name, p in shared.items()}, batches=1)
    return anchor


def equal_penalties(policy: Policy, anchor: QuadraticAnchor) -> Equality:
    """The gradient both ways add to zero."""
    gradients: list[list[Tensor]] = []
    for add in (_closed_form(policy, anchor), _by_autograd(policy, anchor)):
        for p in policy.parameters():
            p.grad = torch.zeros_like(p)
        add()
        gradients.append([p.grad.clone() for p in policy.shared().values() if p.grad is not None])
    return check_equal("gradient of the penalty", gradients[0], gradients[1], 1e-5)


def _closed_form(policy: Policy, anchor: QuadraticAnchor) -> Callable[[], None]:
    return lambda: anchor.add_gradient(policy.shared(), STRENGTH)


def _by_autograd(policy: Policy, anchor: QuadraticAnchor) -> Callable[[], None]:
    anchors, importances = (
        {name: anchor.get_buffer(f"{part}:{buffer_name(name)}") for name in anchor.shapes} for part in QuadraticAnchor.PARTS
    )
    return lambda: penalty_by_autograd(policy.shared(), anchors, importances, STRENGTH)


def penalty(bench: Bench) -> list[Figure]:
    """The gradient of the quadratic penalty in closed form against autograd over the penalty."""
    views = Views(stream(bench.scale), bench.device)
    figures = []
    for policy_name, profile, target in (("dt", "paper", Target(3)), ("dt", "cpu", None), ("bc", "cpu", None)):
        policy = open_policy(policy_name, profile, bench.scale, views, bench.device)
        anchor = _anchored(policy)
        equality = equal_penalties(policy, anchor)
        figures.append(bench.compare(
            f"penalty of ewc, {policy_name} {profile}", _closed_form(policy, anchor), _by_autograd(policy, anchor),
            equality=equality, target=target,
            parameters=sum(p.numel() for p in policy.shared().values()),
        ))  # fmt: skip
    return figures


def optimizer(bench: Bench) -> list[Figure]:
    """The fused AdamW that every method uses against the loop over tensors."""
    views = Views(stream(bench.scale), bench.device)
    figures = []
    for policy_name, profile in (("dt", "paper"), ("dt", "cpu"), ("bc", "cpu")):
        fused = open_policy(policy_name, profile, bench.scale, views, bench.device)
        g = generator(0, "bench", "gradient")
        for p in fused.parameters():
            p.grad = torch.randn(p.shape, generator=g).to(p.device)
        plain = copy.deepcopy(fused)
        for p, q in zip(plain.parameters(), fused.parameters(), strict=True):
            p.grad = None if q.grad is None else q.grad.clone()
        ours = torch.optim.AdamW(fused.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
        theirs = plain_adamw(plain.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            ours.step()
            theirs.step()
        figures.append(bench.compare(
            f"AdamW step, {policy_name} {profile}", ours.step, theirs.step,
            equality=check_equal("weights after three updates", fused.parameters(), plain.parameters(), 1e-5),
            parameters=sum(p.numel() for p in fused.parameters()),
        ))  # fmt: skip
    return figures
