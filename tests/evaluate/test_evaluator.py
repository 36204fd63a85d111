"""StreamEvaluator: scores without touching the learner, on the frozen goals, with and without a simulator."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import Lab, config, global_random_state, state_digest

from perdure.core.errors import UsageError
from perdure.core.task import Goals, Stream
from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator


def evaluator(lab, stream=None, **options):
    options = {"episodes": 4, "shared": 2, "curve": 2, "slots": 3, **options}
    return StreamEvaluator(
        stream or lab.stream, lab.access, EvaluationConfig(**options), seed=0, joint=False, workers=0
    )


def data_only(lab):
    return Stream(lab.stream.name, tuple(replace(task, env=None) for task in lab.stream.tasks))


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("method", ["finetune", "packnet", "independent"])
def test_evaluation_changes_neither_weights_nor_mode_nor_global_randomness(method, policy):
    lab = Lab(config(method, policy)).learn(0)

    def unchanged(evaluate):
        lab.method.train()
        state, randomness = state_digest(lab.method), global_random_state()
        for stream in (lab.stream, data_only(lab)):
            made = evaluator(lab, stream)
            evaluate(made)
            made.close()
        assert state_digest(lab.method) == state
        assert global_random_state() == randomness
        assert lab.method.training

    unchanged(lambda made: [made.cell(lab.method, 1, task, 2) for task in range(3)])
    lab.phases(1)[0].begin()
    unchanged(lambda made: made.curve(lab.method, 1, 3))
    unchanged(lambda made: made.action_error(lab.method, 0))
    assert set(lab.method.optimizers) == {"policy"}


def test_a_task_not_learned_yet_is_scored_on_a_copy_that_only_opened_it():
    lab = Lab(config("finetune", steps=40, batch=32, learning_rate=0.01)).learn(0)
    made = evaluator(lab)
    fresh = Lab(config("finetune", steps=40, batch=32, learning_rate=0.01)).learn(0)
    fresh.method.open_task(fresh.stream.tasks[2], fresh.access(2))
    assert made.cell(lab.method, 1, 2, 4) == made._episodes(fresh.method, 2, "final", 4, ("cell", 1, 2))
    assert lab.method.policy.tasks() == [0]


def test_fewer_episodes_are_the_first_of_the_same_goals():
    lab = Lab(config()).learn(0)
    made = evaluator(lab)
    assert made.cell(lab.method, 1, 0, 2) == made.cell(lab.method, 3, 0, 5)[:2]


def test_curve_uses_its_own_goals():
    lab = Lab(config()).learn(0)
    spread = lab.stream.tasks[0].goals
    swapped = replace(lab.stream.tasks[0], goals=Goals(spread.curve, spread.final, spread.probe))
    other = Stream("toy", (swapped, *lab.stream.tasks[1:]))
    assert evaluator(lab, other).cell(lab.method, 1, 0, 2) == evaluator(lab).curve(lab.method, 0, 3)


def test_learning_raises_the_score():
    before, after = (
        Lab(config(steps=n, batch=64, episodes=30, learning_rate=0.01, policy_options={"width": 32}))
        for n in (1, 300)
    )
    scores = [
        np.mean([e.score for e in evaluator(lab).cell(lab.learn(0).method, 1, 0, 10)]) for lab in (before, after)
    ]
    assert scores[0] <= 0.3
    assert scores[1] >= 0.8


@pytest.mark.parametrize("policy", ["bc", "dt"])
@pytest.mark.parametrize("stream", ["toy", "toy-discrete"])
def test_action_error_is_that_of_the_holdout_with_the_logged_history(policy, stream):
    lab = Lab(config("finetune", policy, stream)).learn(0)
    value, n = evaluator(lab).action_error(lab.method, 0)
    sampler, net = lab.views.views[0].sampler, lab.method.policy.eval()
    errors = []
    for first, length in zip(
        sampler.starts["holdout"].first.tolist(), sampler.starts["holdout"].length.tolist(), strict=True
    ):
        for t in range(length):
            begin = max(first, first + t - net.context + 1)
            window = sampler.windows_at(torch.tensor([begin]), net.context)
            with torch.no_grad():
                errors.append(float(net.predict(window).error(window.action)[0, first + t - begin]))
    assert n == len(errors)
    assert value == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("stream", ["toy", "toy-discrete"])
def test_data_only_tasks_score_one_for_perfect_and_zero_for_a_constant(stream):
    lab = Lab(config("finetune", stream=stream, steps=1)).learn(0)
    made = evaluator(lab, data_only(lab))
    sampler = lab.views.views[0].sampler
    held = sampler.starts["holdout"].step
    constant = sampler.action[sampler.starts["train"].step]
    answers = {
        "perfect": sampler.action,
        "constant": (constant.mode().values if stream == "toy-discrete" else constant.mean(0)).expand_as(
            sampler.action
        ),
    }
    scores = {}
    for name, answer in answers.items():
        errors = torch.stack(
            [
                (answer[t] != sampler.action[t]).float()
                if stream == "toy-discrete"
                else (answer[t] - sampler.action[t]).square().mean()
                for t in held
            ]
        )
        made._held_out = lambda *_, errors=errors, **__: [errors.double().numpy()]
        scores[name] = [episode.score for episode in made.cell(lab.method, 1, 0, 1)]
    assert scores["perfect"] == [1.0]
    assert scores["constant"] == [pytest.approx(0.0, abs=1e-6)]


def test_data_only_episodes_carry_no_success_and_no_return():
    lab = Lab(config(episodes=30)).learn(0)
    episodes = evaluator(lab, data_only(lab)).cell(lab.method, 1, 0, 2)
    assert [(e.success, e.raw_return, e.length) for e in episodes] == [(None, None, 20)] * 2


def test_without_holdout_and_simulator_there_is_no_cell():
    lab = Lab(config()).learn(0)
    lab.views.views[0].sampler.starts["holdout"] = replace(
        lab.views.views[0].sampler.starts["holdout"],
        **dict.fromkeys(("step", "first", "length"), torch.zeros(0, dtype=torch.int64)),
    )
    assert evaluator(lab, data_only(lab)).cell(lab.method, 1, 0, 2) == []
    assert evaluator(lab).action_error(lab.method, 0) is None


def test_more_episodes_than_goals_are_refused():
    """Before anything is learned, not after the first task."""
    lab = Lab(config())
    for name, goals in (("episodes", 50), ("curve", 10)):
        with pytest.raises(UsageError, match=rf"evaluation\.{name} is {goals + 1}, but task corner-1 has {goals} such goals"):
            evaluator(lab, **{name: goals + 1})


def test_the_curve_can_be_left_out():
    lab = Lab(config())
    assert evaluator(lab, curve=0).curve_points(100) == []
    assert [step for step, _ in evaluator(lab).curve_points(100)] == [0, 25, 50, 75, 100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, r"evaluation\.episodes is 0; give 1 or more"),
        ({"slots": 0}, r"evaluation\.slots is 0"),
        ({"curve": -1}, r"evaluation\.curve is -1"),
        ({"episodes": 5, "shared": 6}, r"evaluation\.shared is 6 and evaluation\.episodes 5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        EvaluationConfig(**options)
