"""tools/infer_task.py: what the agent says about the beginning of held-out episodes."""

import sys
from pathlib import Path

import pytest

import perdure

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import infer_task

QUICK = {"method_options": {"steps": 30}, "evaluation": {"episodes": 2, "shared": 1, "curve": 0}}


def learn(folder, **options):
    quick = QUICK | {"method_options": QUICK["method_options"] | options}
    return perdure.run("tsn_affinity", "toy", out=folder, quiet=True, **quick).folder


def test_every_task_of_toy_is_in_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer_task.py", str(learn(tmp_path / "run", task_id="inferred"))])
    infer_task.main()
    head, _, *rows, average = capsys.readouterr().out.splitlines()
    assert head.startswith("| task | named after 1 | named after 2")
    assert len(rows) == len(perdure.load_stream("toy").tasks)
    shares = [[float(cell.strip(" %")) for cell in row.split("|")[2:-2]] for row in rows]
    wanted = [sum(column) / len(column) for column in zip(*shares, strict=True)]
    assert [float(cell.strip(" %")) for cell in average.split("|")[2:-2]] == pytest.approx(wanted, abs=1)


def test_a_run_that_is_told_the_task_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer_task.py", str(learn(tmp_path / "run"))])
    with pytest.raises(SystemExit, match="does not infer every task"):
        infer_task.main()
