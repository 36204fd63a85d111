"""The examples run as they are, offline, and show what they say they show."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from quick import quick

from perdure.core.matrix import ScoreMatrix

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Runs an example in this process, below a temporary folder."""
    quick(monkeypatch, tmp_path)

    def run(name: str) -> tuple[str, Path]:
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out")])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["out"]
        return capsys.readouterr().out, tmp_path / "out"

    return run


def test_every_example_is_short_explains_itself_and_is_tested():
    here = Path(__file__).read_text()
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 5
    for script in scripts:
        text = script.read_text()
        assert len(text.splitlines()) < 60
        assert f"python examples/{script.name}" in str(ast.get_docstring(ast.parse(text)))
        assert f'"{script.name}"' in here


def test_first_run(example):
    said, folder = example("first_run.py")
    found = {row[0]: (float(row[1]), float(row[2])) for row in re.findall(r"^(\w+) +([\d.]+) +([\d.]+)$", said, flags=re.M)}
    assert found["finetune"][1] > 0.3
    assert found["packnet"] == (found["packnet"][0], 0)
    assert found["packnet"][0] > 0.8 < found["er"][0]
    assert {path.name for path in folder.iterdir()} == {"finetune", "er", "packnet"}


def test_own_method(tmp_path):
    """In a process of its own, because the script refers to itself as a module."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PERDURE_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, EXAMPLES / "own_method.py", tmp_path / "out"], check=True, cwd=tmp_path, env=environment)
    matrix = ScoreMatrix.load(tmp_path / "out" / "run" / "scores.json")
    assert matrix.method == "own_method:FrozenTrunk"
    for task in range(3):
        assert list(matrix.cell(task + 1, task)) == list(matrix.cell(3, task))


def test_own_stream(example):
    said, folder = example("own_stream.py")
    assert "perdure run er" in said
    matrix = ScoreMatrix.load(folder / "run" / "scores.json")
    assert matrix.tasks == ("left", "right", "back")
    assert min(matrix.mean(3, task) for task in range(3)) > 0.5
    assert matrix.score["kind"] == "action_error"


def test_act_with_agent(example):
    said, _ = example("act_with_agent.py")
    solved = [int(number) for number in re.findall(r"solved (\d+) of 10", said)]
    assert len(solved) == 3
    assert min(solved) >= 8


def test_compare_and_report(example):
    said, folder = example("compare_and_report.py")
    assert "independent  forgets 0.00" in said
    page = (folder / "report" / "report.html").read_text()
    assert "finetune" in page
    assert "intransigence" in (folder / "report" / "table.md").read_text().lower()
