"""How lost, held, silent and failed runs are treated, with a backend that is scripted; and what a worker says."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from sweep_samples import Scripted, job_of, small, swept

from perdure.core.errors import Held, UsageError
from perdure.core.lock import claimed
from perdure.run_config import resolve
from perdure.sweep import driver, worker
from perdure.sweep.driver import Sweep
from perdure.sweep.plan import Planned
from perdure.sweep.show import Screen, Silent, cells, totals
from perdure.sweep.worker import Reporter, read_status


def test_finished_runs_are_skipped_and_failures_are_kept_for_the_end(place):
    planned = small(seeds=(0, 1, 2))
    backend = Scripted(["done", "failed", "done"])
    entries, texts = swept(planned, backend)
    assert [entry.state for entry in entries] == ["done", "failed", "done"]
    assert entries[1].sentence == "it is failed"
    assert any(text.startswith("failed: finetune on toy, seed 1: it is failed") for text in texts)
    assert not (place / "runs" / ".sweep").exists()
    backend = Scripted()
    entries, _ = swept(planned, backend)
    assert [entry.before for entry in entries] == [True, False, True]
    assert backend.began == [planned[1].key]
    assert all(entry.state == "done" for entry in entries)
    assert [line.split(" ", 2)[2].split(":")[0] for line in Path("runs/sweep.log").read_text().splitlines()] == [
        "begins 3 runs, 0 of 3 are finished already", "done", "failed", "done", "ends",
        "begins 1 run, 2 of 3 are finished already", "done", "ends"]  # fmt: skip


def test_a_lost_worker_is_replaced_a_bounded_number_of_times():
    backend = Scripted(["lost", "stopped", "lost"])
    entries, texts = swept(small(), backend)
    assert entries[0].state == "done"
    assert len(backend.began) == 4
    assert sum("it goes on in a new one" in text for text in texts) == 3
    backend = Scripted(["lost"] * 9)
    entries, _ = swept(small(seeds=(1,)), backend)
    assert entries[0].state == "failed"
    assert len(backend.began) == driver.LOSSES
    assert entries[0].sentence == "it is lost; that happened 5 times"


def test_a_run_that_somebody_else_holds_is_tried_again_for_a_while(monkeypatch):
    monkeypatch.setattr(driver, "AGAIN_SECONDS", 0.0)
    planned = small()
    with claimed(planned[0].folder):
        assert worker.work(job_of(planned[0]))["state"] == "failed"  # no sweep: its mark is missing
    entries, _ = swept(planned, Scripted(["held", "held"]))
    assert entries[0].state == "done"
    monkeypatch.setattr(driver, "HELD_SECONDS", 0.0)
    entries, _ = swept(small(seeds=(1,)), Scripted(["held"]))
    assert (entries[0].state, entries[0].sentence) == ("failed", "it is held")


def test_a_run_without_progress_is_ended_and_repeated():
    backend = Scripted(["hangs", "silent", "done"])
    entries, texts = swept(small(), backend, patience=0.05)
    assert backend.killed == [entries[0].run.key]
    assert (entries[0].state, entries[0].losses) == ("done", 1)
    assert any("it showed no progress for 0 s; it goes on in a new one" in text for text in texts)


def test_runs_that_no_worker_begins_fail_together():
    backend = Scripted(["silent"] * 9, slots=None)
    backend.note = "no node of the cluster has 1 CPUs and 0.5 GPUs"
    entries, texts = swept(small(seeds=(0, 1, 2)), backend, patience=0.05)
    assert len(backend.killed) == 3
    assert texts[0] == backend.note
    assert texts[1] == "begins 3 runs, 0 of 3 are finished already"
    assert all(entry.sentence.startswith("no worker began with it for 0 s; ask for less") for entry in entries)
    assert len(backend.script) >= 6


def test_an_interruption_stops_every_worker_and_leaves_nothing_behind(place):
    backend = Scripted([KeyboardInterrupt()], slots=2)
    with pytest.raises(KeyboardInterrupt):
        swept(small(seeds=(0, 1, 2)), backend)
    assert len(backend.stopped) == 2
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["sweep.log", "toy"]


def test_two_sweeps_in_one_root_are_refused_and_the_lock_is_given_back():
    with claimed(Path("runs/.sweep"), "lock"), pytest.raises(Held, match=r"runs/\.sweep is being written by process"):
        swept(small(), Scripted())
    entries, _ = swept(small(), Scripted())
    assert entries[0].state == "done"


def test_a_method_that_cannot_begin_is_refused_before_anything_starts(place, monkeypatch):
    (place / "picky.py").write_text(
        "from perdure.core.errors import UsageError\nfrom perdure.methods.finetune import Finetune\n"
        "class Picky(Finetune):\n    def phases(self, task, access):\n"
        "        raise UsageError('Picky needs categorical actions')\n"
    )
    monkeypatch.syspath_prepend(str(place))
    backend = Scripted()
    with pytest.raises(UsageError, match="picky:Picky on toy, seed 0 cannot run: Picky needs categorical actions"):
        swept(small("finetune picky:Picky"), backend)
    assert not backend.began
    assert not (place / "runs").exists()


def test_the_data_of_a_stream_are_made_once_before_the_runs(monkeypatch):
    loaded = []
    real = driver.load_stream
    monkeypatch.setattr(driver, "load_stream", lambda name, **options: loaded.append(name) or real(name, **options))
    backend = Scripted(["failed"] * 4)
    swept(small("finetune packnet", seeds=(0, 1)), backend)
    assert loaded == ["toy"]
    assert len(backend.began) == 4


# -- the worker -------------------------------------------------------------------------------------------


def test_a_worker_without_the_sweeps_folder_or_data_says_so(place, monkeypatch):
    planned = small()[0]
    answer = worker.work(job_of(planned))
    assert (answer["state"], "does not see the sweep's folder" in answer["sentence"]) == ("failed", True)
    home = place / "runs" / ".sweep"
    home.mkdir(parents=True)
    (home / "mark").write_text("of another machine")
    assert "all nodes of the cluster share" in worker.work(job_of(planned))["sentence"]
    (home / "mark").write_text("m")
    config = resolve("finetune", "cw3-v3")
    elsewhere = Planned(config, Path("runs/x"))
    answer = worker.work(job_of(elsewhere))
    assert "sees no dataset at" in answer["sentence"]
    assert "PERDURE_DATA" in answer["sentence"]
    assert not (place / "runs" / "x").exists()


def test_a_fault_of_the_program_is_told_with_its_log(place, monkeypatch, capfd):
    home = place / "runs" / ".sweep"
    home.mkdir(parents=True)
    (home / "mark").write_text("m")
    monkeypatch.setattr(worker, "_run", lambda job: 1 / 0)
    answer = worker.work(job_of(small()[0]))
    assert answer["state"] == "failed"
    assert answer["sentence"].startswith("ZeroDivisionError: division by zero (a fault of the program; traceback in ")
    assert "Traceback" in capfd.readouterr().err


def test_progress_is_a_small_file_of_one_attempt(place, monkeypatch):
    monkeypatch.setattr(worker, "STATUS_SECONDS", 0.0)
    reporter = Reporter(place / "k.json", "ticket", ["a", "b"], 100, joint=False)
    assert read_status(place, "k", "ticket")["doing"] == "starting"
    assert read_status(place, "k", "another") == {}
    reporter.step(0, "train", 50, 80, {})
    assert read_status(place, "k", "ticket")["share"] == 0.25
    reporter.step(0, "train", 80, 80, {})
    reporter.step(0, "retrain", 20, 20, {})
    assert read_status(place, "k", "ticket")["share"] == 0.5
    reporter.step(1, "train", 50, 100, {})
    status = read_status(place, "k", "ticket")
    assert (status["share"], status["task"], status["tasks"], status["name"]) == (0.75, 2, 2, "b")
    assert status["left"] > 0
    reporter.evaluating(1, 0)
    assert read_status(place, "k", "ticket")["doing"] == "evaluating a"
    (place / "k.json").write_text("{")
    assert read_status(place, "k", "ticket") == {}


def test_the_table_says_what_runs_and_how_long_still(place, capsys):
    planned = small(seeds=(0, 1, 2))
    sweep = Sweep(planned, Path("runs"), Scripted, Silent())
    first, second, _ = sweep.entries.values()
    first.state, first.seconds = "done", 90.0
    second.state = "running"
    second.status = {"task": 2, "tasks": 3, "name": "b", "doing": "train 5/9", "left": 30.0, "share": 0.5}
    assert cells(second) == ["task 2/3 b", "train 5/9", "30 s left"]
    assert totals(sweep) == "sweep: 1 of 3 done, 1 running, 1 waiting, about 2 min left"
    with Screen() as screen:
        screen.last_line = time.monotonic() - 60
        screen.update(sweep)
        screen.update(sweep)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{totals(sweep)} | finetune on toy, seed 1: task 2/3 b, train 5/9, 30 s left"]
    second.status |= {"name": "push-wall-v3", "doing": "train 350/20000", "left": 4000.0}
    long = replace(second.run, setting="strength 100.0, learning_rate 0.001")
    second.run, console = long, Console(width=80, file=io.StringIO())
    console.print(*Screen(console)._rows(sweep))
    shown = console.file.getvalue()
    assert all(word in shown for word in ("learning_rate", "seed 1", "2/3 push-wall-v3", "train 350/20000", "67 min"))
    second.status |= {"name": "b", "doing": "train 5/9"}
    second.status["left"] = 0.0  # learned, and the last scores are missing
    assert cells(second) == ["task 2/3 b", "train 5/9", ""]
