"""perfect_memory: batches are uniform over all data so far; the released form steps on stored batches through the newest head."""

import pytest
import torch
from tiny import Lab, config, stream_of

from perdure.core.method import Need, Step


def sizes_of(lab, task, monkeypatch):
    """Task counts of every batch that the policy's loss sees while `task` is learned."""
    seen, plain = [], lab.method.policy.loss

    def watched(batch, weights=None):
        seen.append(torch.bincount(batch.task, minlength=3))
        return plain(batch, weights)

    monkeypatch.setattr(lab.method.policy, "loss", watched)
    lab.learn(task)
    return torch.stack(seen)


def test_batches_are_uniform_over_all_data_so_far(monkeypatch):
    lab = Lab(config("perfect_memory", steps=120, batch=30)).learn(0, 1)
    counts = sizes_of(lab, 2, monkeypatch)
    assert (counts.sum(1) == 30).all(), "a batch has `batch` samples in all"
    assert len(counts.unique(dim=0)) > 10, "not balanced by construction, as incremental_joint is"
    total = counts.sum(0).float()
    sizes = torch.tensor([view.sampler.count("train") for view in lab.views.views]).float()
    expected = total.sum() * sizes / sizes.sum()
    assert ((total - expected).abs() < 5 * expected.sqrt()).all()


def test_every_sample_goes_through_its_own_head_and_normaliser(monkeypatch):
    lab = Lab(config("perfect_memory")).learn(0, 1)
    lab.access(2).union()
    batch = lab.access(2).union().windows(1, 64, Step(0, 2, "train", 0))[0]
    net = lab.method.policy
    lab.phases(2)[0].begin()
    with torch.no_grad():
        before = net.loss(batch)[batch.task == 0]
        for p in net.private(2).values():
            p.add_(1.0)
        net.normalizer.get_buffer("mean_2").add_(1.0)
        assert torch.equal(net.loss(batch)[batch.task == 0], before)


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("compat", [False, True])
def test_the_first_task_is_finetuning_bit_for_bit(policy, compat):
    mine, plain = Lab(config("perfect_memory", policy, compat=compat)).learn(0), Lab(config("finetune", policy)).learn(0)
    weights = dict(mine.method.policy.named_parameters())
    for name, p in plain.method.policy.named_parameters():
        assert torch.equal(weights[name], p), name


def test_it_keeps_what_was_learned():
    rise = {}
    for method in ("finetune", "perfect_memory"):
        lab = Lab(config(method, steps=150, batch=32, learning_rate=0.01, tasks=2, episodes=20)).learn(0)
        before = lab.loss(0)
        rise[method] = lab.learn(1).loss(0) - before
    assert rise["perfect_memory"] < 0.2 * rise["finetune"], rise


def test_what_it_needs_depends_on_compat():
    lab = Lab(config("perfect_memory"))
    config_class = type(lab.method.config)
    assert type(lab.method).needs(config_class()) == {Need.PAST_DATA}
    assert type(lab.method).needs(config_class(compat=True)) == {Need.MEMORY}
    assert Lab(config("perfect_memory", compat=True)).needs == {Need.MEMORY}


# -- as released ------------------------------------------------------------------------------------------------


def test_compat_takes_a_step_on_a_stored_batch_before_each_of_its_own():
    lab = Lab(config("perfect_memory", compat=True)).learn(0, 1)
    phase = lab.phases(2)[0]
    phase.begin()
    net, taken, plain = lab.method.policy, [], lab.method.descend
    head = net.bank.heads["task-0"].weight.detach().clone()

    def watched(name, loss, **rest):
        taken.append(float(loss.detach()))
        return plain(name, loss, **rest)

    lab.method.descend = watched
    stored, chosen = [lab.method.memory.stored(i) for i in range(10)], set()
    for index in range(12):
        with torch.no_grad():
            features = [net.features(net.inputs(batch)) for batch in stored]
            outs = [net.distribution(f, torch.full((8,), 2), (2,)) for f in features]
            losses = [float(out.negative_log_likelihood(batch.action).mean()) for out, batch in zip(outs, stored, strict=True)]
        phase.update(Step(0, 2, "train", index))
        first = taken[2 * index]
        near = min(range(10), key=lambda i: abs(losses[i] - first))
        assert losses[near] == pytest.approx(first, rel=1e-5)
        chosen.add(near)
    assert len(taken) == 24
    assert len(chosen) > 3, "any stored batch, not always the same"
    assert torch.equal(net.bank.heads["task-0"].weight, head), "old heads are not trained"


def test_compat_counts_its_memory():
    lab = Lab(config("perfect_memory", compat=True)).learn()
    assert lab.method.memory_bytes() == sum(v.nbytes for n, v in lab.method.state_dict().items() if n.startswith("memory.")) > 0
    assert Lab(config("perfect_memory")).learn().method.memory_bytes() == 0
    assert len(stream_of(config("perfect_memory"))) * 5 == len(lab.method.memory.order)
