"""agem: the gradient that the optimizer sees never opposes that of the memory; the released form does what it did."""

import pytest
import torch
from tiny import Lab, config

from perdure.continual.replay import loss_through_head
from perdure.core.batch import average, concatenate, mix
from perdure.core.errors import UsageError
from perdure.core.method import Step


def at_task(task, policy="bc", stream="toy", **options):
    """A method that has learned the tasks before and begun this one, and the begun phase."""
    lab = Lab(config("agem", policy, stream, episodes=10, **{"steps": 30, "learning_rate": 0.01} | options))
    lab.learn(*range(task))
    phase = lab.phases(task)[0]
    phase.begin()
    return lab, phase


def seen_gradients(lab, phase, step):
    """Parameters by name, and the gradients at the moment of the optimizer's step."""
    optimizer, taken = lab.method.optimizers["policy"], {}
    names = lab.method.recipes["policy"]["parameters"]
    plain = optimizer.step

    def watched():
        taken.update({n: p.grad.clone() for n, p in zip(names, optimizer.param_groups[0]["params"], strict=True)
                      if p.grad is not None})

    optimizer.step = watched
    phase.update(step)
    optimizer.step = plain
    return taken


def gradients_of(lab, loss):
    parameters = dict(lab.method.named_parameters())
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: value for name, value in zip(parameters, values, strict=True) if value is not None}


def dot(a, b):
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a.keys() & b.keys())


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-spaces", "toy-discrete"])
def test_the_gradient_of_a_step_never_opposes_the_memory(policy, stream):
    lab, phase = at_task(2, policy, stream, clip=0.0, policy_options={"dropout": 0.0} if policy == "dt" else None)
    opposed = 0
    for index in range(12):
        step = Step(0, 2, "train", index)
        reference = gradients_of(lab, average(lab.method.policy.loss, lab.method.memory.draw(8, step)))
        batch = lab.access(2).current.windows(lab.method.policy.context, 8, step)
        plain = gradients_of(lab, average(lab.method.policy.loss, batch))
        taken = seen_gradients(lab, phase, step)
        assert dot(taken, reference) >= -1e-6 * (dot(taken, taken) * dot(reference, reference)) ** 0.5
        if dot(plain, reference) < 0:
            opposed += 1
            factor = dot(plain, reference) / dot(reference, reference)
            for name, value in taken.items():
                wanted = plain.get(name, torch.zeros_like(value)) - factor * reference.get(name, torch.zeros_like(value))
                torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)
        else:
            assert all(torch.equal(value, plain[name]) if name in plain else not value.any() for name, value in taken.items())
        phase.update(step)
    assert opposed > 0 or stream != "toy", "the tasks pull apart, so some gradients are projected"


def test_clipping_follows_the_projection():
    """Which shortens a gradient, so that one clipped before it would end below the limit."""
    lab, phase = at_task(2, clip=0.01)
    for index in range(12):
        taken = seen_gradients(lab, phase, Step(0, 2, "train", index))
        assert dot(taken, taken) ** 0.5 == pytest.approx(0.01, rel=1e-3)


def test_heads_of_earlier_tasks_take_part():
    lab, phase = at_task(2, clip=0.0)
    moved = [name for i in range(12) for name, value in seen_gradients(lab, phase, Step(0, 2, "train", i)).items() if value.any()]
    assert {"policy.bank.heads.task-0.weight", "policy.bank.heads.task-1.weight"} <= set(moved)


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("compat", [False, True])
def test_the_first_task_is_finetuning_bit_for_bit(policy, compat):
    mine, plain = Lab(config("agem", policy, compat=compat)).learn(0), Lab(config("finetune", policy)).learn(0)
    weights = dict(mine.method.policy.named_parameters())
    for name, p in plain.method.policy.named_parameters():
        assert torch.equal(weights[name], p), name


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_without_reference_samples_it_is_finetuning_bit_for_bit(policy):
    mine, plain = Lab(config("agem", policy, replay=0.0)).learn(), Lab(config("finetune", policy)).learn()
    weights = dict(mine.method.policy.named_parameters())
    for name, p in plain.method.policy.named_parameters():
        assert torch.equal(weights[name], p), name


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_the_reference_of_an_old_sample_does_not_see_the_newest_head_or_normaliser(policy):
    lab, _ = at_task(2, policy)
    net = lab.method.policy.eval()

    def reference():
        batch = mix(lab.method.memory.draw(8, Step(0, 2, "train", 0)))[0]
        return gradients_of(lab, net.loss(batch).sum())

    before = reference()
    with torch.no_grad():
        for p in net.private(2).values():
            p.add_(1.0)
        net.normalizer.get_buffer("mean_2").add_(1.0)
    after = reference()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("task-2" in name for name in before)


def test_it_forgets_less_than_finetuning():
    rise = {}
    for method in ("finetune", "agem"):
        lab = Lab(config(method, steps=150, batch=32, learning_rate=0.01, tasks=2, episodes=20)).learn(0)
        before = lab.loss(0)
        rise[method] = lab.learn(1).loss(0) - before
    assert rise["agem"] < 0.9 * rise["finetune"], rise


# -- as released ------------------------------------------------------------------------------------------------


def test_compat_projects_the_clipped_trunk_against_the_first_stored_batch_through_the_newest_head():
    lab, phase = at_task(2, compat=True, clip=0.05)
    net, opposed = lab.method.policy, 0
    first = concatenate([lab.access(0).current.windows(1, 8, Step(0, 0, "memory", 0))])
    for index in range(30):
        step = Step(0, 2, "train", index)
        whole = gradients_of(lab, loss_through_head(net, first, 2).mean())
        reference = {name: value for name, value in whole.items() if "heads" not in name}
        plain = gradients_of(lab, net.loss(lab.access(2).current.windows(1, 8, step)).mean())
        shrink = min(1.0, 0.05 / (dot(plain, plain) ** 0.5 + 1e-6))
        factor = min(0.0, shrink * dot(plain, reference) / dot(reference, reference))
        taken = seen_gradients(lab, phase, step)
        opposed = min(opposed, factor * (dot(reference, reference) / dot(plain, plain)) ** 0.5 / shrink)
        assert taken.keys() == plain.keys(), "old heads are not trained"
        for name, value in taken.items():
            wanted = shrink * plain[name] - factor * reference.get(name, torch.zeros_like(value))
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)
        phase.update(step)
    assert opposed < -0.2, "the cosine of the most opposed pair"


def test_compat_leaves_old_heads_alone():
    lab = Lab(config("agem", compat=True)).learn(0)
    head = lab.method.policy.bank.heads["task-0"].weight.detach().clone()
    lab.learn(1, 2)
    assert torch.equal(lab.method.policy.bank.heads["task-0"].weight, head)
    assert len(lab.method.memory.order) == 15


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"replay": -1.0}, "method.replay is -1.0; give 0 or a number above 0"),
        ({"compat": True, "memory_bytes": 10_000}, "method.memory_bytes is 10000 and method.compat is true"),
    ],
)
def test_wrong_options_are_named(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        config("agem", **options)
