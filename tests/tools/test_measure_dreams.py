"""tools/measure_dreams.py: where agents err and dreams lie, by the time in the episode."""

import sys
from pathlib import Path

import pytest

import perdure
from perdure.data.access import Views
from perdure.streams import load_stream

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import measure_dreams

QUICK = {"evaluation": {"episodes": 2, "shared": 1, "curve": 0}}
SIZES = {"width": 16, "evaluations": 2, "candidates": 4}


def learn(folder, method="cugro", **options):
    result = perdure.run(method, "toy", policy="sfbc", out=folder, quiet=True, method_options=options, policy_options=SIZES,
                         stream_options={"tasks": 2}, **QUICK)
    return result.folder


def measured(monkeypatch, capsys, *runs):
    monkeypatch.setattr(sys, "argv", ["measure_dreams.py", *map(str, runs)])
    measure_dreams.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_dreams_of_more_updates_lie_nearer(tmp_path, monkeypatch, capsys):
    quick = {"steps": 20, "dreams": 50, "on_collapse": "go_on"}
    poor, good = (learn(tmp_path / str(n), state_steps=n, **quick) for n in (5, 400))
    rows = measured(monkeypatch, capsys, poor, good)
    assert [row[:2] for row in rows[:3]] == [["corner-1", name] for name in ("data", *2 * ["cugro diffusion"])]
    assert all(float(rows[2][part]) < float(rows[1][part]) for part in (5, 6))


def test_what_is_taken_from_a_task_is_nearest_to_it():
    samplers = [view.sampler for view in Views(load_stream("toy", say=lambda text: None)).views]
    rows = measure_dreams.observations(samplers[1], samplers[1].starts["train"].step[:300])
    as_own, as_others = (float(measure_dreams.stray(rows, task, samplers)[0].rstrip("%")) for task in (1, 0))
    assert as_own < 30 and as_others > 80


def test_agents_that_dream_of_nothing_have_errors_only(tmp_path, monkeypatch, capsys):
    row = measured(monkeypatch, capsys, learn(tmp_path / "run", "finetune", steps=20))[1]
    assert all(float(cell) > 0 for cell in row[2:4]) and row[4:] == [""] * 5


def test_runs_of_two_streams_are_refused(tmp_path, monkeypatch, capsys):
    one = learn(tmp_path / "one", "finetune", steps=5)
    other = perdure.run("finetune", "toy", out=tmp_path / "other", quiet=True, stream_options={"tasks": 3},
                        method_options={"steps": 5}, **QUICK).folder
    with pytest.raises(SystemExit, match="different streams"):
        measured(monkeypatch, capsys, one, other)
