"""ewc: with no strength it is finetuning, with much it stays at the anchor; importances are per-sample ones."""

import pytest
import torch
from penalties import more_strength_stays_nearer, no_strength_is_finetuning, optimum_tends_to, penalty_enters_the_gradient
from tiny import Lab, config

from perdure.continual.importance import fisher_diagonal
from perdure.core.errors import UsageError
from perdure.core.method import Step


def drift(lab, anchor):
    return max(float((p.detach() - anchor[name]).abs().max()) for name, p in lab.method.policy.shared().items())


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("options", [{"merge": "sum"}, {"merge": "online"}, {"compat": True}], ids=str)
def test_no_strength_reproduces_finetuning_bit_for_bit(policy, options):
    no_strength_is_finetuning("ewc", policy, **options)


def test_more_strength_stays_nearer_to_the_anchor():
    more_strength_stays_nearer("ewc", (0.0, 0.1, 10.0), fisher_batches=4, fisher_batch=32)


def test_huge_strength_keeps_the_shared_weights_within_the_optimizers_first_steps():
    """AdamW's step has the size of the learning rate whatever the gradient: drift is bounded by about twice that, not 0."""
    rate = 1e-3
    options = {"steps": 60, "weight_decay": 0.0, "learning_rate": rate, "clip": 0.0, "normalise": True}
    free, bound = (Lab(config("ewc", strength=s, **options)).learn(0) for s in (0.0, 1e6))
    anchor = {name: p.detach().clone() for name, p in free.method.policy.shared().items()}
    important = {name: bound.method.anchor._buffer("importance", name) > 1e-2 for name in anchor}
    free.learn(1)
    bound.learn(1)
    moved = {
        name: (p.detach() - anchor[name]).abs()[important[name]] for name, p in bound.method.policy.shared().items()
    }
    assert max(float(m.max()) for m in moved.values() if m.numel()) < 2.5 * rate
    assert drift(free, anchor) > 10 * rate


def test_penalty_enters_the_training_gradient():
    penalty_enters_the_gradient("ewc")


def test_penalised_optimum_of_a_quadratic_tends_to_the_anchor():
    optimum_tends_to(Lab(config("ewc")).learn(0, 1).method.anchor)


@pytest.mark.parametrize("fisher", ["expected", "empirical"])
@pytest.mark.parametrize(("merge", "normalise"), [("sum", True), ("sum", False), ("online", True)])
def test_importance_is_the_mean_of_its_batches_merged_as_asked(fisher, merge, normalise):
    lab = Lab(config("ewc", fisher=fisher, merge=merge, decay=0.7, normalise=normalise, fisher_batches=3, fisher_batch=16))
    wanted, at = {}, {}
    for task in (0, 1, 2):
        lab.learn(task)
        policy, shared = lab.method.policy, lab.method.policy.shared()
        new = dict.fromkeys(shared, 0.0)
        for index in range(3):
            step = Step(0, task, "fisher", index)
            batch = lab.access(task).current.windows(1, 16, step)
            for name, value in fisher_diagonal(policy, batch, shared, step.generator("fisher"), fisher).items():
                new[name] = new[name] + value / 3
        mean = torch.cat([value.flatten() for value in new.values()]).mean() if normalise else 1.0
        for name, p in shared.items():
            value, old = new[name] / mean, wanted.get(name, 0.0) * (0.7 if merge == "online" else 1.0)
            mixed = torch.where(old + value > 0, (old * at.get(name, 0.0) + value * p.detach()) / (old + value), p.detach())
            wanted[name], at[name] = old + value, p.detach().clone() if merge == "online" else mixed
            torch.testing.assert_close(lab.method.anchor._buffer("importance", name), wanted[name], rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(lab.method.anchor._buffer("anchor", name), at[name], rtol=1e-4, atol=1e-6)


def test_compat_takes_the_squared_mean_gradient_of_one_batch_and_mixes_it_with_the_old():
    """As in the code released with CompoFormer: 0.5 F_old + 0.5 F_new from the first task on, one moving anchor."""
    lab = Lab(config("ewc", compat=True, strength=5000.0, steps=20))
    wanted = {}
    for task in (0, 1):
        train, fisher = lab.phases(task)
        lab.play(task, train)
        shared = lab.method.policy.shared()
        batch = lab.access(task).current.windows(1, 32, Step(0, task, "fisher", 0))
        loss = (lab.method.policy(batch).mean - batch.action).square().mean()
        for name, g in zip(shared, torch.autograd.grad(loss, list(shared.values())), strict=True):
            wanted[name] = 0.5 * wanted.get(name, 0.0) + 0.5 * g.square()
        assert fisher.steps == 1
        lab.play(task, fisher)
        lab.method.forget_optimizers()
        for name, p in shared.items():
            torch.testing.assert_close(lab.method.anchor._buffer("importance", name), wanted[name], rtol=1e-4, atol=1e-12)
            assert torch.equal(lab.method.anchor._buffer("anchor", name), p)


def test_importance_has_mean_one_per_task():
    lab = Lab(config("ewc")).learn(0)
    values = torch.cat([lab.method.anchor._buffer("importance", n).flatten() for n in lab.method.anchor.shapes])
    assert float(values.mean()) == pytest.approx(1.0, rel=1e-4)
    lab.learn(1)
    values = torch.cat([lab.method.anchor._buffer("importance", n).flatten() for n in lab.method.anchor.shapes])
    assert float(values.mean()) == pytest.approx(2.0, rel=1e-4)


def test_private_heads_are_not_anchored():
    lab = Lab(config("ewc")).learn(0, 1)
    assert not any("heads" in name for name in lab.method.anchor.shapes)


def test_tasks_of_other_spaces_do_not_stop_the_penalty():
    """The encoder of a space that is not in use has no gradient and stays at its anchor."""
    lab = Lab(config("ewc", stream="toy-spaces", strength=10.0)).learn(0)
    encoder = lab.method.policy.encoders["float32-2"].weight.detach().clone()
    lab.learn(1, 2)
    assert torch.equal(lab.method.policy.encoders["float32-2"].weight, encoder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("strength", -1.0), ("fisher", "exact"), ("merge", "mean"), ("decay", 1.5), ("fisher_batches", 0)],
)
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"{field} is|{field} {value}"):
        config("ewc", **{field: value})
