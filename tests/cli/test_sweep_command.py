"""`perdure sweep` end to end, as a user types it, and the wrong sweeps that need files."""

import json
import os

import pytest
from cli_samples import dataset, refused, stream_file

from perdure.core.lock import claimed
from perdure.core.matrix import ScoreMatrix
from perdure.run_config import resolve

CASES = []


def wrong(*fragments):
    """Add a case: a function from a folder to the words of a command, and what its complaint must say."""

    def add(case):
        CASES.append(pytest.param(case, fragments, id=case.__name__))
        return case

    return add


SHORT = ("--method.steps", "8", "--method.batch", "8", "--evaluation.episodes", "2", "--evaluation.shared", "1",
         "--evaluation.curve", "1", "--backend", "processes")  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_sweep_its_repetition_and_its_report(place, perdure):
    words = ("sweep", "--methods", "finetune,ewc", "--streams", "toy", "--grid", "ewc:method.strength=0.1,10", *SHORT)
    code, out, err = perdure(*words, "--show")
    shown = json.loads(out)
    strengths = [(run["method"], run["method_config"].get("strength")) for run in shown]
    assert strengths == [("finetune", None), ("ewc", 0.1), ("ewc", 10.0)]
    code, out, err = perdure(*words, "--dry-run")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["new", "new", "new"]
    assert "3 runs, 0 finished already" in out
    assert "expected: " in out
    assert not (place / "runs").exists()

    code, out, err = perdure(*words)
    assert (code, out.splitlines()[0]) == (0, "3 of 3 runs done")
    assert "next:  perdure report runs/toy" in out
    assert sum(line.startswith("done: ") for line in err) == 3
    folders = [place / run["folder"] for run in shown]
    assert all(ScoreMatrix.load(folder / "scores.json").complete for folder in folders)
    before = {path: path.stat().st_mtime_ns for path in (place / "runs" / "toy").rglob("*")}

    code, out, err = perdure(*words, "--report", "page")
    assert (code, out.splitlines()[0]) == (0, "3 of 3 runs done, 3 of them before")
    assert {path: path.stat().st_mtime_ns for path in (place / "runs" / "toy").rglob("*")} == before
    assert (place / "page" / "toy" / "report.html").is_file()
    assert "strength 10" in (place / "page" / "toy" / "table.md").read_text()

    code, out, _ = perdure(*words, "--dry-run", "--json")
    assert [run["state"] for run in json.loads(out)["runs"]] == ["finished"] * 3
    code, out, _ = perdure("sweep", "--methods", "finetune", "--streams", "toy", *SHORT)
    assert f"next:  perdure report {folders[0].relative_to(place)} --out runs/toy" in out  # not the others below runs/toy
    assert perdure(*out.splitlines()[-1].split("perdure ")[1].split())[0] == 0


def test_a_failed_run_is_told_at_the_end_and_the_others_go_on(place, perdure):
    words = ("sweep", "--methods", "ewc", "--streams", "toy", "--grid", "method.learning_rate=1e30,1e-3", *SHORT)
    code, out, err = perdure(*words)
    assert code == 1
    assert out.splitlines()[0] == "1 of 2 runs done"
    assert "1 run failed:" in err
    assert "NaN or infinite" in err[-1]
    assert "runs/toy/ewc/bc-" in err[-1]
    code, out, _ = perdure(*words, "--json")
    states = {run["method_config"]["learning_rate"]: (run["state"], run["sentence"]) for run in json.loads(out)["runs"]}
    assert code == 1
    assert states[1e-3] == ("done", "")
    assert states[1e30][0] == "failed"


def test_two_streams_are_two_tables(place, perdure):
    code, out, _ = perdure("sweep", "--methods", "finetune", "--streams", "toy,toy-discrete", "--out", "mine", *SHORT)
    assert code == 0
    for name in ("toy", "toy-discrete"):
        assert {f"files: mine/{name}", f"next:  perdure report mine/{name}"} <= set(out.splitlines())
    assert os.environ["OMP_NUM_THREADS"] == "1"


# -- wrong input ------------------------------------------------------------------------------------------


@wrong("finetune on kitchen.toml, seed 0 cannot run", "policy.heads", "kitchen forbids")
def sweep_of_a_policy_that_cannot_run_on_the_stream(place):
    dataset(place / "set")
    stream_file(place, ["name = 'swing'\ndata = 'set'"], "task_id_at_test = false")
    return ["sweep", "--methods", "finetune", "--streams", "kitchen.toml", "--out", "mine"]


@wrong("joint on kitchen.toml, seed 1 cannot run", "the datasets of earlier tasks", "kitchen forbids")
def sweep_of_a_method_that_cannot_run_on_the_stream(place):
    dataset(place / "set")
    stream_file(place, ["name = 'swing'\ndata = 'set'"], "past_data_allowed = false")
    return ["sweep", "--methods", "finetune,joint", "--streams", "kitchen.toml", "--seeds", "1", "--backend", "processes"]


@wrong("DiscreteOnly needs categorical actions")
def sweep_of_a_method_that_cannot_run_on_the_action_space(place):
    return ["sweep", "--methods", "cli_samples:DiscreteOnly", "--streams", "toy-discrete,toy", "--backend", "processes"]


@wrong("mine/toy/finetune", "is not empty and holds no run")
def sweep_over_a_folder_with_other_things(place):
    folder = place / "mine" / resolve("finetune", "toy").default_folder.relative_to("runs")
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("x")
    return ["sweep", "--methods", "packnet,finetune", "--streams", "toy", "--out", "mine"]


@wrong("--report is thesis.tex/page", "choose another --report")
def sweep_with_a_report_that_has_no_place(place):
    (place / "thesis.tex").write_text("x")
    return ["sweep", "--methods", "finetune", "--streams", "toy", "--report", "thesis.tex/page"]


@wrong("--parallel is 0", "from 1")
def sweep_that_is_wrong_and_only_shown(place):
    return ["sweep", "--methods", "finetune", "--streams", "toy", "--parallel", "0", "--dry-run", "--address", "a:1"]


@wrong("--runs is thesis.tex/.sweep", "choose another --runs")
def tuning_with_runs_that_have_no_place(place):
    (place / "thesis.tex").write_text("x")
    return ["tune", "ewc", "toy", "--out", "mine.json", "--runs", "thesis.tex", "--backend", "processes"]


@wrong("settings.json", "no file of tuned settings")
def tuning_into_another_file(place):
    (place / "settings.json").write_text("{}")
    return ["tune", "ewc", "toy", "--out", "settings.json"]


@pytest.mark.parametrize(("case", "fragments"), CASES)
def test_a_wrong_sweep_is_one_clear_sentence_and_loses_nothing(case, fragments, place, perdure):
    refused(perdure, place, case(place), fragments)


def test_a_second_sweep_over_the_same_folder_is_refused(place, perdure):
    with claimed(place / "mine" / ".sweep", "lock"):
        code, _, err = perdure("sweep", "--methods", "finetune", "--streams", "toy", "--out", "mine", "--backend", "processes")
    assert code == 2
    assert len(err) == 1
    assert f"mine/.sweep is being written by process {os.getpid()}" in err[0]
