"""Subnetworks with affinity routing: acting with a folded one, routing among many tasks, and what 50 tasks take.

Routing is timed with the real measurements of `tsn_affinity`; whether the index decides as exact routing does is counted on
synthetic tasks whose expert is known, as a thousand networks cannot be trained for a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from perdure.bench.measure import Bench, Clock, Figure, Spread, Target
from perdure.bench.workload import SPEC, Learner, stream
from perdure.continual.routing import Distances, nearest_source, ratio
from perdure.continual.task_index import TaskIndex, signature_of
from perdure.core.batch import Windows
from perdure.core.method import Step
from perdure.core.policy import Actor
from perdure.core.rng import generator
from perdure.data.access import Views
from perdure.methods.tsn_affinity import TSNAffinity

CANDIDATES = 16
"""Tasks that the index proposes, as by default."""

SAME = 0.95
"""Share of equal decisions that the index must reach."""

ROWS = 10
"""Episodes acted in one forward."""


def routing(bench: Bench) -> list[Figure]:
    """Acting, routing and size."""
    views = Views(stream(bench.scale), bench.device)
    return [*_acting(bench, views), *_routing(bench, views)]


def _acting(bench: Bench, views: Views) -> list[Figure]:
    """A finished subnetwork, folded once, against the same policy without masks."""
    figures = []
    for policy in ("bc", "dt"):
        method = Learner("tsn", policy, "cpu", bench.scale, views).method.eval()
        obs = torch.randn(ROWS, SPEC.obs.size, generator=generator(0, "bench", "acting")).to(bench.device)
        reward, g = torch.zeros(ROWS, device=bench.device), torch.Generator()
        actors = {"dense": method.policy.actor(0), "folded": method.actor(0)}

        with torch.inference_mode():
            timed = bench.alternate({name: acting_on(actor, obs, reward, g) for name, actor in actors.items()})
        figures.append(Figure(f"acting with a folded subnetwork over dense, {policy} cpu", "x", timed.ratio("folded", "dense"),
                              Target(1.05, at_least=False),
                              details={"ours_ms": timed.milliseconds("folded", bench.clock).median}))
    return figures


def acting_on(actor: Actor, obs: Tensor, reward: Tensor, g: torch.Generator) -> Callable[[], object]:
    """One action after the other in the same episodes."""
    carry = actor.start(len(obs))

    def act() -> Tensor:
        nonlocal carry
        action, carry = actor.act(obs, carry, g, reward)
        return action

    return act


def _routing(bench: Bench, views: Views) -> list[Figure]:
    """Measuring the distances to all earlier tasks over measuring those that the index proposes."""
    method = Learner("tsn_affinity", "bc", "cpu", bench.scale, views).method.eval()
    assert isinstance(method, TSNAffinity)
    batches = [views.views[1].windows(1, 64, Step(0, 1, "route", i)) for i in range(4)]
    own = signature_of(batches, 0)
    figures = []
    for count in bench.scale.routed:
        index = TaskIndex()
        for task in range(count):
            index.add(task, own + torch.randn(len(own), dtype=torch.float64, generator=generator(0, "bench", "signature", task)))

        def exact(count: int = count) -> None:
            for _ in range(count):
                method._distances(0, batches)

        def indexed(index: TaskIndex = index) -> None:
            for _ in index.near(signature_of(batches, 0), CANDIDATES):
                method._distances(0, batches)

        timed = bench.alternate({"exact": exact, "indexed": indexed})
        one, other, measured = decisions(count, CANDIDATES)
        same = sum(a == b for a, b in zip(one, other, strict=True)) / count
        figures.append(Figure(
            f"routing among {count} tasks, exact over by the index, bc cpu", "x", timed.ratio("exact", "indexed"),
            details={"ours_ms": timed.milliseconds("indexed", bench.clock).median,
                     "reference_ms": timed.milliseconds("exact", bench.clock).median,
                     "distances_measured_in_the_stream": measured, "of": count * (count - 1) // 2},
        ))  # fmt: skip
        clocks: tuple[Clock, ...] = ("cpu", "wall")
        figures.append(Figure(f"same decisions by the index on {count} synthetic tasks", "",
                              dict.fromkeys(clocks, Spread.of([same])), Target(SAME)))
    return figures


# -- tasks whose expert is known ------------------------------------------------------------------------------------------

OBS, ACTIONS, SAMPLES = 8, 2, 256


def expert(kind: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """(OBS, ACTIONS) linear map before a tanh, and (OBS,) mean of the observations; `shift` changes the map a little."""
    g, own = generator(0, "kind", kind), generator(0, "task", kind, int(shift * 1e6))
    weights = torch.randn(OBS, ACTIONS, generator=g) / OBS**0.5
    return weights + shift * torch.randn(OBS, ACTIONS, generator=own), torch.randn(OBS, generator=g)


def synthetic(kind: int, sample: int, discrete: bool = False, shift: float = 0.0) -> list[Windows]:
    """A batch of windows of length 1 of a task of this kind."""
    weights, mean = expert(kind, shift)
    g = generator(1, "sample", kind, sample, int(shift * 1e6))
    obs = mean + torch.randn(SAMPLES, 1, OBS, generator=g)
    action = torch.tanh((obs - mean) @ weights + 0.1 * torch.randn(SAMPLES, 1, ACTIONS, generator=g))
    if discrete:
        action = (action[..., 0] > 0).long() + 2 * (action[..., 1] > 0).long()
    flags, zeros = torch.zeros(SAMPLES, 1, dtype=torch.bool), torch.zeros(SAMPLES, 1)
    return [Windows(obs=obs, action=action, reward=zeros, return_to_go=zeros, timestep=zeros.long(), terminated=flags,
                    truncated=flags, valid=~flags, last_obs=obs[:, 0], task=torch.zeros(SAMPLES, dtype=torch.int64),
                    weight=torch.ones(SAMPLES), tasks=(0,))]  # fmt: skip


def decisions(count: int, candidates: int) -> tuple[list[int | None], list[int | None], int]:
    """(exact decisions, decisions by the index, distances that these took) for a stream of `count` tasks.

    Every third task is of a new kind; the others are of one of the kinds so far, changed a little.
    """
    g = generator(2, "stream", count)
    index, kinds = TaskIndex(), 0
    models: list[tuple[Tensor, Tensor]] = []
    exact: list[int | None] = []
    indexed: list[int | None] = []
    measured = 0
    for task in range(count):
        new = task % 3 == 0
        kind = kinds if new else int(torch.randint(kinds, (), generator=g))
        kinds += new
        shift = 0.0 if new else 0.05 * float(torch.rand((), generator=g))
        batches = synthetic(kind, task, shift=shift)
        own = signature_of(batches, 0)
        near = index.near(own, candidates)
        measured += len(near)
        found = {source: _distances(batches[0], *models[source]) for source in range(task)}
        exact.append(_decided(found))
        indexed.append(_decided({source: found[source] for source in near}))
        models.append(expert(kind, shift))
        index.add(task, own)
    return exact, indexed, measured


def _decided(found: Mapping[int, Distances]) -> int | None:
    """By router `action`."""
    return nearest_source({source: ratio("action", d, 0.5, 1.0, 0.7) for source, d in found.items()},
                          {source: d.action for source, d in found.items()})


def _distances(batch: Windows, weights: Tensor, mean: Tensor) -> Distances:
    """To a subnetwork that is the expert itself."""
    error = (torch.tanh((batch.obs - mean) @ weights) - batch.action).square().mean()
    constant = batch.action.var(0, unbiased=False).mean()
    return Distances(float(error / constant), 0.0, 0.03, 0.0)
