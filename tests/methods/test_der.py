"""der: replays what the network answered when a sample was seen; the reservoir follows the stream of training."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.batch import average, concatenate, mix
from perdure.core.errors import UsageError
from perdure.core.method import Step


def learned(tasks=2, policy="bc", stream="toy", **options):
    return Lab(config("der", policy, stream, episodes=10, **options)).learn(*range(tasks))


def held(lab):
    memory = lab.method.memory
    return [memory.all(spaces) for spaces in memory.rows]


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-spaces", "toy-discrete"])
@pytest.mark.parametrize("nothing", [{"strength": 0.0}, {"replay": 0.0}], ids=str)
def test_without_weights_it_is_finetuning_bit_for_bit(policy, stream, nothing):
    mine, plain = Lab(config("der", policy, stream, **nothing)).learn(), Lab(config("finetune", policy, stream)).learn()
    weights = dict(mine.method.policy.named_parameters())
    for name, p in plain.method.policy.named_parameters():
        assert torch.equal(weights[name], p), name


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_the_outputs_kept_are_those_of_the_moment_of_insertion(policy, monkeypatch):
    lab = Lab(config("der", policy, memory_share=1.0, steps=4, episodes=20))
    answered = []
    plain = lab.method.policy.predict

    def watched(batch):
        out = plain(batch)
        if not batch.extra:
            answered.append(out.output().detach().clone())
        return out

    monkeypatch.setattr(lab.method.policy, "predict", watched)
    lab.learn(0)
    assert torch.equal(held(lab)[0].extra["output"], torch.cat(answered)), "everything fits, in the order of training"
    with torch.no_grad():
        now = plain(held(lab)[0]).output()
    assert not torch.equal(now, torch.cat(answered))


def test_what_was_trained_on_is_offered():
    lab = Lab(config("der", memory_share=1.0, steps=4)).learn(0)
    view = lab.access(0).current
    seen = concatenate([view.windows(1, 8, Step(0, 0, "train", i)) for i in range(4)])
    assert torch.equal(held(lab)[0].obs, seen.obs)
    assert torch.equal(held(lab)[0].action, seen.action)


@pytest.mark.parametrize("labels", [0.0, 0.7])
def test_the_term_is_the_papers(labels):
    """strength * |h - z|^2 summed over channels, and labels * likelihood, mean over valid steps."""
    lab = learned(2, "dt", strength=0.3, labels=labels)
    batch, net = held(lab)[0], lab.method.policy.eval()
    with torch.no_grad():
        value = 0.3 * (net.predict(batch).mean - batch.extra["output"]).square().sum(-1)
        wanted = torch.stack([row[valid].mean() for row, valid in zip(value, batch.valid, strict=True)])
        torch.testing.assert_close(lab.method._recall(batch), wanted + labels * net.loss(batch))


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_the_replay_of_an_old_sample_does_not_see_the_newest_head_or_normaliser(policy):
    lab = learned(2, policy, labels=0.5)

    def value():
        with torch.no_grad():
            batch = mix(lab.method.memory.draw(16, Step(0, 2, "train", 0)))[0]
            assert batch.tasks == (0, 1)
            lab.method.policy.eval()
            return lab.method._recall(batch)[batch.task == 0]

    before, net = value(), lab.method.policy
    assert len(before) > 0
    with torch.no_grad():
        for p in net.private(1).values():
            p.add_(1.0)
        net.normalizer.get_buffer("mean_1").add_(1.0)
        net.get_buffer("returns_1").mul_(2.0)
    assert torch.equal(value(), before)
    with torch.no_grad():
        net.normalizer.get_buffer("mean_0").add_(1.0)
    assert not torch.equal(value(), before)


def test_the_term_enters_the_loss_once():
    lab, taken = learned(1, strength=0.3, labels=0.7), []
    phase, plain, step = lab.phases(1)[0], lab.method.descend, Step(0, 1, "train", 0)
    phase.begin()
    with torch.no_grad():
        recall = float(average(lab.method._recall, lab.method.memory.draw(8, step)))
        fit = float(lab.method.policy.loss(lab.access(1).current.windows(1, 8, step)).mean())
    lab.method.descend = lambda name, loss: taken.append(float(loss.detach())) or plain(name, loss)
    phase.update(step)
    assert recall > 1e-3
    assert taken == [pytest.approx(fit + recall, rel=1e-5)]


def test_replay_keeps_what_was_learned():
    rise = {}
    for strength in (0.0, 0.5):
        lab = Lab(config("der", strength=strength, steps=150, batch=32, learning_rate=0.01, tasks=2, episodes=20)).learn(0)
        before = lab.loss(0)
        rise[strength] = lab.learn(1).loss(0) - before
    assert rise[0.5] < 0.2 * rise[0.0], rise


def test_room_grows_with_the_share_of_each_task():
    lab = learned(3, memory_share=0.1)
    share = round(0.1 * lab.views.views[0].sampler.count("train"))
    assert list(lab.method.memory.rows.values()) == [3 * share]
    lab = learned(3, stream="toy-spaces", memory_share=0.1)
    assert list(lab.method.memory.rows.values()) == [share, share, share]


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-spaces", "toy-discrete"])
def test_obeys_the_byte_budget_with_everything_counted(policy, stream):
    lab = Lab(config("der", policy, stream, memory_bytes=9000, steps=30))
    for task in range(3):
        lab.learn(task)
        memory = lab.method.memory
        assert memory.bytes() == lab.method.memory_bytes() == sum(value.nbytes for value in memory.state_dict().values())
        assert 0.8 * 9000 < memory.bytes() <= 9000
        assert set(torch.cat([batch.task for batch in held(lab)]).tolist()) == set(range(task + 1))


def test_wrong_options_are_named():
    for field in ("strength", "labels", "replay"):
        with pytest.raises(UsageError, match=rf"method.{field} is -1.0; give 0 or a number above 0"):
            config("der", **{field: -1.0})
    with pytest.raises(UsageError, match=r"method.memory_bytes is 40, less than one window of \d+ bytes"):
        learned(1, memory_bytes=40)
