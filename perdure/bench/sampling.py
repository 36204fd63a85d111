"""Batch sampling against the per-window Python sampler."""

from __future__ import annotations

import numpy as np
import torch

from perdure.bench.measure import Bench, Equality, Figure, Target, check_equal
from perdure.bench.reference import FIELDS, PythonSampler
from perdure.bench.workload import policy_maker, recipe, stream
from perdure.core.method import Step
from perdure.data.access import Views


def equal_windows(views: Views, reference: PythonSampler, length: int) -> Equality:
    """The same windows from both samplers, compared on all valid steps."""
    rng = np.random.default_rng(0)
    places = reference.draw(64, rng)
    lengths = np.asarray(views.stream.tasks[0].data.lengths)
    first = np.cumsum(lengths) - lengths
    flat = torch.tensor([int(first[episode]) + start for episode, start in places], device=views.views[0].device)
    ours, theirs = views.views[0].sampler.windows_at(flat, length), reference.windows(places, length)
    valid = theirs["valid"]
    whole = ("valid", "last_obs")  # the others are compared where the window is inside the episode
    return check_equal(
        f"windows of {length} steps at the same places",
        [ours.__dict__[name].cpu() if name in whole else ours.__dict__[name].cpu()[valid] for name in FIELDS],
        [theirs[name] if name in whole else theirs[name][valid] for name in FIELDS], 1e-6,
    )  # fmt: skip


def sampling(bench: Bench) -> list[Figure]:
    """DT windows of both profiles, and bc's windows of one step."""
    views = Views(stream(bench.scale), bench.device)
    reference = PythonSampler(views.stream.tasks[0].data)
    figures = []
    for policy, profile in (("dt", "paper"), ("dt", "cpu"), ("bc", "cpu")):
        length = policy_maker(policy, profile, bench.scale)().context
        n = recipe(policy, profile, bench.scale)["batch"]
        rng, counter = np.random.default_rng(1), iter(range(10**9))
        figures.append(bench.compare(
            f"batch sampling, {policy} {profile}: {n} windows of {length}",
            lambda length=length, n=n, counter=counter: views.views[0].windows(length, n, Step(0, 0, "bench", next(counter))),
            lambda length=length, n=n, rng=rng: reference.windows(reference.draw(n, rng), length),
            equality=equal_windows(views, reference, length), target=Target(20),
            data=f"{bench.scale.episodes} episodes x {bench.scale.length} steps",
        ))  # fmt: skip
    return figures
