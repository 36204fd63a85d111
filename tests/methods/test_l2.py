"""l2: without strength it is finetuning; with strength the last task's weights pull, all equally."""

import json

import pytest
import torch
from penalties import penalty_enters_the_gradient
from safetensors.torch import load_file
from tiny import Lab, config, execute
from torch.nn import Parameter

from perdure.core.errors import UsageError


def agent(folder, learned):
    """Tensors of the policy that a run published after `learned` tasks."""
    tensors = load_file(folder / "agent" / str(learned) / "tensors.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("policy.")}


def same(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_no_strength_equals_finetune_bit_for_bit(policy, tmp_path):
    for name, options in (("finetune", {}), ("l2", {"strength": 0.0}), ("strong", {"strength": 10.0})):
        execute(config("finetune" if name == "finetune" else "l2", policy, tasks=2, **options), tmp_path / name)
    for learned in (1, 2):
        plain = agent(tmp_path / "finetune", learned)
        assert same(agent(tmp_path / "l2", learned), plain)
        assert same(agent(tmp_path / "strong", learned), plain) == (learned == 1), (
            "nothing pulls before the second task"
        )
    cells = [json.loads((tmp_path / name / "scores.json").read_text())["cells"] for name in ("finetune", "l2")]
    assert cells[0] == cells[1]


def test_only_the_last_task_pulls_and_every_weight_equally():
    lab = Lab(config("l2", strength=1.0)).learn(0)
    first = {name: p.detach().clone() for name, p in lab.method.policy.shared().items()}
    lab.learn(1)
    anchor = lab.method.anchor
    assert set(anchor.shapes) == set(first)
    for name, p in lab.method.policy.shared().items():
        assert torch.equal(anchor._buffer("anchor", name), p), name
        assert torch.equal(anchor._buffer("importance", name), torch.ones_like(p)), name
    assert not all(torch.equal(anchor._buffer("anchor", name), value) for name, value in first.items())


def test_penalised_optimum_of_a_quadratic_tends_to_the_anchor():
    """min a/2 (x - c)^2 + s/2 (x - x0)^2 is at (a c + s x0) / (a + s); the anchor is what the method holds after two tasks."""
    anchor = Lab(config("l2")).learn(0, 1).method.anchor.double()
    name = next(iter(anchor.shapes))
    x0 = anchor._buffer("anchor", name)
    g = torch.Generator().manual_seed(1)
    a, c = (torch.rand(x0.shape, generator=g, dtype=torch.float64) + 0.5 for _ in range(2))
    gaps = []
    for s in (0.0, 0.1, 1.0, 10.0, 100.0, 1e6):
        x = Parameter(torch.zeros_like(x0))
        for _ in range(200):  # gradient descent with the gradient that training would use
            x.grad = a * (x.detach() - c)
            anchor.add_gradient({name: x}, s)
            x.data -= x.grad / (1.5 + s)
        torch.testing.assert_close(x.data, (a * c + s * x0) / (a + s))
        gaps.append(float((x.data - x0).norm()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-5 * gaps[0]


def test_penalty_enters_the_training_gradient():
    penalty_enters_the_gradient("l2")


def test_training_ends_nearer_to_the_anchor_with_more_strength():
    gaps = []
    for strength in (0.0, 1.0, 10.0):
        lab = Lab(config("l2", strength=strength, steps=60)).learn(0)
        before = {name: p.detach().clone() for name, p in lab.method.policy.shared().items()}
        lab.learn(1)
        gaps.append(
            sum(float((p.detach() - before[name]).square().sum()) for name, p in lab.method.policy.shared().items())
        )
    assert gaps[0] > 1.5 * gaps[1] > 2 * gaps[2], gaps


@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_wrong_strength_is_named(strength):
    with pytest.raises(UsageError, match=r"method\.strength"):
        config("l2", strength=strength)
