"""lwf: what the old heads say of the new data is held, through the old trunk's answers, and nothing is kept between tasks."""

import pytest
import torch
from penalties import no_strength_is_finetuning
from tiny import Lab, config
from torch.distributions import Categorical, Normal, kl_divergence

from perdure.core.errors import UsageError
from perdure.core.method import Step


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("compat", [False, True])
def test_no_strength_reproduces_finetuning_bit_for_bit(policy, compat):
    no_strength_is_finetuning("lwf", policy, compat=compat)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_the_first_task_is_finetuning_bit_for_bit(policy):
    mine, plain = Lab(config("lwf", policy, strength=3.0)).learn(0), Lab(config("finetune", policy)).learn(0)
    theirs = dict(plain.method.policy.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in mine.method.policy.named_parameters())


def begun(policy="bc", stream="toy", task=2, updates=5, **options):
    """In the middle of a task after others were learned."""
    lab = Lab(config("lwf", policy, stream, **options)).learn(*range(task))
    phase = lab.phases(task)[0]
    phase.begin()
    logs = [phase.update(Step(0, task, "train", index)) for index in range(updates)]
    return lab, phase, logs


@pytest.mark.parametrize(("policy", "stream"), [("bc", "toy"), ("bc", "toy-discrete"), ("dt", "toy")])
def test_the_term_is_not_zero_on_the_second_task(policy, stream):
    """Before the first update both trunks are one; afterwards they differ."""
    lab, _, logs = begun(policy, stream, task=1, updates=4, learning_rate=0.02)
    if policy == "bc":  # without dropout
        assert float(logs[0]["distil"]) == pytest.approx(0, abs=1e-7)
    assert all(float(log["distil"]) > 1e-6 for log in logs[1:])
    old = dict(lab.method.old.named_parameters())
    assert all(old[name].grad is None for name in old)
    assert any(float(p.grad.abs().max()) > 0 for p in lab.method.policy.private(0).values())


@pytest.mark.parametrize(
    ("policy", "stream", "options"),
    [("bc", "toy", {}), ("bc", "toy-discrete", {}), ("dt", "toy", {}), ("dt", "toy-discrete", {}),
     ("bc", "toy", {"std": "learned"}), ("bc", "toy", {"normaliser": "first"})],
)  # fmt: skip
@pytest.mark.parametrize("compat", [False, True])
def test_it_is_the_sum_over_heads_of_torchs_divergence(policy, stream, options, compat):
    """One head at a time, through whole policies, with the new task's normaliser and over valid steps only."""
    if policy == "dt":
        options = options | {"dropout": 0.0}
    lab, *_ = begun(policy, stream, policy_options=options, compat=compat, learning_rate=0.02)
    method = lab.method
    net, old = method.policy, method.old
    batch = lab.access(2).current.windows(net.context, 8, Step(0, 2, "probe", 0))
    heads = method._old_heads(batch)
    assert heads == (0, 1)
    fit, apart = method._losses(batch, old, heads)
    torch.testing.assert_close(fit, net.loss(batch))
    wanted, warm = 0.0, 1.0 if compat else 2.0
    with torch.no_grad():
        features = [side.features(net.inputs(batch)) for side in (old, net)]
        for head in heads:
            task = torch.full_like(batch.task, head)
            before = old.distribution(features[0], task, (head,))
            after = (old if compat else net).distribution(features[1], task, (head,))
            if before.logits is None:
                sides = [Normal(out.mean, out.log_std.exp()) for out in (before, after)]
                steps = kl_divergence(*sides).sum(-1)
            else:
                steps = kl_divergence(*(Categorical(logits=out.logits / warm) for out in (before, after)))
            wanted = wanted + (steps * batch.valid).sum(-1) / batch.valid.sum(-1)
    torch.testing.assert_close(apart.detach(), wanted, rtol=1e-3, atol=1e-6)
    assert float(wanted.mean()) > 1e-4


def test_it_enters_the_loss_with_its_strength():
    gradients = []
    for strength in (1e-9, 1.0, 3.0):
        lab, phase, _ = begun(task=1, updates=0, clip=0.0, strength=strength)
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in lab.method.policy.shared().values():
                p.add_(0.05 * torch.randn(p.shape, generator=g))
        lab.method.optimizers["policy"].step = lambda: None
        phase.update(Step(0, 1, "train", 0))
        gradients.append(torch.cat([p.grad.flatten() for p in lab.method.policy.shared().values()]))
    torch.testing.assert_close(gradients[2] - gradients[0], 3 * (gradients[1] - gradients[0]), rtol=1e-3, atol=1e-5)
    assert float((gradients[1] - gradients[0]).norm()) > 1e-3


@pytest.mark.parametrize("compat", [False, True])
def test_old_heads_learn_but_for_the_released_code(compat):
    lab, *_ = begun(task=1, compat=compat)
    old = dict(lab.method.old.named_parameters())
    moved = [not torch.equal(p, old[name]) for name, p in lab.method.policy.private(0).items()]
    assert all(moved) if not compat else not any(moved)


def test_the_copy_stays_as_it_was_and_answers_without_dropout():
    lab, phase, _ = begun("dt", task=1, updates=0)
    before = {name: value.clone() for name, value in lab.method.old.state_dict().items()}
    lab.method.train()
    assert lab.method.policy.training
    assert not lab.method.old.training
    phase.update(Step(0, 1, "train", 0))
    assert all(torch.equal(value, before[name]) for name, value in lab.method.old.state_dict().items())


def test_nothing_is_kept_between_tasks():
    lab = Lab(config("lwf")).learn(0, 1, 2)
    assert not [name for name in lab.method.state_dict() if not name.startswith("policy.")]
    assert lab.method.architecture()["old"] is None


def test_heads_of_other_spaces_have_nothing_to_say():
    lab = Lab(config("lwf", stream="toy-spaces"))
    keys = [(task.spec.obs_key, task.spec.action_key) for task in lab.stream.tasks]
    for task in range(len(keys)):
        phase = lab.phases(task)[0]
        phase.begin()
        batch = lab.access(task).current.windows(1, 4, Step(0, task, "probe", 0))
        assert lab.method._old_heads(batch) == tuple(t for t in range(task) if keys[t] == keys[task])
        phase.update(Step(0, task, "train", 0))
        phase.end()
        lab.method.forget_optimizers()
    assert len(set(keys)) > 1


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_a_single_head_is_asked_once(policy):
    lab, _, logs = begun(policy, policy_options={"heads": "single"})
    batch = lab.access(2).current.windows(lab.method.policy.context, 4, Step(0, 2, "probe", 0))
    assert len(lab.method._old_heads(batch)) == 1
    assert float(logs[-1]["distil"]) > 0


def test_more_strength_keeps_more_of_the_old_answers():
    apart = []
    for strength in (1e-9, 1.0, 30.0):
        _, _, logs = begun(task=1, updates=60, strength=strength, batch=32, learning_rate=0.01)
        apart.append(sum(float(log["distil"]) for log in logs[-10:]))
    assert apart[0] > 1.5 * apart[1] > 3 * apart[2], apart


def test_a_policy_without_heads_is_refused():
    from perdure.core.policy import Policy
    from perdure.methods.lwf import LwF, LwFConfig

    class Plain(Policy):
        add_task = forward = actor = private = architecture = rebuild = tasks = lambda *_: {}

    with pytest.raises(UsageError, match="the policy is Plain; lwf needs one with trunk and heads"):
        LwF(LwFConfig(), Plain, 0)


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("temperature", 0.0)])
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field} is {value}"):
        config("lwf", **{field: value})
