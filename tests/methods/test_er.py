"""er: the memory's budget, and that a replayed sample sees only what belongs to its own task."""


import pytest
import torch
from tiny import Lab, config

from perdure.core.batch import map_fields, mix
from perdure.core.errors import UsageError
from perdure.core.method import Step


def learned(tasks=2, policy="bc", **options):
    lab = Lab(config("er", policy, stream=options.pop("stream", "toy"), episodes=10, **options))
    return lab.learn(*range(tasks))


def test_share_of_the_training_transitions():
    lab = learned(3, memory_share=0.1)
    total = lab.views.views[0].sampler.count("train")
    assert [lab.method.memory.size(task) for task in range(3)] == [round(0.1 * total)] * 3


def test_share_counts_transitions_not_windows():
    lab = learned(1, "dt", memory_share=0.2)
    total = lab.views.views[0].sampler.count("train")
    assert lab.method.memory.size(0) == round(0.2 * total / lab.method.policy.context)


@pytest.mark.parametrize("stream", ["toy", "toy-spaces"])
@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("budget", [3000, 12_345])
def test_obeys_the_byte_budget_and_shares_it_equally(policy, budget, stream):
    lab = Lab(config("er", policy, stream, episodes=20, memory_bytes=budget, steps=1))
    for task in range(3):
        lab.learn(task)
        memory = lab.method.memory
        assert memory.bytes() == lab.method.memory_bytes() <= budget
        per_window = {t: memory.task_bytes(t) // memory.size(t) for t in memory.tasks()}
        for t, size in per_window.items():
            assert budget / (task + 1) - size < memory.task_bytes(t) <= budget / (task + 1)


def test_budget_below_one_window_per_task_is_named():
    lab = Lab(config("er", memory_bytes=80, steps=1))
    with pytest.raises(
        UsageError, match=r"method.memory_bytes is 80, less than one window of \d+ bytes for each of 2 tasks"
    ):
        lab.learn(0, 1)


def test_memory_holds_windows_of_the_training_split_without_repetition():
    lab = learned(1, "dt", memory_share=1.0)
    sampler, kept = lab.views.views[0].sampler, lab.method.memory.all(0)
    every = sampler.windows_at(sampler.starts["train"].step, lab.method.policy.context)

    def rows(windows):
        return {tuple(row) for row in torch.cat([windows.obs.flatten(1), windows.timestep], 1).tolist()}

    assert len(rows(kept)) == len(kept.task)
    assert rows(kept) <= rows(every)


def test_draws_are_uniform_over_tasks_and_over_windows():
    memory = learned(3, memory_share=0.1).method.memory
    drawn = mix(*[memory.draw(7, Step(0, 3, "train", i)) for i in range(300)])[0]
    assert torch.bincount(drawn.task).tolist() == [700, 700, 700], "shares differ by turn only"
    first = drawn.obs[drawn.task == 0].flatten(1)
    kept = memory.all(0).obs.flatten(1)
    counts = (first.unsqueeze(1) == kept.unsqueeze(0)).all(-1).sum(0).float()
    expected = len(first) / len(kept)
    assert counts.sum() == len(first)
    assert (counts - expected).abs().max() < 5 * expected**0.5


def loss_of_task_0(lab):
    with torch.no_grad():
        batch = mix(lab.method.memory.draw(8, Step(0, 2, "train", 0)))[0]
        assert batch.tasks == (0, 1)
        return lab.method.policy.eval().loss(batch)[batch.task == 0]


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_replayed_samples_do_not_see_the_newest_head_or_normaliser(policy):
    lab = learned(2, policy)
    before = loss_of_task_0(lab)
    with torch.no_grad():
        for p in lab.method.policy.private(1).values():
            p.add_(1.0)
        lab.method.policy.normalizer.get_buffer("mean_1").add_(1.0)
        lab.method.policy.normalizer.get_buffer("std_1").mul_(3.0)
        lab.method.policy.get_buffer("returns_1").mul_(2.0)
    assert torch.equal(loss_of_task_0(lab), before)
    with torch.no_grad():
        lab.method.policy.normalizer.get_buffer("mean_0").add_(1.0)
    assert not torch.equal(loss_of_task_0(lab), before)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_a_mixed_batch_equals_its_parts(policy):
    """Right head, normaliser and return scale for every sample."""
    lab = learned(2, policy)
    net = lab.method.policy.eval()
    net.get_buffer("returns_1").mul_(2.0)
    parts = [lab.method.memory.all(task) for task in (0, 1)]
    joined = mix(*parts)[0]
    order = torch.randperm(len(joined), generator=torch.Generator().manual_seed(0))
    shuffled = map_fields(joined, lambda value: value[order])
    with torch.no_grad():
        alone = torch.cat([net.loss(part) for part in parts])
        torch.testing.assert_close(net.loss(shuffled), alone[order], rtol=1e-5, atol=1e-6)


def test_without_replay_it_is_finetuning():
    er, plain = Lab(config("er", replay=0.0, clip=0.0)).learn(), Lab(config("finetune", clip=0.0)).learn()
    mine = dict(er.method.policy.named_parameters())
    assert all(torch.equal(mine[name], p) for name, p in plain.method.policy.named_parameters())


def test_replay_ratio_is_kept(monkeypatch):
    lab = Lab(config("er", batch=6, replay=0.5)).learn(0)
    sizes = []
    plain = lab.method.policy.loss
    monkeypatch.setattr(
        lab.method.policy,
        "loss",
        lambda batch, **rest: sizes.append(torch.bincount(batch.task).tolist()) or plain(batch),
    )
    lab.learn(1)
    assert set(map(tuple, sizes)) == {(3, 6)}
