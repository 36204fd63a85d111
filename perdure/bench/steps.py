"""What a step of a method costs over a step of `finetune`, as the driver takes it, on the second task; and whether that cost
grows with the number of tasks learned before."""

from __future__ import annotations

from perdure.bench.measure import STEP_ROUNDS, Bench, Figure, Target
from perdure.bench.workload import Learner, stream
from perdure.data.access import Views

LIGHT = ("ewc", "l2", "mas", "si", "rwalk", "packnet", "lora")
"""Methods that add a penalty, a mask or an adapter to the same forward and backward pass."""

REPLAYING = ("er", "der", "agem", "clonex")
"""Methods that also learn from a second batch."""

DISTILLING = ("lwf",)
"""One old head in the second task."""

MASKING = ("tsn", "tsn_affinity")
"""Methods that learn which weights a task uses, with a score per weight."""

REPORTED = ("vcl", "pnn", "frozen_trunk")

BOUNDS = {
    **{(name, "bc"): 1.25 for name in LIGHT}, **{(name, "dt"): 1.15 for name in LIGHT},
    **{(name, policy): 2.3 for name in REPLAYING for policy in ("bc", "dt")},
    **{(name, policy): 1.4 for name in DISTILLING for policy in ("bc", "dt")},
    **{(name, "bc"): 2.0 for name in MASKING}, **{(name, "dt"): 1.3 for name in MASKING},
}  # fmt: skip
"""Targets at the cpu profile's sizes, where the fixed costs of a method weigh most; the paper's sizes are reported."""

SIZES = (("bc", "cpu"), ("dt", "cpu"), ("bc", "paper"), ("dt", "paper"))

PHASES = {"packnet": ("dense", "retrain")}
"""Phases that are timed where there is more than `train`; they count by their share of the steps."""

CONSTANT = ("finetune", "l2", "ewc", "mas", "si", "rwalk", "packnet", "lora", "frozen_trunk", "er", "der", "agem", "clonex")
"""Methods whose mathematics does not ask for work per finished task (only heads are gathered per sample)."""

LINEAR = ("lwf", "pnn")
"""Methods that read every old head or every earlier column at each step."""


def steps(bench: Bench) -> list[Figure]:
    """Step overhead of the methods over `finetune`; at the paper's sizes only of the three that this started with."""
    views = Views(stream(bench.scale), bench.device)
    figures = []
    for policy, profile in SIZES:
        names = (*LIGHT, *REPLAYING, *DISTILLING, *MASKING, *REPORTED) if profile == "cpu" else ("ewc", "packnet", "er")
        learners = {"finetune": Learner("finetune", policy, profile, bench.scale, views),
                    "finetune again": Learner("finetune", policy, profile, bench.scale, views)}
        for name in names:
            for phase in PHASES.get(name, ("train",)):
                side = f"{name} {phase}" if name in PHASES else name
                learners[side] = Learner(name, policy, profile, bench.scale, views, phase)
        timed = bench.alternate({name: one.step for name, one in learners.items()}, max(bench.rounds, STEP_ROUNDS))
        retrain = learners["packnet retrain"].method.config.retrain_share
        packnet = {"packnet dense": 1 - retrain, "packnet retrain": retrain}
        base = timed.milliseconds("finetune", bench.clock).median
        for name in ("finetune again", *names):
            ratio = timed.ratio(packnet if name == "packnet" else name, "finetune")
            bound = BOUNDS.get((name, policy)) if profile == "cpu" else None
            figures.append(Figure(
                f"step of {name} over finetune, {policy} {profile}", "x", ratio,
                None if bound is None else Target(bound, at_least=False),
                details={"ours_ms": ratio[bench.clock].median * base, "reference_ms": base},
            ))  # fmt: skip
    return figures


def growth(bench: Bench) -> list[Figure]:
    """A step in the last of 1, 5, 10, 20 and 50 tasks over a step in the second, the first with something to protect."""
    figures = []
    streams = {n: Views(stream(bench.scale.short(), n), bench.device) for n in bench.scale.growing}
    for name in (*CONSTANT, *LINEAR):
        phase = PHASES.get(name, ("train",))[0]
        learners = {n: Learner(name, "bc", "cpu", bench.scale, views, phase) for n, views in streams.items()}
        timed = bench.alternate({str(n): one.step for n, one in learners.items()})
        base = timed.milliseconds("2", bench.clock).median
        for n in learners:
            if n == 2:
                continue
            ratio = timed.ratio(str(n), "2")
            figures.append(Figure(f"step of {name} in task {n} over task 2, bc cpu", "x", ratio,
                                  details={"ours_ms": ratio[bench.clock].median * base, "reference_ms": base}))
    return figures
