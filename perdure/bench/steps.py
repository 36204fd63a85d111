"""What a step of a method costs over a step of `finetune`, as the driver takes it, on the second task."""

from __future__ import annotations

from perdure.bench.measure import STEP_ROUNDS, Bench, Figure, Target
from perdure.bench.workload import Learner, stream
from perdure.data.access import Views

BOUNDS = {
    ("ewc", "dt"): 1.15, ("packnet", "dt"): 1.15, ("er", "dt"): 2.3,
    ("ewc", "bc"): 1.25, ("packnet", "bc"): 1.25, ("er", "bc"): 2.3,
}  # fmt: skip
"""Targets at the cpu profile's sizes, where the fixed costs of a method weigh most; the paper's sizes are reported."""

SIZES = (("bc", "cpu"), ("dt", "cpu"), ("bc", "paper"), ("dt", "paper"))


def steps(bench: Bench) -> list[Figure]:
    """Step overhead of `ewc`, `packnet` (both phases by their share of the steps) and `er` at 1:1 replay."""
    views = Views(stream(bench.scale), bench.device)
    figures = []
    for policy, profile in SIZES:
        def learner(method: str, phase: str = "train", policy: str = policy, profile: str = profile) -> Learner:
            return Learner(method, policy, profile, bench.scale, views, phase)

        learners = {
            "finetune": learner("finetune"), "finetune again": learner("finetune"), "ewc": learner("ewc"), "er": learner("er"),
            "packnet dense": learner("packnet", "dense"), "packnet retrain": learner("packnet", "retrain"),
        }  # fmt: skip
        timed = bench.alternate({name: one.step for name, one in learners.items()}, max(bench.rounds, STEP_ROUNDS))
        retrain = learners["packnet retrain"].method.config.retrain_share
        packnet = {"packnet dense": 1 - retrain, "packnet retrain": retrain}
        base = timed.milliseconds("finetune", bench.clock).median
        for name in ("finetune again", "ewc", "packnet", "packnet dense", "packnet retrain", "er"):
            ratio = timed.ratio(packnet if name == "packnet" else name, "finetune")
            bound = BOUNDS.get((name, policy)) if profile == "cpu" else None
            figures.append(Figure(
                f"step of {name} over finetune, {policy} {profile}", "x", ratio,
                None if bound is None else Target(bound, at_least=False),
                details={"ours_ms": ratio[bench.clock].median * base, "reference_ms": base},
            ))  # fmt: skip
    return figures
