"""Killed drivers and workers of a sweep: the same results. The quick form of tools/kill_sweep.py."""

import importlib.util
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SMALL = ("--methods", "finetune,er", "--streams", "toy", "--seeds", "0", "--method.steps", "600", "--method.batch", "16",
         "--stream.episodes", "6", "--evaluation.episodes", "2", "--evaluation.shared", "1", "--evaluation.curve", "0")


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("kill_sweep", TOOLS / "kill_sweep.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["kill_sweep"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    yield module
    del sys.modules["kill_sweep"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["processes", pytest.param("ray", marks=pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed"))])  # fmt: skip
def test_two_kills_of_a_driver_and_a_worker(tool, backend, tmp_path, capsys):
    assert tool.main(["--backend", backend, "--kills", "2", "--longest", "1", "--work", str(tmp_path), "--", *SMALL]) == 0
    assert "identical" in capsys.readouterr().out


def test_what_counts_as_a_difference(tool, tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name / "toy" / "er" / "x"
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        (folder / "scores.json").write_text("1")
    assert tool.compare(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "toy" / "er" / "x" / "scores.json").write_text("2")
    (tmp_path / "b" / "toy" / "er" / "x" / "resume").mkdir()
    (tmp_path / "b" / ".sweep").mkdir()
    left = str(tmp_path / "b" / ".sweep")
    assert tool.compare(tmp_path / "a", tmp_path / "b") == ["toy/er/x/scores.json", "toy/er/x/resume", left]


def test_workers_are_those_that_say_so_and_live(tool, tmp_path):
    disturbed = tool.Disturbed([], tmp_path, None, tmp_path / "log")
    (tmp_path / ".sweep").mkdir()
    for name, text in (("a", json.dumps({"pid": os.getpid()})), ("b", json.dumps({"pid": 2**22 + 1})), ("c", "{")):
        (tmp_path / ".sweep" / f"{name}.json").write_text(text)
    assert disturbed.workers() == [os.getpid()]
