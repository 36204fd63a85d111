"""Tuning: outside the benchmark, with the evidence kept, and read back as the benchmark's settings."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from perdure.benchmarks import STREAMS, continual_world, toy, tuned
from perdure.cli import main
from perdure.core.errors import UsageError
from perdure.core.matrix import Episode, ScoreMatrix
from perdure.methods import METHODS
from perdure.run_config import find, resolve
from perdure.streams import outline, stream_options
from perdure.tune import Candidate, Choice, Question

MODULES = {STREAMS[name]: import_module(STREAMS[name]) for name in STREAMS}
CHOICES = [choice for path in sorted(tuned.FOLDER.glob("*.json")) for choice in tuned.choices(path)]
SHORT = ["--method.steps", "8", "--method.batch", "8", "--evaluation.episodes", "2", "--evaluation.shared", "1",
         "--evaluation.curve", "0", "--policy.width", "16"]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_stream_is_tuned_on_tasks_of_its_own():
    pairs = [(name, other) for module in MODULES.values() for name, other in module.__dict__.get("TUNING", {}).items()]
    assert ("cw10-v3", "cwtune-v3") in pairs
    assert ("ocw10-v3", "cwtune-v3") in pairs
    for name, other in pairs:
        assert Question("ewc", name).tried() == other
        mine, theirs = ({task.name for task in outline(s, stream_options(s, {}))} for s in (name, other))
        assert not mine & theirs


def test_a_tuning_stream_that_shares_a_task_is_refused(monkeypatch):
    monkeypatch.setitem(continual_world.TUNING, "cw10-v3", "cw3-v3")
    with pytest.raises(UsageError, match="cw10-v3 and cw3-v3, on which it would be tuned, share "):
        Question("ewc", "cw10-v3").tried()
    with pytest.raises(UsageError, match=r"cwtune-v3 has no stream to tune on .* tune for one of .*cw10-v3"):
        Question("ewc", "cwtune-v3").tried()


@pytest.mark.parametrize(("question", "fragments"), [
    ({"method": "finetune"}, ("finetune names no field to tune", "--field and --values", "ewc")),
    ({"name": "strenght"}, ("--field is 'strenght'", "did you mean 'strength'?")),
    ({"name": "decay"}, ("--values is empty", "two different numbers")),
    ({"values": ["1", "1.0"]}, ("--values is 1, 1.0", "two different numbers")),
    ({"values": ["1", "much"]}, ("method.strength is 'much'", "a number")),
    ({"name": "normalise", "values": ["true", "false"]}, ("two different numbers",)),
])  # fmt: skip
def test_what_cannot_be_tuned(question, fragments):
    with pytest.raises(UsageError) as caught:
        Question(**{"method": "ewc", "stream": "toy"} | question).settled()
    assert all(fragment in str(caught.value) for fragment in fragments)


def test_every_method_with_a_strength_to_tune_has_five_values_of_it():
    for name in METHODS:
        cls = find(name, METHODS, "method")
        assert bool(cls.tuned) == bool(cls.grid)
        if cls.tuned:
            field, values = Question(name, "toy").settled()
            assert len(values) == 5
            for value in values:
                cls.Config(**{field: value})


def choice(*results):
    matrix = ScoreMatrix("toy-tune", 1, ("edge-1", "edge-2"), "ewc", "bc", "cpu", 0, "0" * 8, {}, {})
    return Choice(Question("ewc", "toy"), matrix, "strength", tuple(Candidate(*result, "0" * 8) for result in results))


def test_the_best_value_and_whether_a_better_one_may_lie_beyond():
    assert choice((0.1, 0.5, 0.0), (1.0, 0.9, 0.0), (10.0, 0.6, 0.0)).best.value == 1.0
    assert choice((0.1, 0.5, 0.0), (1.0, 0.9, 0.0), (10.0, 0.6, 0.0)).edge == ""
    assert choice((0.1, 0.9, 0.2), (1.0, 0.9, 0.1), (10.0, 0.6, 0.0)).best.value == 1.0, "less forgetting"
    tied = choice((0.1, 0.9, 0.1), (1.0, 0.9, 0.1))
    assert (tied.best.value, tied.edge) == (0.1, "lowest")
    assert choice((0.1, 0.1, 0.0), (1.0, 0.9, 0.0)).edge == "highest"


def test_a_choice_is_written_with_its_evidence_and_read_as_settings(place, capsys, monkeypatch):
    monkeypatch.setattr(tuned, "FOLDER", place / "settings")
    command = ["tune", "ewc", "toy", "--values", "0.5,5", "--backend", "processes", *SHORT, "--install"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    written = tuned.choices(place / "settings" / "toy.json")
    assert len(written) == 1
    assert written[0]["candidates"][0].keys() == tuned.CANDIDATE.keys()
    assert [candidate["value"] for candidate in written[0]["candidates"]] == [0.5, 5.0]
    best = max(written[0]["candidates"], key=lambda c: (c["average_performance"], -c["forgetting"], -c["value"]))
    assert written[0]["value"] == best["value"]
    assert (written[0]["stream"], written[0]["tasks"], written[0]["seed"]) == ("toy-tune", ["edge-1", "edge-2", "edge-3"], 0)
    assert written[0]["options"]["method"] == {"steps": "8", "batch": "8"}
    assert "chosen" in out
    assert "one may lie beyond it" in err
    folders = sorted((place / "runs" / "toy-tune" / "ewc").iterdir())
    assert {candidate["config_hash"] for candidate in written[0]["candidates"]} == {f.name.split("-")[1] for f in folders}

    assert main([*command, "--json"]) == 0  # everything is there already
    assert json.loads(capsys.readouterr().out)["value"] == written[0]["value"]
    monkeypatch.setattr(toy, "SETTINGS", toy.SETTINGS | tuned.tuned("toy"))
    assert main(command[:-1]) == 0  # not installed, it goes beside the runs
    assert tuned.choices(place / "tuned" / "toy-ewc.json")[0]["value"] == written[0]["value"]
    assert "next:    perdure run ewc toy --method.strength" in capsys.readouterr().out
    assert main([*command, "--out", "mine.json"]) == 2
    assert "--install is given together with --out mine.json" in capsys.readouterr().err
    assert resolve("ewc", "toy").method_config["strength"] == written[0]["value"]
    assert resolve("ewc", "toy", policy="dt").method_config["strength"] == 1.0
    assert resolve("ewc", "toy", method_options={"strength": 7}).method_config["strength"] == 7.0


def test_a_run_that_fails_chooses_nothing(place, capsys):
    command = ["tune", "ewc", "toy", "--values", "1,1e30", "--out", "tuned.json", "--backend", "processes", *SHORT]
    assert main(command) == 1
    err = capsys.readouterr().err
    assert "NaN or infinite" in err
    assert "nothing was chosen" in err
    assert not (place / "tuned.json").exists()


def test_a_later_choice_replaces_an_earlier_one_and_no_other(place):
    made = choice((0.1, 0.5, 0.0), (1.0, 0.9, 0.0)).to_json()
    path = place / "s.json"
    tuned.record(path, made)
    tuned.record(path, made | {"policy": "dt"})
    tuned.record(path, made | {"value": 0.1})
    assert [(c["policy"], c["value"]) for c in tuned.choices(path)] == [("bc", 0.1), ("dt", 1.0)]


@pytest.mark.parametrize(("content", "fragment"), [
    ("[]", "no file of tuned settings"), ('{"format": 2, "tuned": []}', "of format 1"),
    ('{"format": 1, "tuned": [{"method": 3}]}', "'method' is missing or of the wrong type"),
    ('{"format": 1, "tuned": [3]}', "'method' is missing"), ("{", "is not valid JSON"),
])  # fmt: skip
def test_a_damaged_file_is_named(place, content, fragment):
    (place / "s.json").write_text(content)
    with pytest.raises(UsageError, match=fragment):
        tuned.choices(place / "s.json")


def test_the_shipped_choices_are_the_settings_and_follow_from_their_evidence():
    assert any((c["method"], c["policy"], c["value"]) == ("ewc", "bc", 0.01) for c in CHOICES)
    for made in CHOICES:
        best = max(made["candidates"], key=lambda c: (c["average_performance"], -c["forgetting"], -c["value"]))
        assert made["value"] == best["value"]
        assert len(made["candidates"]) >= 5
    for made in tuned.choices(tuned.settings_file("continual_world")):
        place = (made["method"], made["policy"], made["profile"])
        assert continual_world.SETTINGS[place][made["field"]] == made["value"]
        module = continual_world.__dict__
        assert made["stream"] in {module["TUNING"][name] for name in module["TUNING"]}


def test_every_strength_of_the_settings_has_evidence():
    known = {(c["method"], c["policy"], c["profile"], c["field"]) for c in CHOICES}
    for module in MODULES.values():
        for (method, policy, profile), values in module.SETTINGS.items():
            tunable = "" if method == "*" else find(method, METHODS, "method").tuned
            assert not tunable or tunable not in values or (method, policy, profile, tunable) in known


def test_the_kept_runs_of_ewc_are_the_evidence():
    runs = Path(__file__).parents[1] / "docs/results/cwtune-v3-ewc/runs"
    made = next(c for c in CHOICES if (c["method"], c["policy"]) == ("ewc", "bc"))
    for candidate in made["candidates"]:
        matrix = ScoreMatrix.load(runs / f"ewc-bc-{candidate['config_hash']}-seed0" / "scores.json")
        cells = [matrix.cells[matrix.n, task].episodes for task in range(matrix.n)]
        assert all(isinstance(episode, Episode) for cell in cells for episode in cell)
        mean = sum(sum(e.score for e in cell) / len(cell) for cell in cells) / matrix.n
        assert mean == pytest.approx(candidate["average_performance"], abs=1e-6)


def test_the_page_shows_every_choice(monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "tools"))
    tool = import_module("tuning")
    assert (root / "docs/benchmarks/tuning.md").read_text() == tool.page(), "run python tools/tuning.py"
    made = choice((0.1, 0.5, 0.0), (1.0, 0.9, -0.1)).to_json() | {"options": {"method": {"steps": "8"}}}
    assert tool.tried(made) == "0.1: 0.50 (+0.00), **1: 0.90 (-0.10)**; with steps 8"
