"""`kill -9` at any moment, then the same command again: the same result. The quick form of tools/kill_test.py."""

import importlib.util
import shlex
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).resolve().parents[2] / "tools" / "kill_test.py"
SMALL = shlex.split(
    "--method.steps 400 --method.batch 16 --stream.episodes 6 --workers 0 --evaluation.episodes 2"
    " --evaluation.shared 1 --evaluation.curve 1 --evaluation.slots 2"
)
"""Most of the time is training, with checkpoints in its middle, so that a kill has something to lose."""


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("kill_test", PLACE)
    module = importlib.util.module_from_spec(specification)
    sys.modules["kill_test"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    yield module
    del sys.modules["kill_test"]


def test_two_kills_of_packnet_on_toy(tool, tmp_path):
    trial = tool.Trial(["run", "packnet", "toy", *SMALL], tmp_path)
    trial.measure()
    assert sorted(trial.required()) == ["evaluation", "phase dense", "phase retrain", "save"]
    trial.spread(2, lambda kill: None)
    assert [kill.differences for kill in trial.kills] == [[], []]
    assert all(kill.landed[0] in trial.places for kill in trial.kills)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "ewc", "er", "packnet", "independent", "joint", "incremental_joint"])
def test_every_place_of_every_method(tool, method, tmp_path, capsys):
    assert tool.main([method, "toy", "--kills", "6", "--work", str(tmp_path), "--", *SMALL]) == 0
    assert "0 with a different result" in capsys.readouterr().out


def test_differences_name_missing_new_and_changed_files(tool):
    assert tool.differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["a", "b", "c"]
    assert tool.differences({"a": "1"}, {"a": "1"}) == []


def test_litter_is_what_a_finished_run_must_not_leave(tool, tmp_path):
    for name in (
        "agent/1/meta.json",
        "resume/00000001/meta.json",
        "agent/.2.staging/x",
        ".scores.json.a.tmp",
        "config.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert tool.litter(tmp_path) == [".scores.json.a.tmp", "agent/.2.staging", "resume"]


def test_the_summary_fails_on_a_difference_and_on_a_place_never_hit(tool, tmp_path, capsys):
    trial = tool.Trial([], tmp_path / "work", places=["loading", "phase train", "save", "evaluation"])
    trial.kills = [tool.Kill("10%", ["phase train"], []), tool.Kill("50%", ["evaluation", "save"], [])]
    assert tool.summary(trial) == 0
    trial.kills.append(tool.Kill("80%", ["save"], ["scores.json"]))
    assert tool.summary(trial) == 1
    trial.kills = trial.kills[:1]
    assert tool.summary(trial) == 1
    assert "never hit: save, evaluation" in capsys.readouterr().out
