"""Dual generative replay: pairs dreamed per second, what a late task of `cugro` costs over the second one, and what the reference
mode costs over the default.

The cost of a task is that of all its phases: the seconds of an update of each, times the updates that it has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from perdure.bench.measure import Bench, Figure, Target
from perdure.bench.workload import Learner, stream
from perdure.data.access import Views
from perdure.methods.cugro import AT_ONCE

PHASES = ("dream", "behaviour", "states", "critic")
AGAIN = "dream again"
"""Also a phase of the reference mode."""

OURS = {"recognise": 0.0, "on_collapse": "go_on", "dreams": 3 * AT_ONCE}
"""The tasks here are noise, all alike, and nothing is learned long enough to be like them; parts of one size can be averaged."""

COMPARED, MORE = 3, 5
"""Tasks of the stream on which the modes are compared, and its data over those of other benches: 100,000 transitions per task, as
in cheetah-vel-v5, whose third of five tasks costs the average one. The reference mode dreams as many pairs as there are data."""

ENOUGH, GROWTH, FASTER = Target(1000.0), Target(1.25, at_least=False), Target(4.0)


@dataclass(frozen=True)
class TimedTask:
    """The last task of a stream, with a learner in the middle of every phase of it."""

    learners: dict[str, Learner]
    """Side of the comparison -> learner."""

    @classmethod
    def of(cls, name: str, bench: Bench, views: Views, reference: bool = False) -> TimedTask:
        phases = (*PHASES, AGAIN) if reference else PHASES
        options = {"compat": True} if reference else OURS
        return cls({f"{name}, {phase}": Learner("cugro", "sfbc", "cpu", bench.scale, views, phase, options=options, warm_up=1)
                    for phase in phases})

    @property
    def weights(self) -> dict[str, float]:
        """Side -> updates."""
        return {side: float(one.steps) for side, one in self.learners.items()}


def dreaming(bench: Bench) -> list[Figure]:
    """Whole tasks of `cugro` on `sfbc`, at the cpu profile's sizes."""
    streams = {n: Views(stream(bench.scale.short(), n), bench.device) for n in bench.scale.dreamed}
    tasks = {n: TimedTask.of(f"task {n}", bench, views) for n, views in streams.items()}
    timed = bench.alternate({side: one.step for task in tasks.values() for side, one in task.learners.items()})
    second = min(tasks)
    made = timed.map(f"task {second}, dream", lambda s: AT_ONCE / s)
    figures = [Figure("pairs dreamed by cugro, sfbc cpu", "per s", made, ENOUGH)]
    for n, task in tasks.items():
        if n != second:
            figures.append(Figure(f"task {n} of cugro over task {second}, sfbc cpu", "x",
                                  timed.ratio(task.weights, tasks[second].weights), GROWTH))
    like = replace(bench.scale, episodes=MORE * bench.scale.episodes)
    views = Views(stream(like, COMPARED), bench.device)
    ours, reference = TimedTask.of("ours", bench, views), TimedTask.of("reference", bench, views, reference=True)
    timed = bench.alternate({side: one.step for task in (ours, reference) for side, one in task.learners.items()})
    figures.append(Figure(f"reference mode over default, {like.episodes * like.length:,} transitions, sfbc cpu", "x",
                          timed.ratio(reference.weights, ours.weights), FASTER))
    return figures
