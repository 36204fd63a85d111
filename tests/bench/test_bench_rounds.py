"""The arithmetic of rounds, and the operations that are counted."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perdure.bench import training, workload
from perdure.bench.measure import Equality, Figure, Rounds, Spread, Target, alternate, check_equal, operations
from perdure.bench.workload import Learner, Scale
from perdure.core.batch import average
from perdure.core.errors import GuardError
from perdure.data.access import Views

SIZES = {"bc": {"width": 32, "layers": 3}, "dt": {"width": 32, "layers": 3, "attention_heads": 2, "context": 6, "dropout": 0.0}}
SMALL = Scale(episodes=3, length=20, batch=8, policy=SIZES)


def test_a_ratio_is_taken_within_each_round():
    rounds = Rounds({"cpu": {"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0], "c": [0.0, 2.0, 3.0]}})
    assert rounds.ratio("a", "b") == {"cpu": Spread(2.0, 1.0, 3.0)}
    assert rounds.ratio("a", "b", factor=10)["cpu"].median == 20
    assert rounds.ratio({"a": 0.5, "c": 0.5}, "b")["cpu"] == Spread(1.5, 0.5, 2.0)
    assert rounds.milliseconds("b", "cpu").median == 2000
    assert rounds.map("b", lambda s: 1 / s)["cpu"].high == 1


def test_sides_take_turns_and_the_order_alternates():
    order = []
    timed = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, least_seconds=0.0)
    assert "".join(order[-6:]) == "abbaab"
    assert [len(timed.seconds[clock][side]) for clock in ("cpu", "wall") for side in ("a", "b")] == [3] * 4


@pytest.mark.parametrize(("target", "value", "verdict"), [
    (Target(20), 20.0, "met"), (Target(20), 19.9, "missed"), (Target(1.15, at_least=False), 1.15, "met"),
    (Target(1.15, at_least=False), 1.2, "missed"), (None, 3.0, "reported"),
])  # fmt: skip
def test_verdicts(target, value, verdict):
    figure = Figure("x", "x", {"cpu": Spread.of([value]), "wall": Spread.of([0.0])}, target)
    assert figure.verdict("cpu", trusted=True) == verdict
    assert figure.verdict("cpu", trusted=False) == ("reported" if target is None else "none")


def test_equality_is_relative_and_refuses_nan_and_shapes():
    a = torch.tensor([100.0, 0.0])
    assert check_equal("x", [a + 0.01], [a], 1e-3) == Equality("x", pytest.approx(1e-4, rel=1e-2), 1e-3)
    for wrong in (a + 1, torch.tensor([float("nan"), 0.0]), torch.zeros(3)):
        with pytest.raises(GuardError):
            check_equal("x", [wrong], [a], 1e-3)


def test_views_are_no_operations():
    x = torch.ones(4, 4)
    assert operations(lambda: x.view(16).unsqueeze(0).T[1:]) == 0
    assert operations(lambda: (x + x).t().add_(1)) == 2


@pytest.mark.parametrize(("policy", "share"), [("bc", 1e-9), ("dt", 0.02)])
def test_operations_of_a_training_step_are_those_that_torch_counts(policy, share):
    """Torch does not count the fused attention of a CPU, which is below the allowance at these sizes."""
    scale = replace(SMALL, policy=SIZES | {"dt": SIZES["dt"] | {"width": 128, "context": 4}})
    views = Views(workload.stream(scale))
    learner = Learner("finetune", policy, "cpu", scale, views)
    counter = FlopCounterMode(display=False)
    with counter:
        average(learner.method.policy.loss, workload.batch(learner.method.policy, views, 8)).backward()
    assert training.flop(learner.method.policy, 8) == pytest.approx(counter.get_total_flops(), rel=share)


@pytest.mark.parametrize(("method", "phase"), [
    ("finetune", "train"), ("ewc", "train"), ("packnet", "dense"), ("packnet", "retrain"), ("er", "train"),
])  # fmt: skip
def test_a_learner_stands_in_the_asked_phase_of_the_second_task(method, phase):
    learner = Learner(method, "bc", "cpu", SMALL, Views(workload.stream(SMALL)), phase)
    assert (learner.task, learner.phase.name) == (1, phase)
    before = [p.detach().clone() for p in learner.method.parameters()]
    learner.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.method.parameters(), strict=True))


def test_a_learner_leaves_out_phases_that_do_not_take_place():
    """compoformer with one module for all: the second task trains none."""
    options = {"meaning": "data", "reuse": "always"}
    learner = Learner("compoformer", "bc", "cpu", SMALL, Views(workload.stream(SMALL)), "compose", options=options)
    assert (learner.task, learner.phase.name) == (1, "compose")
    with pytest.raises(ValueError, match="does not come to a phase train"):
        Learner("compoformer", "bc", "cpu", SMALL, Views(workload.stream(SMALL)), "train", options=options)
