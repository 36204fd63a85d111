"""tools/reuse.py: what runs decided, side by side, counted by hand."""

import sys
from pathlib import Path

import pytest
from report.conftest import matrix, save

from perdure.core.files import write_json
from perdure.core.matrix import ScoreMatrix

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import reuse


def run(folder, modules, choice, method="packnet", **fields):
    each = [9000, *(1000 * (method == "packnet") for _ in range(2))]
    made = matrix(method, 0, footprint={"modules": modules, "parameters_per_task": each}, **fields)
    save(folder, made)
    write_json(folder / "config.json", {"method_config": {"reuse": choice, "steps": 10}})
    return folder


def test_decisions_are_counted_without_the_first_task(tmp_path, capsys, monkeypatch):
    one, other = run(tmp_path / "a", [0, 1], "offline"), run(tmp_path / "b", [0, 2], "rollout")
    monkeypatch.setattr(sys, "argv", ["reuse.py", str(one), str(other), str(one)])
    reuse.main()
    said = capsys.readouterr().out
    assert "| task | reuse offline | reuse rollout | reuse offline |" in said
    assert "| pull | module, 0.90 | reuse, 0.90 | module, 0.90 |" in said
    assert "| reuse rollout | 0 | 0 | 1 | 1 | 0 of 2 | 0 of 1 |" in said
    assert "| reuse offline | 1 | 1 | 0 | 0 | 2 of 2 | 2 of 2 |" in said
    assert said.count("0.900 with 2 modules and 2,000 parameters after the first task\n") == 3


def test_what_choices_were_made_from_is_read_from_the_newest_agent(tmp_path, capsys, monkeypatch):
    one, other = run(tmp_path / "a", [0, 1], "offline"), run(tmp_path / "b", [0, 2], "rollout")
    errors = {"reused": False, "own_error": 0.1, "constant_error": 0.4}
    for count, alone in ((9, 0.3), (10, 0.2)):
        decisions = [[1, errors | {"alone_error": alone}], [2, errors | {"alone_error": 0.3, "own_error": 0.4}]]
        (one / f"agent/{count}").mkdir(parents=True)
        write_json(one / f"agent/{count}/meta.json", {"architecture": {"decisions": decisions}})
    decisions = [[1, {"reused": True, "success": 0.8}], [2, {"reused": False}]]
    (other / "agent/1").mkdir(parents=True)
    write_json(other / "agent/1/meta.json", {"architecture": {"decisions": decisions}})
    monkeypatch.setattr(sys, "argv", ["reuse.py", str(one), str(other)])
    reuse.main()
    said = capsys.readouterr().out
    assert "| pull | module (0.50), 0.90 | reuse (0.80), 0.90 |" in said
    assert "| turn | reuse (nothing gained), 0.90 | module, 0.90 |" in said


def test_parameters_are_paid_for_beyond_the_run_that_adds_the_fewest(tmp_path, capsys, monkeypatch):
    few, many = run(tmp_path / "a", [0], "always", method="finetune"), run(tmp_path / "b", [0, 1, 2], "never")
    monkeypatch.setattr(sys, "argv", ["reuse.py", str(few), str(many)])
    scores = [ScoreMatrix.load(folder / "scores.json") for folder in (few, many)]
    ends = [sum(score.mean(3, task) for task in range(3)) / 3 for score in scores]
    reuse.main()
    said = capsys.readouterr().out
    assert f"- reuse always: {ends[0]:.3f} with 1 modules and 0 parameters after the first task\n" in said
    assert ends[0] < 0.8 and f"2,000 parameters after the first task: {500 * (0.9 - ends[0]):+.3f} per million more" in said


def test_shared_weights_are_not_counted_and_so_refused(tmp_path, monkeypatch):
    folder = run(tmp_path / "a", [0], "offline")
    write_json(folder / "config.json", {"method_config": {"reuse": "offline", "variant": "prune"}})
    monkeypatch.setattr(sys, "argv", ["reuse.py", str(folder)])
    with pytest.raises(SystemExit, match="give runs of variant grow"):
        reuse.main()


@pytest.mark.parametrize(("fields", "words"), [({"complete": False}, "is not finished"), ({"stream": "other"}, "of other tasks")])
def test_only_finished_runs_on_the_same_data_are_compared(tmp_path, monkeypatch, fields, words):
    folders = [run(tmp_path / "a", [0], "offline"), run(tmp_path / "b", [0], "rollout", **fields)]
    monkeypatch.setattr(sys, "argv", ["reuse.py", *map(str, folders)])
    with pytest.raises(SystemExit, match=words):
        reuse.main()


def test_runs_of_methods_that_do_not_choose_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "a", matrix("finetune", 0))
    monkeypatch.setattr(sys, "argv", ["reuse.py", str(tmp_path / "a")])
    with pytest.raises(SystemExit, match="does not say which tasks got a module"):
        reuse.main()
