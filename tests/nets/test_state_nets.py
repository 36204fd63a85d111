"""Generators of states: each learns two modes and whose they are, and the model around them scales, averages and comes back."""

import json

import pytest
import torch

from perdure.continual.dreams import as_windows
from perdure.continual.state_model import StateModel
from perdure.core.distances import coverage, discrepancy, nearest
from perdure.core.policy import Stats
from perdure.core.spec import Box, Spec
from perdure.nets.diffusion import Sampler
from perdure.nets.state_nets import NETS, DiffusionNet

TRAINED = {"diffusion": (600, 0.6, 0.4), "vae": (1500, 0.6, 0.4), "gan": (2000, 1.5, 0.1)}
"""Updates, and how far means and deviations may be off, in deviations of the data. An adversarial network trains its generator in
every fifth update only, and circles around the data."""


SPEC = Spec(Box((2,)), Box((2,), low=(-1.0,) * 2, high=(1.0,) * 2))


def made(kind, size=2, told=16, stays=0):
    if kind != "diffusion":
        return NETS[kind](size, told, 64)
    return DiffusionNet(size, told, 64, scale=1.0, sampler=Sampler("dpm++", 10), left_out=0.1, guidance=0.0, stays=stays)


def model(kind="diffusion", scale="first", averaging=0.01):
    torch.manual_seed(0)
    return StateModel(lambda size: made(kind, size), scale, averaging)


def opened(kind="diffusion", scale="first", averaging=0.01):
    """Two tasks whose states lie around (-1, 0) and (3, 20)."""
    states, data = model(kind, scale, averaging), []
    for task, (x, y) in enumerate([(-1.0, 0.0), (3.0, 20.0)]):
        rows = torch.tensor([x, y]) + torch.randn(2000, 2) * torch.tensor([0.2, 1.0])
        states.add_task(task, Stats(rows.mean(0), rows.std(0), 1.0, 1.0), rows, torch.zeros(2000, dtype=torch.int64))
        data.append(rows)
    return states, data


@pytest.mark.parametrize("kind", list(NETS))
def test_each_kind_learns_which_states_belong_to_which_task(kind):
    """By their means and deviations, in deviations of a task's own data."""
    torch.manual_seed(0)
    (updates, shift, least), (states, data) = TRAINED[kind], opened(kind, scale="range")
    optimizers = {part: torch.optim.AdamW(states.trained(part).values(), **{"lr": 1e-3} | recipe)
                  for part, recipe in states.parts().items()}
    for update in range(updates):
        task = torch.randint(2, (128,))
        rows = torch.stack(data)[task, torch.randint(2000, (128,))]
        for part in states.parts():
            if states.due(part, update):
                optimizers[part].zero_grad()
                states.loss(as_windows(rows, rows, task, (0, 1), SPEC), part).mean().backward()
                optimizers[part].step()
        states.follow()
    for task, rows in enumerate(data):
        drawn = states.draw(task, 500, torch.Generator().manual_seed(1))
        assert bool(((drawn.mean(0) - rows.mean(0)).abs() < shift * rows.std(0)).all()), kind
        assert bool((drawn.std(0) > least * rows.std(0)).all()) and bool((drawn.std(0) < 1.6 * rows.std(0)).all()), kind


def test_draws_stay_near_the_range_of_the_data():
    states, data = opened()
    drawn, width = states.draw(1, 300, None), data[1].amax(0) - data[1].amin(0)
    assert bool((drawn >= data[1].amin(0) - 0.0501 * width).all()) and bool((drawn <= data[1].amax(0) + 0.0501 * width).all())


def test_scales_are_those_of_the_first_task_or_of_each():
    first, data = opened(scale="first")
    own, _ = opened(scale="range")
    index = torch.ones(2000, dtype=torch.int64)
    assert float(first.scaled(data[1], index, (1,)).mean(0)[1]) > 10
    ranged = own.scaled(data[1], index, (1,))
    torch.testing.assert_close(ranged.amax(0), torch.ones(2))
    torch.testing.assert_close(ranged.amin(0), -torch.ones(2))
    mixed = own.scaled(torch.cat([data[0][:1], data[1][:1]]), torch.tensor([0, 1]), (0, 1))
    torch.testing.assert_close(mixed[1], ranged[0])
    torch.testing.assert_close(own.unscaled(ranged, 1), data[1], rtol=1e-4, atol=1e-4)


def test_scales_are_exact_in_bfloat16_too():
    states, data = opened(scale="task")
    index = torch.zeros(2000, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        half = states.scaled(data[0], index, (0,))
    torch.testing.assert_close(half, states.scaled(data[0], index, (0,)))
    torch.testing.assert_close(half.mean(0), torch.zeros(2), atol=1e-4, rtol=0)


def test_a_generator_learns_no_task_vector_that_only_flatters_the_discriminator():
    net, told, x = made("gan"), torch.randn(8, 16, requires_grad=True), torch.randn(8, 2)
    torch.manual_seed(3)
    net.loss("generator", x, told).mean().backward()
    torch.manual_seed(3)
    fresh = told.detach().clone().requires_grad_()
    (-net._judged(net.draw(fresh, None), told.detach())).mean().backward()
    torch.testing.assert_close(told.grad, fresh.grad)


def test_the_average_draws_and_comes_back():
    states, _ = opened(averaging=0.5)
    states.follow()
    before = states.draw(0, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in states.net.parameters():
            p.add_(1.0)
    torch.testing.assert_close(states.draw(0, 4, torch.Generator().manual_seed(0)), before)
    again = model(averaging=0.5)
    again.rebuild(json.loads(json.dumps(states.architecture())))
    again.load_state_dict(states.state_dict())
    torch.testing.assert_close(again.draw(0, 4, torch.Generator().manual_seed(0)), before)
    states.follow()
    assert not torch.allclose(states.draw(0, 4, torch.Generator().manual_seed(0)), before)


def test_guidance_stresses_the_task():
    net, told = made("diffusion"), torch.randn(8, 16)
    torch.nn.init.normal_(net.denoiser.absent)
    plain = net.draw(told, torch.Generator().manual_seed(0))
    net.guidance = 2.0
    assert not torch.allclose(net.draw(told, torch.Generator().manual_seed(0)), plain)


def test_guidance_leaves_the_time_alone():
    """Without the task the prediction still depends on what stays; with none that stays it depends on nothing told."""
    told, absent = torch.randn(8, 16), torch.zeros(8, dtype=torch.bool)
    for stays in (0, 4):
        net = made("diffusion", stays=stays)
        torch.nn.init.normal_(net.denoiser.absent)
        other_task, other_time = told.clone(), told.clone()
        other_task[:, :12], other_time[:, 12:] = torch.randn(8, 12), torch.randn(8, 4)
        plain, moved_task, moved_time = (net.denoiser(torch.ones(8, 2), torch.full((8,), 0.5), c, absent)
                                         for c in (told, other_task, other_time))
        torch.testing.assert_close(plain, moved_task)
        assert torch.allclose(plain, moved_time) == (stays == 0)


def test_distances_of_sets():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 4, generator=g), torch.randn(300, 4, generator=g)
    assert discrepancy(a, a) == pytest.approx(0, abs=1e-3) and discrepancy(a, b) < 0.1 < discrepancy(a + 1, b)
    assert coverage(a, b) > 0.9 and coverage(a[:1].expand(300, -1), b) < 0.1
    both = torch.cat([b, b + 50])
    assert 0.45 < coverage(a, both) < 0.55 and coverage(both, a) > 0.9, "it is of the second set"
    assert float(nearest(a, torch.cat([b, a])).max()) < 1e-2 and float(nearest(a, b).median()) > 0.3
