"""Fidelity of replayed data: good dreams, collapsed ones and copies are told apart, and the figures are kept with the scores."""

import json
from dataclasses import replace

import pytest
from tiny import config, execute

from perdure.core.errors import UsageError
from perdure.core.fidelity import Fidelity
from perdure.core.matrix import ScoreMatrix
from perdure.data.sampler import Sampler
from perdure.evaluate.fidelity import fidelity
from perdure.report.collect import collect
from perdure.report.dreams import dreaming
from perdure.streams import load_stream


@pytest.fixture(scope="module")
def sampler():
    return Sampler(load_stream("toy", say=lambda text: None, episodes=100).tasks[0].data, 0)


def rows(sampler, split):
    steps = sampler.starts[split].step
    return sampler.obs[steps + sampler.episode[steps]], sampler.action[steps]


def test_held_out_data_are_perfect_dreams(sampler):
    obs, action = rows(sampler, "holdout")
    found = fidelity(obs, action, sampler, 0)
    assert found.distance < 0.05 and found.mmd < 0.05 and found.coverage == 1.0
    assert 0.8 < found.novelty < 1.2 and len(found.real) == len(found.dreamed) == 100


def test_copies_and_collapse_are_seen(sampler):
    obs, action = rows(sampler, "train")
    assert fidelity(obs[:1000], action[:1000], sampler, 0).novelty < 1e-3
    collapsed = fidelity(obs[:1].expand(1000, -1), action[:1].expand(1000, -1), sampler, 0)
    assert collapsed.coverage < 0.1 and collapsed.distance > 0.3 and collapsed.mmd > 0.3


def test_dreams_of_one_end_of_the_data_leave_the_other_uncovered(sampler):
    obs, action = rows(sampler, "train")
    end = obs[:, 0] > obs[:, 0].quantile(0.9)
    assert fidelity(obs[end], action[end], sampler, 0).coverage < 0.6


def test_without_held_out_data_there_is_nothing_to_say(sampler):
    few = load_stream("toy", say=lambda text: None, episodes=2).tasks[0].data
    obs, action = rows(sampler, "train")
    assert fidelity(obs[:50], action[:50], Sampler(few, 0), 0) is None


def test_a_run_keeps_it_and_the_report_draws_it(tmp_path):
    settings = config("cugro", "sfbc", episodes=100)
    execute(settings, tmp_path / "run")
    matrix = ScoreMatrix.load(tmp_path / "run" / "scores.json")
    assert sorted(matrix.fidelity) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert ScoreMatrix.from_json(json.loads(json.dumps(matrix.to_json()))).fidelity == matrix.fidelity
    picture = dreaming(collect([tmp_path / "run"]).groups[0])
    panels = [axes for axes in picture.figure.axes if axes.collections]
    assert len(panels) == 6 and "Dreams of cugro" in picture.alt
    execute(config("finetune", "sfbc"), tmp_path / "other")
    assert not ScoreMatrix.load(tmp_path / "other" / "scores.json").fidelity


GOOD = Fidelity(0.1, 0.05, 0.1, 0.9, 1.0, ((0.0, 1.0),), ((1.0, 2.0),))


@pytest.mark.parametrize(("change", "words"), [
    ({"distance": "x"}, "fidelity.distance is 'x'"), ({"real": [[1.0]]}, "fidelity.real must list points"),
    ({"dreamed": [[1.0, float("nan")]]}, "fidelity.dreamed must list points"), ({"more": 1}, "fidelity has not the fields"),
])  # fmt: skip
def test_damaged_figures_are_named(change, words):
    with pytest.raises(UsageError, match=words):
        Fidelity.from_json(json.loads(json.dumps(GOOD.to_json())) | change)


def test_numbers_are_finite():
    with pytest.raises(UsageError, match=r"fidelity\.mmd is nan"):
        replace(GOOD, mmd=float("nan"))
