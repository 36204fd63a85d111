"""compoformer: when a task takes an earlier module in place of one of its own."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from composers import lab, modules, policies, variants

from perdure.continual.composing import Composing
from perdure.core.policy import ActionDist
from perdure.core.task import Stream
from perdure.data.access import Access, Views


def test_errors_are_compared_episode_by_episode():
    """The geometric mean over held-out episodes, where a hundredth of a constant action's error counts as none."""
    made = lab(["A", "B"], "dt", reuse="never", steps=20)
    lesson = Composing(made.method.trunk, made.method.composition, made.access(1), made.method._stack, 8, 0)
    sampler = made.views.views[1].sampler
    held = sampler.starts["holdout"].step
    mean = sampler.action[sampler.starts["train"].step].mean(0)
    near, constant = [], []
    for episode in sampler.episode[held].unique():
        windows = sampler.windows_at(held[sampler.episode[held] == episode], 4)
        action = windows.action[windows.valid].double()
        near.append(((action - 0.5 * action) ** 2).mean())
        constant.append(((action - mean) ** 2).mean())
    least = 0.01 * torch.stack(constant).mean()
    expected = [torch.stack(near).log().mean().exp(), least, torch.stack(constant).log().mean().exp()]
    found = lesson.errors(lambda windows: [ActionDist(mean=0.5 * windows.action), ActionDist(mean=windows.action),
                                           lesson.constant(windows)])
    torch.testing.assert_close(found, torch.stack(expected).double())


def test_repeats_are_found_among_noisy_episodes():
    assert modules(lab(["A~", "B~", "A~", "B~", "noise"])) == [0, 1, 4]


def test_what_is_worse_than_a_constant_action_is_not_reused():
    """Even where the probe, which has learned nothing here, is as bad."""
    made = lab(["A", "A"], learning_rate=1e-9, weight_decay=0.0)
    decision = made.method.decisions[1]
    assert min(decision["own_error"], decision["alone_error"]) > decision["constant_error"] and not decision["reused"]


@policies
@variants
def test_the_very_same_task_again_acts_bit_for_bit_as_before(variant, policy):
    """Check 6 b."""
    made = lab(["A", "B"], policy, learn=False, variant=variant)
    made.stream = Stream("made", (*made.stream.tasks, replace(made.stream.tasks[0], index=2, name="again")))
    made.views = Views(made.stream)
    made.learn()
    assert modules(made) == [0, 1] and made.method.composition.needed(2) == [0]
    made.method.eval()
    obs = made.views.views[0].sampler.obs[:16]
    acted = [actor.act(obs, actor.start(16), torch.Generator())[0] for actor in map(made.method.actor, (0, 2))]
    assert torch.equal(*acted)


@pytest.mark.parametrize(("reuse", "kept"), [("always", True), ("never", False)])
def test_one_earlier_module_stands_in_or_the_learned_weights_stay(reuse, kept):
    made = lab(["A", "B", "A"], reuse=reuse, steps=60)
    if kept:
        assert modules(made) == [0] and made.method.composition.weights(2).tolist() == [1.0]
    else:
        weights = made.method.composition.weights(2)
        assert float(weights.min()) > 0 and float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("succeeds", [True, False])
def test_rollouts_try_the_nearest_module_and_the_learned_weights_come_back_where_it_fails(monkeypatch, succeeds):
    made, tried = lab(["A", "B", "B"], learn=False, reuse="never", steps=200), []
    made.method.config = replace(made.method.config, reuse="rollout")

    def rollout(access, method):
        tried.append(method.composition.weights(access.index).tolist())
        return [SimpleNamespace(score=0.0, success=succeeds and access.index == 2)]

    monkeypatch.setattr(Access, "rollout", rollout)
    made.learn()
    assert tried == [[1.0], [0.0, 1.0]], "the other B alone"
    assert modules(made) == ([0, 1] if succeeds else [0, 1, 2])
    weights = made.method.composition.weights(2).tolist()
    assert weights == [0.0, 1.0] if succeeds else min(weights) > 0


@policies
@variants
def test_a_repeated_task_adds_no_module_and_an_unlike_one_does(variant, policy):
    """Check 6 b and c: B is the opposite of A on shifted inputs; repeats have other data and other words."""
    made = lab(["A", "A", "B", "B"], policy, variant=variant)
    assert modules(made) == [0, 2]
    assert [made.method.decisions[t]["reused"] for t in (1, 2, 3)] == [True, False, True]
    assert made.method.composition.weights(3).tolist() == [0.0, 1.0], "it acts as the other B and nothing else"


@policies
@variants
def test_with_one_module_a_reused_task_does_what_that_one_does(variant, policy):
    made = lab(["A", "A"], policy, variant=variant)
    made.method.trunk.set_statistics(1, made.method.trunk.statistics(0))
    first, second = (made.method.eval().actor(task) for task in (0, 1))
    obs = made.views.views[0].sampler.obs[:4]
    acted = [actor.act(obs, actor.start(4), torch.Generator())[0] for actor in (first, second)]
    torch.testing.assert_close(*acted)


@pytest.mark.parametrize(("reuse", "wanted"), [("never", [0, 1, 2]), ("always", [0])])
def test_never_and_always(reuse, wanted):
    assert modules(lab(["A", "A", "B"], reuse=reuse, steps=20)) == wanted
