"""Batch sampling against the per-window Python sampler."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from perdure.bench.measure import Bench, Equality, Figure, Target, check_equal
from perdure.bench.reference import FIELDS, PythonSampler
from perdure.bench.workload import dataset, policy_maker, recipe, stream_of
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
    """DT windows of both profiles and bc's windows of one step.

    The target counts on episodes of 500 steps, as in the data of the published sampler; this library's are shorter.
    """
    figures = []
    for place, (episodes, steps) in enumerate(bench.scale.sampled):
        views = Views(stream_of([dataset(episodes, steps, seed=0)]), bench.device)
        reference = PythonSampler(views.stream.tasks[0].data)
        for policy, profile in (("dt", "paper"), ("dt", "cpu"), ("bc", "cpu")):
            length = policy_maker(policy, profile, bench.scale)().context
            n = recipe(policy, profile, bench.scale)["batch"]
            figures.append(bench.compare(
                f"batch sampling, {policy} {profile}: {n} windows of {length}, {episodes} episodes of {steps}",
                _ours(views, length, n), _theirs(reference, length, n),
                equality=equal_windows(views, reference, length), target=Target(20) if place == 0 else None,
            ))  # fmt: skip
    return figures


def _ours(views: Views, length: int, n: int) -> Callable[[], object]:
    counter = itertools.count()
    return lambda: views.views[0].windows(length, n, Step(0, 0, "bench", next(counter)))


def _theirs(reference: PythonSampler, length: int, n: int) -> Callable[[], object]:
    rng = np.random.default_rng(1)
    return lambda: reference.windows(reference.draw(n, rng), length)
