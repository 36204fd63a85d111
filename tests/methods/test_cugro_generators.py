"""cugro's generators: the one of observations is told the time and learns fast; of dreams both learn what they said before."""

import numpy as np
import pytest
import torch
from tiny import Lab, begin, config

from perdure.continual.episode_times import WAVES
from perdure.continual.state_model import TOLD
from perdure.core.method import Step
from perdure.run_config import resolve


def learned(tasks=1, **options):
    """A lab that has learned its first tasks."""
    return Lab(config("cugro", "sfbc", tasks=3, **options)).learn(*range(tasks))


@pytest.mark.parametrize(("options", "rate", "told"), [
    ({}, 3.0, True), ({"state_rate": 1.0, "timed": False}, 1.0, False), ({"replay": "vae"}, 1.0, True),
    ({"compat": True, "policy_options": {"evaluations": 4}}, 1.0, False),
])  # fmt: skip
def test_the_state_generator_learns_fast_and_is_told_the_time(options, rate, told):
    lab, seen = Lab(config("cugro", "sfbc", tasks=2, **options)), []
    lab.learn(0)
    states, model = begin(lab, 1, "states"), lab.method.states
    learn, loss = model.learn, model.net.loss
    model.learn = lambda descend, parts, *rest, **more: seen.append(parts[-1]) or learn(descend, parts[-1:], *rest, **more)
    model.net.loss = lambda part, x, told, taught: seen.append(x) or seen.append(told[:, TOLD:]) or loss(part, x, told, taught)
    states.update(Step(0, 1, "states", 0))
    assert lab.method.recipes["states generator"]["recipe"]["lr"] == pytest.approx(rate * lab.method.config.learning_rate)
    batch, x, waves = seen[:3]
    assert waves.shape[1] == (WAVES if told else 0)
    torch.testing.assert_close(x, model.scaled(batch.obs[:, 0], batch.task, batch.tasks, batch.timestep[:, 0]))
    if told:
        later = model.scaled(batch.obs[:, 0], batch.task, batch.tasks, batch.timestep[:, 0] + 3)
        assert not torch.allclose(x, later), "it is on the scale of the moment"
        longest = torch.tensor([lab.access(k).current.sampler.timestep.max() + 1 for k in (0, 1)])[batch.task]
        torch.testing.assert_close(waves[:, 0], torch.sin(batch.timestep[:, 0] / longest * torch.pi / 2), atol=1e-4, rtol=1e-4)
        assert batch.timestep[batch.task == 0].unique().numel() > 1, "dreams are of several times"


@pytest.mark.parametrize("part", ["behaviour", "states"])
def test_an_earlier_task_is_taught_what_the_models_said_before(part):
    """The loss of dreams is zero for a model that has not changed since, and of new pairs it is what it was."""
    lab = learned(1)
    phase = begin(lab, 1, part)
    seen, step = [], Step(0, 1, part, 0)
    for model, name in ((lab.method.policy, "behaviour"), (lab.method.states, "states")):
        model.load_state_dict(lab.method.teachers.of(name), strict=False)
    new, old = lab.method._mixed(lab.access(1).current, step, [])
    assert bool(old.extra["taught"].all()) and new.extra == {}
    for half in (new, old):
        torch.manual_seed(0)
        if part == "behaviour":
            seen.append(lab.method.policy.behaviour_loss(half, teacher=lab.method.teachers.of("behaviour")).mean())
        else:
            seen.append(lab.method.states.loss(half, "generator", teacher=lab.method.teachers.of("states")).mean())
    assert float(seen[1].detach()) < 1e-9 < 1e-2 < float(seen[0].detach())
    assert np.isfinite(float(next(iter(phase.update(step).values()))))
    assert lab.method.teachers.of("behaviour") is not None


def test_teachers_are_let_go_of_with_the_dreams_and_absent_where_nothing_is_dreamed():
    lab = learned(1)
    begin(lab, 1, "critic")
    assert set(lab.method.teachers.copies) == {"behaviour", "states"}
    lab.method._finish(1, lab.access(1))
    assert not lab.method.teachers.copies and not lab.method.dreams.tasks()
    for options, models in (({"replay": "oracle"}, set()), ({"distillation": False}, set()), ({"replay": "vae"}, {"behaviour"})):
        other = learned(1, **options)
        begin(other, 1, "behaviour")
        assert set(other.method.teachers.copies) == models


def test_a_few_real_pairs_are_not_taught():
    lab = learned(2, collapse=1e-6, on_collapse="coreset", coreset=5)
    begin(lab, 2, "behaviour")
    real = lab.method.noticed.with_coreset(2)
    assert not lab.method._mixed(lab.access(2).current, Step(0, 2, "behaviour", 0), real)[1].extra["taught"].any()


def test_dreams_are_drawn_at_the_times_of_the_data():
    """Of a generator that has learned, early dreams look like early data."""
    lab = Lab(config("cugro", "sfbc", tasks=1, state_steps=600, state_width=64, batch=64, episodes=40, evaluations=10)).learn(0)
    sampler, g = lab.access(0).current.sampler, torch.Generator().manual_seed(0)
    obs, _, steps = lab.method._made(0, 500, g)
    assert float(steps.float().mean()) == pytest.approx(float(sampler.timestep.float().mean()), rel=0.1)
    real = sampler.obs[torch.arange(len(sampler.timestep)) + sampler.episode]
    late = steps > steps.float().median()
    apart = real[sampler.timestep > sampler.timestep.float().median()].mean(0) - real[sampler.timestep == 0].mean(0)
    found = obs[late].mean(0) - obs[steps == steps.min()].mean(0)
    assert float(torch.nn.functional.cosine_similarity(apart, found, dim=0)) > 0.9


@pytest.mark.parametrize(("profile", "compat", "updates", "width"), [("cpu", False, 2000, 128), ("paper", True, 50_000, 512)])
def test_the_state_generator_is_as_wide_and_learns_as_long_as_the_behaviour_model(profile, compat, updates, width):
    lab = Lab(resolve("cugro", "toy", profile=profile, method_options={"compat": compat}))
    phases = {phase.name: phase.steps for phase in lab.phases(0)}
    assert phases["states"] == phases["behaviour"] == updates
    lab.method.open_task(lab.stream.tasks[0], lab.access(0))
    sizes = [{tuple(p.shape) for name, p in net.named_parameters() if ".down.0." in f".{name}"}
             for net in (*lab.method.policy.denoisers.values(), lab.method._net(2).denoiser)]
    assert all((width, width) in known for known in sizes)
