"""si: the path integral is the data's gradient times the real displacement, and becomes the importance at the task's end."""

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


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_no_strength_reproduces_finetuning_bit_for_bit(policy):
    no_strength_is_finetuning("si", policy)


def integral_of(updates):
    return {n: sum(-u.gradients[n] * (u.after[n] - u.before[n]) for u in updates) for n in updates[0].gradients}


def test_path_integral_sees_neither_penalty_nor_clipping():
    """In the second task, with a strong penalty and a clip that always acts."""
    lab = Lab(config("si", strength=30.0, clip=0.01, steps=12, learning_rate=0.01)).learn(0)
    updates = followed(lab, 1)
    path = lab.method.path
    for name, wanted in integral_of(updates).items():
        torch.testing.assert_close(path.get("integral", [name])[0], wanted, rtol=1e-4, atol=1e-9)
        assert torch.equal(path.get("start", [name])[0], updates[0].before[name])
    assert any(float(wanted.abs().max()) > 1e-5 for wanted in integral_of(updates).values())


@pytest.mark.parametrize("normalise", [False, True])
def test_importance_adds_up_over_tasks(normalise):
    options = {"damping": 0.01, "normalise": normalise, "steps": 20, "learning_rate": 0.02}
    lab, wanted = Lab(config("si", strength=0.5, **options)), {}
    lowest = []
    for task in (0, 1, 2):
        updates = followed(lab, task, finish=True)
        first, last, integral = updates[0].before, updates[-1].after, integral_of(updates)
        new = {n: w.clamp_min(0) / ((last[n] - first[n]).square() + 0.01) for n, w in integral.items()}
        lowest.append(min(float(w.min()) for w in integral.values()))
        mean = torch.cat([value.flatten() for value in new.values()]).mean() if normalise else 1.0
        wanted = {n: wanted.get(n, 0.0) + value / mean for n, value in new.items()}
        for name, value in wanted.items():
            torch.testing.assert_close(lab.method.anchor._buffer("importance", name), value, rtol=1e-3, atol=1e-7)
            assert torch.equal(lab.method.anchor._buffer("anchor", name), last[name])
    assert not normalise or min(lowest) < -1e-4, "some weights went the wrong way"


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_nothing_of_the_path_outlives_the_task(policy):
    lab = Lab(config("si", policy)).learn(0, 1)
    assert not [name for name in lab.method.state_dict() if name.startswith("path")]
    assert lab.method.architecture()["path"] == {"parts": {}, "updates": 0}


def test_the_encoder_of_another_space_keeps_its_importance():
    lab = Lab(config("si", stream="toy-spaces", strength=1.0)).learn(0)
    name = next(n for n in lab.method.anchor.shapes if n.startswith("encoders"))
    before = lab.method.anchor._buffer("importance", name).clone()
    followed = next(t.index for t in lab.stream.tasks if t.spec.obs_key != lab.stream.tasks[0].spec.obs_key)
    lab.learn(followed)
    assert torch.equal(lab.method.anchor._buffer("importance", name), before)
    assert float(before.mean()) > 0


def test_penalised_optimum_of_a_quadratic_tends_to_the_anchor():
    optimum_tends_to(Lab(config("si")).learn(0, 1).method.anchor)


def test_penalty_enters_the_training_gradient():
    penalty_enters_the_gradient("si")


def test_more_strength_stays_nearer_to_the_anchor():
    more_strength_stays_nearer("si", (0.0, 0.1, 10.0))


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("damping", 0.0), ("damping", float("nan"))])
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field}"):
        config("si", **{field: value})
