"""mas: per-sample sensitivities that survive convergence, their sum, and the released importance that does not."""

import pytest
import torch
from penalties import more_strength_stays_nearer, no_strength_is_finetuning, optimum_tends_to, penalty_enters_the_gradient
from tiny import Lab, config

from perdure.continual.importance import output_sensitivity
from perdure.core.errors import UsageError
from perdure.core.method import Step


def importance(lab):
    anchor = lab.method.anchor
    return {name: anchor._buffer("importance", name).clone() for name in anchor.shapes}


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("compat", [False, True])
def test_no_strength_reproduces_finetuning_bit_for_bit(policy, compat):
    no_strength_is_finetuning("mas", policy, compat=compat)


def test_importance_is_the_mean_sensitivity_of_its_batches_summed_over_tasks():
    lab, wanted = Lab(config("mas", importance_batches=3, importance_batch=16)), {}
    for task in (0, 1):
        lab.learn(task)
        policy, shared = lab.method.policy, lab.method.policy.shared()
        view, new = lab.access(task).current, dict.fromkeys(shared, 0.0)
        for index in range(3):
            batch = view.windows(1, 16, Step(0, task, "importance", index))
            for name, value in output_sensitivity(policy, batch, shared).items():
                new[name] = new[name] + value
        mean = torch.cat([value.flatten() for value in new.values()]).mean()
        wanted = {name: wanted.get(name, 0.0) + value / mean for name, value in new.items()}
        for name, value in importance(lab).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)
            assert torch.equal(lab.method.anchor._buffer("anchor", name), shared[name])


def test_at_convergence_the_released_importance_vanishes_and_the_sensitivity_does_not():
    """A policy that fits its data to the last digit: copies of its own actions."""
    sizes = {}
    for compat in (False, True):
        lab = Lab(config("mas", compat=compat, normalise=not compat, steps=1, learning_rate=1e-9, weight_decay=0.0))
        train, estimate = lab.phases(0)
        train.begin()
        sampler = lab.views.views[0].sampler
        plain, policy = sampler.windows_at, lab.method.policy

        def own_actions(start, length, plain=plain, policy=policy):
            batch = plain(start, length)
            return type(batch)(**{**batch.__dict__, "action": policy(batch).mean.detach()})

        sampler.windows_at = own_actions
        lab.play(0, estimate)
        sampler.windows_at = plain
        anchor = lab.method.anchor
        sizes[compat] = float(torch.cat([anchor._buffer("importance", name).flatten() for name in anchor.shapes]).mean())
    assert sizes[True] < 1e-6 < 1e-3 < sizes[False]


def test_compat_mixes_the_size_of_one_mean_gradient_with_the_old_importance():
    lab, wanted = Lab(config("mas", compat=True, strength=10.0, steps=20)), {}
    for task in (0, 1):
        lab.learn(task)
        shared = lab.method.policy.shared()
        batch = lab.access(task).current.windows(1, 32, Step(0, task, "importance", 0))
        loss = (lab.method.policy(batch).mean - batch.action).square().mean()
        for name, g in zip(shared, torch.autograd.grad(loss, list(shared.values())), strict=True):
            wanted[name] = 0.5 * wanted.get(name, 0.0) + 0.5 * g.abs()
        for name, value in importance(lab).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-9)


def test_penalised_optimum_of_a_quadratic_tends_to_the_anchor():
    optimum_tends_to(Lab(config("mas")).learn(0, 1).method.anchor)


def test_penalty_enters_the_training_gradient():
    penalty_enters_the_gradient("mas")


def test_more_strength_stays_nearer_to_the_anchor():
    more_strength_stays_nearer("mas", (0.0, 0.1, 10.0))


def test_the_encoder_of_another_space_keeps_its_importance_and_stays():
    lab = Lab(config("mas", stream="toy-spaces", strength=10.0)).learn(0)
    name = next(n for n in lab.method.anchor.shapes if n.startswith("encoders"))
    before, weight = importance(lab)[name], lab.method.policy.get_parameter(name).detach().clone()
    lab.learn(1)
    other = [n for n in lab.method.anchor.shapes if n.startswith("encoders") and n.endswith("weight")]
    assert len(other) == 2
    assert torch.equal(importance(lab)[name], before)
    assert torch.equal(lab.method.policy.get_parameter(name), weight)
    assert float(before.mean()) > 0


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("importance_batches", 0), ("importance_batch", -3)])
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field} is {value}"):
        config("mas", **{field: value})
