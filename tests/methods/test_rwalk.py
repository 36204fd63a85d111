"""rwalk: F, s and their mixture over tasks against a calculation from the updates as seen from outside."""

import pytest
import torch
from penalties import (
    followed,
    more_strength_stays_nearer,
    no_strength_is_finetuning,
    optimum_tends_to,
    penalty_enters_the_gradient,
)
from tiny import Lab, config

from perdure.core.errors import UsageError
from perdure.core.method import Step

COMPAT = {"compat": True}


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("options", [{}, COMPAT], ids=["canonical", "compat"])
def test_no_strength_reproduces_finetuning_bit_for_bit(policy, options):
    no_strength_is_finetuning("rwalk", policy, **options)


def saved(updates, name):
    """-gradient * displacement, summed."""
    return sum(-u.gradients[name] * (u.after[name] - u.before[name]) for u in updates)


def walk(updates, name, fisher, interval, decay, damping):
    """F and s of one weight tensor after a task, by the formulas."""
    score = 0.0
    for first in range(0, len(updates), interval):
        part = updates[first : first + interval]
        squares = sum(u.gradients[name].square() for u in part) / len(part)
        fisher = squares if fisher is None else fisher
        way = (part[-1].after[name] - part[0].before[name]).square()
        score = score + saved(part, name).clamp_min(0) / (0.5 * fisher * way + damping)
        fisher = (1 - decay) * fisher + decay * squares
    return fisher, score


def flat(values):
    return torch.cat([value.flatten() for value in values.values()])


@pytest.mark.parametrize("normalise", ["mean", "range"])
def test_fisher_score_and_importance_follow_the_formulas(normalise):
    """Eight updates with an interval of three, so that a rest remains; a damping as small as what it is added to."""
    options = {"interval": 3, "fisher_decay": 0.7, "damping": 1e-7, "normalise": normalise}
    lab = Lab(config("rwalk", strength=0.5, clip=0.05, learning_rate=0.05, **options))
    fisher, score = {}, {}
    for task in (0, 1, 2):
        updates = followed(lab, task, finish=True)
        assert min(float(saved(updates[3:6], name).min()) for name in updates[0].gradients) < -1e-4, "some went the wrong way"
        for name in updates[0].gradients:
            fisher[name], new = walk(updates, name, fisher.get(name), 3, 0.7, 1e-7)
            score[name] = new if task == 0 else (score[name] + new) / 2
        wide = [flat(part).max() if normalise == "range" else flat(part).mean() for part in (fisher, score)]
        for name, value in fisher.items():
            kept, anchor = lab.method.kept, lab.method.anchor
            torch.testing.assert_close(kept.get("fisher", [name])[0], value, rtol=1e-3, atol=1e-10)
            torch.testing.assert_close(kept.get("score", [name])[0], score[name], rtol=2e-2, atol=1e-3)
            wanted = value / wide[0] + score[name] / wide[1]
            torch.testing.assert_close(anchor._buffer("importance", name), wanted, rtol=2e-2, atol=1e-4)
            assert torch.equal(anchor._buffer("anchor", name), updates[-1].after[name])
    assert sorted(lab.method.kept.shapes) == ["fisher", "score"]
    assert lab.method.architecture()["path"] == {"parts": {}, "updates": 0}


def test_over_small_steps_the_scores_add_up_to_the_fall_of_the_loss():
    """With a large damping, 1 / damping of what each interval saved; all of it where the loss falls for every weight."""
    lab = Lab(config("rwalk", steps=30, batch=64, learning_rate=1e-4, clip=0.0, weight_decay=0.0, damping=1e4, interval=30))
    phase, view, policy = lab.phases(0)[0], lab.access(0).current, lab.method.policy
    phase.begin()
    plain = view.windows
    view.windows = lambda length, n, step, **rest: plain(length, n, Step(0, 0, "fixed", 0), **rest)
    phase = lab.method.phases(lab.stream.tasks[0], type("A", (), {"current": view})())[0]
    batch = view.windows(1, 64, None)
    head = {name: p.detach().clone() for name, p in policy.private(0).items()}
    before = float(policy.loss(batch).mean())
    for index in range(30):
        phase.update(Step(0, 0, "train", index))
        with torch.no_grad():
            for name, p in policy.private(0).items():
                p.copy_(head[name])  # the fall is that of the shared weights alone
    fall = before - float(policy.loss(batch).mean())
    total = float(flat({name: lab.method.kept.get("new", [name])[0] for name in lab.method.kept.names("new")}).sum()) * 1e4
    assert fall > 1e-3
    assert total == pytest.approx(fall, rel=0.05)


def test_compat_is_the_released_formula():
    lab = Lab(config("rwalk", strength=1000.0, steps=12, **COMPAT))
    fisher, score = {}, {}
    for task in (0, 1):
        updates = followed(lab, task)
        shared = lab.method.policy.shared()
        batch = lab.access(task).current.windows(1, 32, Step(0, task, "fisher", 0))
        loss = (lab.method.policy(batch).mean - batch.action).square().mean()
        gradients = dict(zip(shared, torch.autograd.grad(loss, list(shared.values())), strict=True))
        estimate = lab.phases(task)[1]
        lab.play(task, estimate)
        lab.method.forget_optimizers()
        for name, g in gradients.items():
            fisher[name] = 0.5 * fisher.get(name, 0.0) + 0.5 * g.square()
            way = (updates[-1].after[name] - updates[0].before[name]).square()
            score[name] = 0.5 * (score.get(name, 0.0) + saved(updates, name).clamp_min(0) / (fisher[name] * way + 0.1))
            importance = lab.method.anchor._buffer("importance", name)
            torch.testing.assert_close(importance, fisher[name] + score[name], rtol=1e-3, atol=1e-8)
            assert torch.equal(lab.method.anchor._buffer("anchor", name), updates[-1].after[name])


def test_the_released_penalty_has_no_half():
    gradients = []
    for options in ({"compat": True, "strength": 2.0}, {"strength": 4.0}):
        lab = Lab(config("rwalk", clip=0.0, **options)).learn(0)
        anchor, phase = lab.method.anchor, lab.phases(1)[0]
        for name in anchor.shapes:
            anchor._buffer("importance", name).fill_(1.0)
            anchor._buffer("anchor", name).fill_(0.0)
        phase.begin()
        with torch.no_grad():
            for p in lab.method.policy.parameters():
                p.fill_(0.01)
        lab.method.optimizers["policy"].step = lambda: None
        phase.update(Step(0, 1, "train", 0))
        gradients.append({name: p.grad for name, p in lab.method.policy.shared().items()})
    assert all(torch.equal(g, gradients[1][name]) for name, g in gradients[0].items())


def test_the_encoder_of_another_space_keeps_its_fisher_and_score():
    lab = Lab(config("rwalk", stream="toy-spaces", strength=1.0)).learn(0)
    name = next(n for n in lab.method.anchor.shapes if n.startswith("encoders"))
    parts = ("fisher", "score")
    before = [lab.method.kept.get(part, [name])[0].clone() for part in parts]
    importance = lab.method.anchor._buffer("importance", name).clone()
    other = next(t.index for t in lab.stream.tasks if t.spec.obs_key != lab.stream.tasks[0].spec.obs_key)
    lab.learn(other)
    assert all(torch.equal(lab.method.kept.get(part, [name])[0], value) for part, value in zip(parts, before, strict=True))
    assert torch.equal(lab.method.anchor._buffer("importance", name), importance)
    assert all(float(value.mean()) > 0 for value in before)


def test_penalised_optimum_of_a_quadratic_tends_to_the_anchor():
    optimum_tends_to(Lab(config("rwalk")).learn(0, 1).method.anchor)


def test_penalty_enters_the_training_gradient():
    penalty_enters_the_gradient("rwalk")


def test_more_strength_stays_nearer_to_the_anchor():
    more_strength_stays_nearer("rwalk", (0.0, 0.1, 10.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("strength", -1.0), ("interval", 0), ("fisher_decay", 0.0), ("fisher_decay", 1.5), ("damping", 0.0), ("normalise", "max")],
)
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field}"):
        config("rwalk", **{field: value})
