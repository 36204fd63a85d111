"""clonex: clones what the finished policies did, not the data; without strength it is finetuning."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.batch import average, mix
from perdure.core.errors import UsageError
from perdure.core.method import Step


def learned(tasks=2, policy="bc", stream="toy", **options):
    return Lab(config("clonex", policy, stream, episodes=10, **options)).learn(*range(tasks))


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-spaces", "toy-discrete"])
@pytest.mark.parametrize("nothing", ["strength", "replay"])
def test_without_strength_it_is_finetuning_bit_for_bit(policy, stream, nothing):
    mine, plain = Lab(config("clonex", policy, stream, **{nothing: 0.0})).learn(), Lab(config("finetune", policy, stream)).learn()
    weights = dict(mine.method.policy.named_parameters())
    for name, p in plain.method.policy.named_parameters():
        assert torch.equal(weights[name], p), name


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-discrete"])
@pytest.mark.parametrize("std", ["fixed", "learned"])
def test_the_outputs_kept_are_those_of_the_finished_policy(policy, stream, std):
    lab = learned(1, policy, stream, policy_options={"std": std})
    assert lab.method.policy.training, "storing outputs leaves the mode as it was"
    kept = lab.method.memory.all(0)
    with torch.no_grad():
        out = lab.method.policy.eval().predict(kept)
        assert torch.equal(kept.extra["output"], out.output())
        assert lab.method._cloning(kept).abs().max() < 1e-6, "the finished policy is at no distance from itself"
    assert ("log_std" in kept.extra) == (std == "learned" and stream == "toy")


def test_what_is_cloned_are_the_outputs_not_the_actions():
    """Other actions in the memory change nothing, other outputs do."""
    lab = learned(1)
    with torch.no_grad():
        for p in lab.method.policy.shared().values():
            p.add_(0.05)
        batch = lab.method.memory.draw(16, Step(0, 1, "train", 0))[0]
        before = average(lab.method._cloning, batch)
        batch.action.neg_()
        assert torch.equal(average(lab.method._cloning, batch), before)
        batch.extra["output"].neg_()
        assert not torch.equal(average(lab.method._cloning, batch), before)
        assert float(before) > 0


def test_with_unit_variance_it_is_half_the_squared_distance():
    lab = learned(1, "dt")
    with torch.no_grad():
        for p in lab.method.policy.shared().values():
            p.add_(0.05)
        batch = lab.method.memory.all(0)
        gap = (lab.method.policy.eval().predict(batch).mean - batch.extra["output"]).square().sum(-1) / 2
        wanted = torch.stack([row[valid].mean() for row, valid in zip(gap, batch.valid, strict=True)])
        torch.testing.assert_close(lab.method._cloning(batch), wanted)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_the_cloning_of_an_old_sample_does_not_see_the_newest_head_or_normaliser(policy):
    lab = learned(2, policy)

    def value():
        with torch.no_grad():
            batch = mix(lab.method.memory.draw(8, Step(0, 2, "train", 0)))[0]
            lab.method.policy.eval()
            return lab.method._cloning(batch)[batch.task == 0]

    before, net = value(), lab.method.policy
    with torch.no_grad():
        for p in net.private(1).values():
            p.add_(1.0)
        net.normalizer.get_buffer("mean_1").add_(1.0)
        net.get_buffer("returns_1").mul_(2.0)
    assert torch.equal(value(), before)
    with torch.no_grad():
        net.normalizer.get_buffer("mean_0").add_(1.0)
    assert not torch.equal(value(), before)


def test_cloning_enters_the_loss_with_its_strength():
    lab, taken = learned(1, strength=7.0), []
    phase, plain, step = lab.phases(1)[0], lab.method.descend, Step(0, 1, "train", 0)
    phase.begin()
    with torch.no_grad():
        clone = float(average(lab.method._cloning, lab.method.memory.draw(8, step)))
        fit = float(lab.method.policy.loss(lab.access(1).current.windows(1, 8, step)).mean())
        for p in lab.method.policy.private(0).values():
            p.add_(0.1)
        moved = float(average(lab.method._cloning, lab.method.memory.draw(8, step)))
    lab.method.descend = lambda name, loss: taken.append(float(loss.detach())) or plain(name, loss)
    log = phase.update(step)
    assert float(log["clone"]) == pytest.approx(moved, rel=1e-5)
    assert moved > clone + 1e-3
    assert taken == [pytest.approx(fit + 7.0 * moved, rel=1e-5)]


def test_much_strength_keeps_what_was_learned_and_none_does_not():
    """After the second task the first is still solved as well as when it was finished."""
    rise = {}
    for strength in (0.0, 10.0):
        lab = Lab(config("clonex", strength=strength, steps=150, batch=32, learning_rate=0.01, tasks=2, episodes=20)).learn(0)
        before = lab.loss(0)
        rise[strength] = lab.learn(1).loss(0) - before
    assert rise[10.0] < 0.1 * rise[0.0], rise


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-spaces"])
def test_the_byte_budget_counts_the_outputs(policy, stream):
    lab = Lab(config("clonex", policy, stream, episodes=20, memory_bytes=12_345, steps=1)).learn()
    memory = lab.method.memory
    assert memory.bytes() == lab.method.memory_bytes() == sum(value.nbytes for value in memory.state_dict().values()) <= 12_345
    for task in memory.tasks():
        assert 12_345 / 3 - memory.task_bytes(task) / memory.size(task) < memory.task_bytes(task)


def test_wrong_options_are_named():
    for field in ("strength", "replay"):
        with pytest.raises(UsageError, match=rf"method.{field} is -1.0; give 0 or a number above 0"):
            config("clonex", **{field: -1.0})
