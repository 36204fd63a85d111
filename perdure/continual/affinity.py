"""How near a new task's data are to what an earlier task learned: by the actions it would take, and by what its encoder sees.

After Zurek et al. 2026 (TSN-Affinity, arXiv 2604.25898, authors' code). Both affinities are distances: the smaller the nearer.
The earlier task's statistics, head and subnetwork are used as they are, on windows of the new task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.policy import ActionDist, Policy, Weights
from perdure.policies.base import TrunkPolicy

SMALLEST_VARIANCE = 1e-6
"""Of a latent dimension; one that varies less in both tasks says nothing."""


@dataclass(frozen=True)
class Latent:
    """Diagonal Gaussian of encoder outputs."""

    mean: Tensor
    """(D,)."""
    variance: Tensor
    """(D,), at least `SMALLEST_VARIANCE`."""


def as_task(batch: Windows, task: int) -> Windows:
    """The batch as if it were of another task: its normaliser and head are used."""
    return replace(batch, task=torch.full_like(batch.task, task), tasks=(task,))


@torch.no_grad()
def action_affinity(policy: Policy, batches: Sequence[Windows], task: int, weights: Weights, among_all: bool = False) -> float:
    """Error with which `task` predicts the logged actions: mean squared over the channels that vary, or cross-entropy in nats.

    Args:
        among_all: whether discrete actions compete that do not occur in the batches.
    """
    total, count = 0.0, 0.0
    actions = torch.cat([b.action[b.valid] for b in batches])
    discrete = actions.dtype == torch.int64
    kinds = actions.unique() if discrete else _varying(actions)
    for batch in batches:
        out = policy.predict(as_task(batch, task), weights)
        if discrete:
            error = _cross_entropy(out, batch.action, None if among_all else kinds) * batch.valid
        else:
            error = (out.output() - batch.action)[..., kinds].square().mean(-1) * batch.valid
        total, count = total + float(error.sum()), count + float(batch.valid.sum())
    return total / count


def _cross_entropy(out: ActionDist, action: Tensor, kinds: Tensor | None) -> Tensor:
    """(B, L) in nats, among the actions `kinds` or all."""
    assert out.logits is not None
    among = torch.zeros(out.logits.shape[-1], device=action.device)
    if kinds is not None:
        among.fill_(float("-inf"))[kinds] = 0.0
    known = action.clamp(max=out.logits.shape[-1] - 1)
    return F.cross_entropy((out.logits + among).flatten(0, 1), known.flatten(), reduction="none").view(action.shape)


def constant_affinity(batches: Sequence[Windows]) -> float:
    """Error of the best constant prediction on these batches: the mean variance of the channels that vary, or the entropy in
    nats."""
    actions = torch.cat([b.action[b.valid] for b in batches])
    if actions.dtype == torch.int64:
        share = actions.bincount().double() / len(actions)
        return float(-(share * share.clamp_min(1e-30).log()).sum())
    return float(actions[:, _varying(actions)].double().var(0, unbiased=False).mean())


def _varying(actions: Tensor) -> Tensor:
    """Channels (numbers) that are not constant, which padding is; all if none varies."""
    varies = (actions != actions[0]).any(0)
    return (varies if bool(varies.any()) else ~varies).nonzero().flatten()


@torch.no_grad()
def latent(policy: Policy, batches: Sequence[Windows], task: int, weights: Weights) -> Latent:
    """What the encoder of `task` makes of the first step of every window.

    Raises:
        UsageError: the policy has no encoders.
    """
    if not isinstance(policy, TrunkPolicy):
        raise UsageError(f"the policy is {type(policy).__name__}, which has no encoder to compare tasks by; use bc, dt or another"
                         " policy with a trunk")
    outs = []
    for batch in batches:
        key = policy.specs[task].obs_key
        prefix = f"encoders.{key}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        outs.append(functional_call(policy.encoders[key], own, (policy.inputs(as_task(batch, task)).obs[:, 0],)))
    rows = torch.cat(outs).double()
    return Latent(rows.mean(0), rows.var(0, unbiased=False).clamp_min(SMALLEST_VARIANCE))


def symmetric_divergence(a: Latent, b: Latent) -> Tensor:
    """(D,) half the sum of both Kullback-Leibler divergences, per dimension."""
    gap = (a.mean - b.mean).square()
    one = 0.5 * ((b.variance / a.variance).log() + (a.variance + gap) / b.variance - 1)
    other = 0.5 * ((a.variance / b.variance).log() + (b.variance + gap) / a.variance - 1)
    return 0.5 * (one + other)


def released_latent_affinity(new: Latent, old: Latent) -> float:
    """Sum of the symmetric divergence over all dimensions, in nats, as in the authors' code."""
    return float(symmetric_divergence(new, old).sum())


def latent_affinity(new: Latent, old: Latent) -> float:
    """Mean symmetric divergence over the dimensions that vary in either task, in nats per dimension."""
    active = (new.variance > SMALLEST_VARIANCE) | (old.variance > SMALLEST_VARIANCE)
    return float(symmetric_divergence(new, old)[active].mean()) if bool(active.any()) else 0.0
