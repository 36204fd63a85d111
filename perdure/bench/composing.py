"""Policies that compose earlier policies: a step and an action with 1, 5, 10 and 20 modules of earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from perdure.bench.measure import Bench, Figure, Rounds, Target
from perdure.bench.routing import ROWS, acting_on
from perdure.bench.workload import SPEC, Learner, stream
from perdure.core.rng import generator
from perdure.data.access import Views

PER_MODULE = 0.15
"""Of a task without earlier modules, that each of them may add to one of variant `grow`."""

OPTIONS = {"meaning": "data", "attention": "uniform", "reuse": "never"}
"""The streams here have no words, and every task is to have a module."""


def composing(bench: Bench) -> list[Figure]:
    """Steps, whole tasks and actions of `compoformer`.

    A step reads what earlier modules make of its windows from where it was computed once; the other figure computes it at every
    step, as the steps that learn the weights of the modules do.
    """
    streams = {count: Views(stream(bench.scale.short(), count + 1), bench.device) for count in (0, *bench.scale.composed)}
    figures = []
    for policy in ("dt", "bc"):
        for variant in ("grow", "prune"):
            options = OPTIONS | {"variant": variant}
            learners = {count: _learner(policy, bench, views, options) for count, views in streams.items()}
            again = {count: _learner(policy, bench, views, options | {"cache_bytes": 0})
                     for count, views in streams.items() if count}
            steps = bench.alternate({"none": learners[0].step, **{f"{n}": one.step for n, one in learners.items() if n},
                                     **{f"{n} each step": one.step for n, one in again.items()}})
            for count in again:
                name = f"compoformer {variant} with {count} earlier modules over none, {policy} cpu"
                figures += [Figure(f"step of {name}", "x", steps.ratio(str(count), "none")),
                            Figure(f"step of {name}, all computed in it", "x", steps.ratio(f"{count} each step", "none"))]
            figures += [_task(bench, count, policy, variant, steps, learners[0].method.config) for count in again]
            figures += _acting(bench, policy, variant, learners)
    return figures


def _task(bench: Bench, count: int, policy: str, variant: str, steps: Rounds, config: Any) -> Figure:
    """A whole task: the steps that learn the weights of the modules, computing what these make of every window of the data once,
    and the steps that read it."""
    filling = bench.scale.episodes * bench.scale.length / (config.steps * config.batch)
    computed = min(1.0, config.compose_share + filling)
    bound = Target(1 + PER_MODULE * count, at_least=False) if variant == "grow" and count > 1 else None
    return Figure(f"task of compoformer {variant} with {count} earlier modules over none, {policy} cpu", "x",
                  steps.ratio({f"{count} each step": computed, str(count): 1 - computed}, "none"), bound)


def _learner(policy: str, bench: Bench, views: Views, options: Mapping[str, object]) -> Learner:
    return Learner("compoformer", policy, "cpu", bench.scale, views, options=options)


def _acting(bench: Bench, policy: str, variant: str, learners: Mapping[int, Learner]) -> list[Figure]:
    """Of the last task, whose module reads all before it."""
    obs = torch.randn(ROWS, SPEC.obs.size, generator=generator(0, "bench", "acting")).to(bench.device)
    reward, g = torch.zeros(ROWS, device=bench.device), torch.Generator()
    actors = {str(count): one.method.eval().actor(one.task) for count, one in learners.items()}
    with torch.inference_mode():
        timed = bench.alternate({name: acting_on(actor, obs, reward, g) for name, actor in actors.items()})
    for one in learners.values():
        one.method.train()
    return [Figure(f"acting of compoformer {variant} with {count} earlier modules over none, {policy} cpu", "x",
                   timed.ratio(str(count), "0")) for count in learners if count]
