"""Generated replay on the command line: collapse in a run and in a dry run, and what is refused before data are made."""

import hashlib

import pytest
from cli_samples import SHORT

from perdure.api import plan
from perdure.cli import trial
from perdure.streams import load_stream

CUGRO = ("cugro", "toy", *SHORT, "--stream.episodes", "6", "--method.dreams", "16", "--method.state_steps", "4",
         "--method.evaluations", "3", "--method.collapse", "1e-6", "--policy.evaluations", "3", "--policy.width", "16")


def test_a_collapsed_run_ends_with_its_own_code_each_time_and_keeps_its_agents(place, perdure):
    digests = []
    for _ in range(2):
        code, _, err = perdure("run", *CUGRO, "--out", "mine")
        assert code == 3
        assert "replay collapsed: the dreams of task 1 are" in err[-1]
        assert "--method.on_collapse coreset" in err[-1]
        assert not any("Traceback" in line for line in err)
        assert [path.name for path in (place / "mine" / "agent").iterdir()] == ["1"]
        assert not (place / "mine" / "scores.json").exists()
        files = sorted((place / "mine" / "agent" / "1").iterdir())
        digests.append([hashlib.sha256(path.read_bytes()).digest() for path in files])
    assert digests[0] == digests[1]
    code, out, _ = perdure("eval", "mine/agent/1", "--task", "corner-1", "--episodes", "1", "--workers", "0")
    assert code == 0
    assert "corner-1" in out


def test_a_dry_run_judges_no_dreams(place, perdure):
    code, out, err = perdure("run", *CUGRO, "--dry-run")
    assert code == 0
    assert not err
    assert "time" in out
    assert list(place.iterdir()) == []


def test_an_estimate_counts_the_updates_of_every_phase(monkeypatch):
    config = plan("cugro", "toy", stream_options={"tasks": 2, "episodes": 6}, policy_options={"width": 16, "evaluations": 3},
                  method_options={"steps": 8, "dreams": 16, "state_steps": 80, "state_width": 16, "evaluations": 3})
    monkeypatch.setattr(trial, "_per_update", lambda phase, seed, task, steps: 1.0)
    stream = load_stream("toy", say=lambda text: None, tasks=2, episodes=6)
    assert trial.measure(config, stream, 0, "cpu").step == (8 + 80 + 1) / 8, "and a part of dreams"


@pytest.mark.parametrize("method", ["cugro", "dgr"])
@pytest.mark.parametrize("how", [("--out", "mine"), ("--dry-run",)])
def test_bodies_of_unequal_spaces_are_refused_before_their_data_are_made(method, how, place, perdure):
    code, _, err = perdure("run", method, "hopper-walker-cheetah-v5", *how)
    assert code == 2
    assert f"{method} dreams with one generator for all tasks, but hopper has" in err[-1]
    assert list(place.iterdir()) == []
