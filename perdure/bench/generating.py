"""Diffusion: pairs of states and actions, and actions chosen among candidates, against the released way of computing them.

The plain variant evaluates the denoiser 100 times on equal times (DPM-Solver-3), computes time and condition anew in every
evaluation, and acts in one environment after the other, as the code released with CuGRO does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from perdure.bench.measure import Bench, Equality, Figure, Rounds, Target
from perdure.bench.workload import SPEC, Learner, open_policy, stream
from perdure.core.distances import random_directions, sliced_wasserstein
from perdure.core.errors import GuardError
from perdure.core.rng import generator
from perdure.data.access import Views
from perdure.nets.denoiser import Denoiser
from perdure.nets.diffusion import Linear, Predict, Sampler
from perdure.nets.mixture import Mixture
from perdure.policies.sfbc import SfBC

TARGET = Target(8.0)

ENVIRONMENTS, CANDIDATES = 10, 32

WIDTHS = {"cpu": (128, 64, 32), "paper": (512, 256, 128)}
TASKS = 5
"""Of the state generator's condition."""

RELEASED = Sampler("dpm-3", 100, "time")
OURS = Sampler("dpm++", 15)

FIDELITY = 1.5
"""Largest ratio of the distances to the true samples at which two samplers count as equal."""


def equal_fidelity() -> Equality:
    """Both samplers on a mixture of eight modes whose score is known: sliced Wasserstein distance to true samples.

    Raises:
        GuardError: ours is further away.
    """
    g, schedule = generator(0, "bench", "mixture"), Linear()
    mixture, directions = Mixture.random(8, 6, 0.08, g), random_directions(100, 6, g)
    true, noise = mixture.samples(2000, g), torch.randn(2000, 6, generator=g, dtype=torch.float64)

    def distance(sampler: Sampler) -> float:
        return sliced_wasserstein(sampler.draw(mixture.noise(schedule), noise, schedule), true, directions)

    ratio = distance(OURS) / distance(RELEASED)
    if ratio > FIDELITY:
        raise GuardError(f"{OURS.evaluations} evaluations are {ratio:.2f} times as far from the true samples as"
                         f" {RELEASED.evaluations} of the released sampler, so nothing was timed")
    return Equality(f"distance to true samples, over that of {RELEASED.evaluations} evaluations", ratio, FIDELITY)


def plain(denoiser: Denoiser, condition: Tensor) -> Predict:
    """Everything in every evaluation."""
    return lambda x, t: denoiser(x, x.new_full((len(x),), t), condition)


def drawn(denoiser: Denoiser, condition: Tensor, size: int, sampler: Sampler, schedule: Linear) -> Tensor:
    """(n, size) samples, as the sampler's owner computes them."""
    noise = torch.randn(len(condition), size)
    predict = plain(denoiser, condition) if sampler is RELEASED else denoiser.prepared(condition, sampler.times(schedule),
                                                                                       len(condition))
    return sampler.draw(predict, noise, schedule, limit=1.0)


def pairs(count: int, widths: tuple[int, ...], sampler: Sampler) -> Callable[[], object]:
    """`count` states, of every task as many, and actions at them."""
    schedule, size = Linear(), SPEC.obs.size
    states, actions = Denoiser(size, TASKS, widths), Denoiser(SPEC.action.size, size, widths)
    told = torch.eye(TASKS).repeat_interleave(count // TASKS, 0)

    def generate() -> Tensor:
        with torch.no_grad():
            return drawn(actions, drawn(states, told, size, sampler, schedule), SPEC.action.size, sampler, schedule)

    return generate


def one_by_one(policy: SfBC) -> Callable[[], object]:
    """An action in every environment, one after the other, drawn with NumPy."""
    spaces, rng = SPEC.key, np.random.default_rng(0)
    denoiser = cast(Denoiser, policy.denoisers[spaces])
    observations = torch.randn(ENVIRONMENTS, SPEC.obs.size)

    def act() -> list[Tensor]:
        chosen = []
        for obs in observations:
            told = torch.cat([obs, policy.told["task-0"]]).expand(CANDIDATES, -1)
            actions = drawn(denoiser, told, SPEC.action.size, RELEASED, policy.schedule)
            index = torch.zeros(CANDIDATES, dtype=torch.int64)
            values = policy.critic(torch.cat([obs.expand(CANDIDATES, -1), actions], 1), spaces, index, (0,))
            logits = policy.config.sharpness * values.double()
            weights = (logits - logits.max()).exp().numpy() + 1e-12
            picked = rng.choice(CANDIDATES, policy.config.average, replace=False, p=weights / weights.sum())
            chosen.append(actions[torch.from_numpy(picked)].mean(0))
        return chosen

    return torch.no_grad()(act)


def together(policy: SfBC) -> Callable[[], object]:
    """An action in every environment at once."""
    actor, g = policy.actor(0), torch.Generator()
    observations = torch.randn(ENVIRONMENTS, SPEC.obs.size)
    return lambda: actor.act(observations, {}, g)


def generating(bench: Bench) -> list[Figure]:
    """Samples and actions of diffusion models, and updates of the value-based policies."""
    equality, views, figures = equal_fidelity(), Views(stream(bench.scale), "cpu"), []
    count = bench.scale.pairs
    for profile, widths in WIDTHS.items():
        timed = bench.alternate({"ours": pairs(count, widths, OURS), "released": pairs(count, widths, RELEASED)})
        figures.append(_figure(f"generating {count} pairs, {profile} size", timed, bench, equality))
        policy = open_policy("sfbc", profile, bench.scale, views, "cpu", candidates=CANDIDATES, evaluations=OURS.evaluations)
        assert isinstance(policy, SfBC)
        policy.eval()
        timed = bench.alternate({"ours": together(policy), "released": one_by_one(policy)})
        name = f"choosing among {CANDIDATES} candidates in {ENVIRONMENTS} environments, sfbc {profile}"
        figures.append(_figure(name, timed, bench, equality))
    for policy_name in ("td3bc", "iql"):
        learner = Learner("finetune", policy_name, "cpu", bench.scale, views)
        timed = bench.alternate({"step": learner.step})
        figures.append(Figure(f"updates of {policy_name} cpu", "per s", timed.map("step", lambda seconds: 1 / seconds)))
    return figures


def _figure(name: str, timed: Rounds, bench: Bench, equality: Equality) -> Figure:
    return Figure(name, "x", timed.ratio("released", "ours"), TARGET, equality, {
        "ours_ms": timed.milliseconds("ours", bench.clock).median,
        "reference_ms": timed.milliseconds("released", bench.clock).median,
    })  # fmt: skip
