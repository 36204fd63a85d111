"""What is checked of every method with a quadratic penalty, and the updates of a task as an observer outside sees them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from tiny import Lab, config
from torch import Tensor
from torch.nn import Parameter

from perdure.continual.anchor import QuadraticAnchor
from perdure.core.batch import average
from perdure.core.method import Step


def no_strength_is_finetuning(method: str, policy: str, clip: float = 1.0, **options: Any) -> None:
    """Bit for bit, in every parameter of the policy, after every task."""
    mine = Lab(config(method, policy, strength=0.0, clip=clip, **options))
    plain = Lab(config("finetune", policy, clip=clip))
    for task in range(3):
        theirs = dict(plain.learn(task).method.policy.named_parameters())
        for name, p in mine.learn(task).method.policy.named_parameters():
            assert torch.equal(p, theirs[name]), (task, name)


def optimum_tends_to(anchor: QuadraticAnchor) -> None:
    """min a/2 (x - c)^2 + s/2 f (x - x0)^2 is at (a c + s f x0) / (a + s f), by the gradient that training would use."""
    anchor = anchor.double()
    name = max(anchor.shapes, key=lambda n: float(anchor._buffer("importance", n).mean()))
    x0, f = anchor._buffer("anchor", name), anchor._buffer("importance", name)
    assert float(f.min()) >= 0
    g = torch.Generator().manual_seed(1)
    a, c = (torch.rand(x0.shape, generator=g, dtype=torch.float64) + 0.5 for _ in range(2))
    gaps = []
    for s in (0.0, 0.1, 1.0, 10.0, 1e8):
        x = Parameter(torch.zeros_like(x0))
        for _ in range(60):  # Newton's method on a separable quadratic
            x.grad = a * (x.detach() - c)
            anchor.add_gradient({name: x}, s)
            x.data -= x.grad / (a + s * f)
        torch.testing.assert_close(x.data, (a * c + s * f * x0) / (a + s * f))
        gaps.append(float((f.sqrt() * (x.data - x0)).norm()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-3 * gaps[0]


def penalty_enters_the_gradient(method: str, strength: float = 3.0, **options: Any) -> None:
    """In an update of the second task the optimizer sees what autograd gives of loss + penalty."""
    lab = Lab(config(method, strength=strength, clip=0.0, **options)).learn(0)
    policy, train, step = lab.method.policy, lab.phases(1)[0], Step(lab.method.seed, 1, "train", 0)
    train.begin()
    with torch.no_grad():
        for p in policy.shared().values():
            p.add_(0.01)
    seen: dict[str, Tensor] = {}
    lab.method.optimizers["policy"].step = lambda: seen.update({n: p.grad.clone() for n, p in policy.shared().items()})
    weights = {name: p.detach().clone().requires_grad_() for name, p in policy.shared().items()}
    batch = lab.access(1).current.windows(policy.context, lab.method.config.batch, step)
    fit, penalty = average(policy.loss, batch, weights=weights), lab.method.anchor.penalty(weights, strength)
    data, pull = (torch.autograd.grad(part, list(weights.values())) for part in (fit, penalty))
    train.update(step)
    for name, one, two in zip(weights, data, pull, strict=True):
        torch.testing.assert_close(seen[name], one + two, rtol=1e-5, atol=1e-6)
    assert max(float(g.abs().max()) for g in pull) > 1e-3


def more_strength_stays_nearer(method: str, strengths: tuple[float, ...], **options: Any) -> None:
    """After the second task, in the norm that its importances define; the first task does not depend on the strength."""
    gaps = []
    for strength in strengths:
        lab = Lab(config(method, strength=strength, steps=60, **options)).learn(0)
        anchor = lab.method.anchor
        importance = {name: anchor._buffer("importance", name).clone() for name in anchor.shapes}
        before = {name: p.detach().clone() for name, p in lab.method.policy.shared().items()}
        lab.learn(1)
        after = lab.method.policy.shared()
        gaps.append(sum(float((importance[n] * (after[n].detach() - before[n]).square()).sum()) for n in importance))
    assert all(one > 1.5 * two for one, two in pairwise(gaps)), gaps


@dataclass
class Update:
    """One update: gradients of the data's loss alone, computed anew, and the shared weights before and after."""

    gradients: dict[str, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def followed(lab: Lab, task: int, finish: bool = False) -> list[Update]:
    """Play the first phase of a task, with its end if asked for; for policies without dropout."""
    phase, seen = lab.phases(task)[0], []
    phase.begin()
    policy, context = lab.method.policy, lab.method.policy.context
    for index in range(phase.steps):
        step = Step(lab.method.seed, task, phase.name, index)
        shared = policy.shared()
        batch = lab.access(task).current.windows(context, lab.method.config.batch, step)
        gradients = torch.autograd.grad(average(policy.loss, batch), list(shared.values()))
        before = {name: p.detach().clone() for name, p in shared.items()}
        phase.update(step)
        after = {name: p.detach().clone() for name, p in shared.items()}
        seen.append(Update(dict(zip(shared, gradients, strict=True)), before, after))
    if finish:
        phase.end()
        lab.method.forget_optimizers()
    return seen
