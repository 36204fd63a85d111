"""Run: stops on signals after a clean checkpoint, on NaN before one, and says under which conditions it goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from tiny import Lab, config, execute, folder_digests, saving_every_step, stream_of, watch, weights_digest

from perdure.core.checkpoint import Generations, read_folder
from perdure.core.errors import GuardError, Interrupted, UsageError
from perdure.core.matrix import ScoreMatrix
from perdure.core.run import newest_agent
from perdure.core.task import Stream
from perdure.evaluate import evaluator
from perdure.progress import Quiet

CHILD = """
import sys, time
from pathlib import Path
from tiny import config, execute, watch
from perdure.core.errors import Interrupted

def slowly(task, phase, place):
    print(task, phase, place, flush=True)
    time.sleep(0.1)

try:
    execute(config("packnet", steps=10), Path(sys.argv[1]), change=lambda method: watch(method, slowly))
except Interrupted as stop:
    print(stop, flush=True)
    sys.exit(stop.exit_code)
"""


class Telling(Quiet):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def stop_at(*wanted, number=signal.SIGTERM):
    """Sends a signal to this process when the run comes to a place."""
    return lambda method: watch(method, lambda *place: signal.raise_signal(number) if place == wanted else None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digests of uninterrupted runs."""
    work, made = tmp_path_factory.mktemp("whole"), {}

    def digests(settings):
        name = f"{settings.method}-{settings.hash}"
        if name not in made:
            execute(settings, work / name)
            made[name] = folder_digests(work / name)
        return made[name]

    return digests


@pytest.fixture(scope="module")
def stopped_children(tmp_path_factory):
    """Two processes, one stopped by SIGTERM and one by Ctrl-C in the middle of training: name -> what came of them."""
    work = tmp_path_factory.mktemp("signals")
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    ends = {"SIGTERM": "1 dense 3", "SIGINT": "1 retrain 0"}
    found = {}
    for name in ends:  # one after the other: a child that waited for its signal would run on and finish
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(work / name)], env=paths, stdout=subprocess.PIPE, text=True)
        while child.stdout.readline().strip() != ends[name]:
            assert child.poll() is None
        child.send_signal(getattr(signal, name))
        started = time.monotonic()
        rest = child.stdout.read()
        found[name] = (work / name, child.wait(), time.monotonic() - started, rest)
    return found


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_stops_within_five_seconds_and_the_same_command_finishes(name, code, stopped_children, whole):
    folder, returned, seconds, said = stopped_children[name]
    assert returned == code
    assert seconds < 5
    assert f"stopped by {name} after a clean checkpoint; resume with: perdure run --from {folder}" in said
    assert not (folder / "scores.json").exists()
    execute(config("packnet", steps=10), folder)
    assert folder_digests(folder) == whole(config("packnet", steps=10))


@pytest.mark.parametrize("place", [(0, "train", "begin"), (0, "train", 0), (1, "train", 7), (2, "train", "end")])
def test_stopping_anywhere_loses_nothing(place, tmp_path, whole):
    with pytest.raises(Interrupted, match="stopped by SIGTERM after a clean checkpoint"):
        execute(config("er"), tmp_path / "run", change=stop_at(*place))
    progress = Telling()
    execute(config("er"), tmp_path / "run", progress=progress)
    assert progress.said[0].startswith("resuming at task")
    assert folder_digests(tmp_path / "run") == whole(config("er"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_evaluation_ends_it_at_once(number, tmp_path, whole):
    """The running cell is thrown away and evaluated again; the cells before it are kept."""
    calls, plain = [], evaluator.rollout

    def rollout(*arguments, **options):
        calls.append(options["place"])
        if len(calls) == 3:
            signal.raise_signal(number)
            pytest.fail("the evaluation went on")
        return plain(*arguments, **options)

    with patch.object(evaluator, "rollout", rollout), pytest.raises(Interrupted) as stop:
        execute(config("er"), tmp_path / "run")
    assert stop.value.exit_code == 128 + number
    with patch.object(evaluator, "rollout", rollout):
        execute(config("er"), tmp_path / "run")
    assert calls[2] == calls[3]
    assert len(set(calls)) == len(calls) - 1, "no other cell was evaluated twice"
    assert folder_digests(tmp_path / "run") == whole(config("er"))


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Interrupted):
        execute(config(), tmp_path / "run", change=stop_at(0, "train", 1))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_run_outside_the_main_thread_works(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(execute(config("er"), tmp_path / "run")))
    thread.start()
    thread.join()
    assert found[0].complete
    assert folder_digests(tmp_path / "run") == whole(config("er"))


def finite(folder):
    """Whether every tensor of every generation on disk is finite, and how many generations there are."""
    made = Generations(folder / "resume")
    groups = [read_folder(made.folder / f"{n:08d}")[1] for n in made.numbers()]
    tensors = [t for group in groups for part in group.values() for t in part.values() if t.is_floating_point()]
    return all(bool(torch.isfinite(t).all()) for t in tensors), len(groups)


def poisoned(task, index):
    """The loss is NaN in one update, and never again."""

    def change(method):
        here = []
        watch(method, lambda *place: here.append(place))
        plain = method.policy.loss
        method.policy.loss = lambda batch, **rest: (
            plain(batch, **rest) * (float("nan") if here[-1] == (task, "train", index) else 1.0)
        )

    return change


@pytest.mark.parametrize(("saving", "kept"), [(saving_every_step, 2), (nullcontext, 1)], ids=["often", "seldom"])
def test_nan_stops_before_a_checkpoint_holds_it(saving, kept, tmp_path):
    sentence = r"loss or gradient became NaN or infinite at task .*; nothing of it was saved"
    with pytest.raises(GuardError, match=sentence) as stop, saving():
        execute(config(), tmp_path / "run", change=poisoned(1, 3))
    assert stop.value.exit_code == 3
    assert finite(tmp_path / "run") == (True, kept)
    assert not (tmp_path / "run" / "scores.json").exists()
    assert execute(config(), tmp_path / "run").complete, "the last checkpoint is still good"


def test_an_infinite_loss_that_leaves_finite_weights_is_not_saved_either(tmp_path):
    """Every tensor is finite: only the loss says that something is wrong."""

    def change(method):
        here = []
        watch(method, lambda *place: here.append(place))
        plain = method.policy.loss
        method.policy.loss = lambda batch, **rest: (
            plain(batch, **rest) + (float("inf") if here[-1] == (1, "train", 3) else 0.0)
        )

    with pytest.raises(GuardError, match="became NaN or infinite at task 1, before saving"), saving_every_step():
        execute(config(evaluation={"curve": 0}), tmp_path / "run", change=change)
    meta, _ = Generations(tmp_path / "run" / "resume").newest(print)
    assert (meta["cursor"]["task"], meta["cursor"]["step"]) == (1, 3), "the state before the bad update"


@pytest.mark.parametrize(("policy", "stream"), [("bc", "toy"), ("dt", "toy"), ("bc", "toy-discrete")])
def test_a_huge_learning_rate_is_stopped(policy, stream, tmp_path):
    settings = config("finetune", policy, stream, learning_rate=1e30, steps=60, clip=0.0)
    for _ in range(2):  # the same command again meets the same end
        with pytest.raises(GuardError, match="NaN or infinit"), saving_every_step():
            execute(settings, tmp_path / "run")
        assert finite(tmp_path / "run")[0]


def test_nan_in_a_tensor_that_no_loss_sees_is_refused(tmp_path):
    def change(method):
        watch(
            method,
            lambda *place: method.policy.normalizer.mean_0.fill_(float("nan")) if place == (0, "train", 7) else None,
        )

    with pytest.raises(GuardError, match="NaN or infinit"):
        execute(config(evaluation={"curve": 0}), tmp_path / "run", change=change)
    assert finite(tmp_path / "run")[0]


def test_data_only_streams_stop_on_nan_too(tmp_path):
    plain = stream_of(config())
    data_only = Stream("toy", tuple(replace(task, env=None) for task in plain.tasks))
    with pytest.raises(GuardError, match="NaN or infinit"):
        execute(config(), tmp_path / "run", stream=data_only, change=poisoned(0, 1))
    assert finite(tmp_path / "run")[0]


def test_another_fingerprint_is_named_and_marks_the_result(tmp_path):
    with pytest.raises(Interrupted):
        execute(config(), tmp_path / "run", change=stop_at(1, "train", 3))
    progress = Telling()
    here = {"machine": "other", "torch": torch.__version__}
    with patch("perdure.experiment.fingerprint", lambda device, stream: here):
        matrix = execute(config(), tmp_path / "run", progress=progress)
    assert "machine was " in progress.said[0]
    assert "is 'other'" in progress.said[0]
    assert "torch was" not in progress.said[0]
    assert matrix.bit_exact is False
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["bit_exact"] is False


def test_the_same_fingerprint_stays_exact(tmp_path):
    with pytest.raises(Interrupted):
        execute(config(), tmp_path / "run", change=stop_at(1, "train", 3))
    assert execute(config(), tmp_path / "run").bit_exact is True


def test_a_damaged_newest_checkpoint_falls_back_and_ends_alike(tmp_path, whole):
    with pytest.raises(Interrupted), saving_every_step():
        execute(config("er"), tmp_path / "run", change=stop_at(2, "train", 5))
    newest = max((tmp_path / "run" / "resume").iterdir())
    content = (newest / "agent.safetensors").read_bytes()
    (newest / "agent.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    progress = Telling()
    execute(config("er"), tmp_path / "run", progress=progress)
    assert "is damaged" in progress.said[0]
    assert progress.said[1].startswith("resuming at task 3 of 3, step")
    assert folder_digests(tmp_path / "run") == whole(config("er"))


def test_log_rows_beyond_the_checkpoint_are_cut(tmp_path, whole):
    with pytest.raises(Interrupted):
        execute(config("er"), tmp_path / "run", change=stop_at(1, "train", 3))
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as log:
        log.write(b'{"task": 1, "phase": "train", "step": 8, "fit": 0.5}\n{"task": 1, "pha')
    execute(config("er"), tmp_path / "run")
    assert folder_digests(tmp_path / "run") == whole(config("er"))


def test_a_full_disk_keeps_what_is_finished(tmp_path, whole):
    """The run ends with a sentence; with room again it goes on from the last checkpoint."""
    calls = []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 40:
            raise OSError(28, "No space left on device")
        return save_file(*arguments)

    from safetensors.torch import save_file

    with patch("perdure.core.checkpoint.save_file", full), saving_every_step(), pytest.raises(UsageError, match="No space left"):
        execute(config("er"), tmp_path / "run")
    assert finite(tmp_path / "run") == (True, 2)
    execute(config("er"), tmp_path / "run")
    assert folder_digests(tmp_path / "run") == whole(config("er"))


def test_a_finished_run_is_not_run_again(tmp_path):
    execute(config(), tmp_path / "run")
    before, progress = folder_digests(tmp_path / "run"), Telling()
    (tmp_path / "run" / "resume" / "00000009").mkdir(parents=True)  # as a kill right after scores.json leaves it
    matrix = execute(config(), tmp_path / "run", progress=progress, change=lambda method: pytest.fail("it ran"))
    assert "is finished already; nothing to do" in progress.said[0]
    assert matrix.complete
    assert folder_digests(tmp_path / "run") == before
    assert not (tmp_path / "run" / "resume").exists()


def test_a_kill_while_config_json_is_written_does_not_block_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.abc123.tmp").write_bytes(b"{")
    assert execute(config(), tmp_path / "run").complete
    assert not list((tmp_path / "run").glob(".*"))


def test_a_folder_of_another_config_or_of_something_else_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        execute(config(), tmp_path / "run", change=stop_at(0, "train", 3))
    with pytest.raises(
        UsageError, match=r"holds a run of another config .method_config\.learning_rate is 0\.5 here and 0\.001 there"
    ):
        execute(config(learning_rate=0.5), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        execute(config(), tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_data_that_changed_since_the_run_began_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        execute(config(), tmp_path / "run", change=stop_at(1, "train", 3))
    plain, more = stream_of(config()), stream_of(config(episodes=7))
    swapped = Stream("toy", (plain.tasks[0], replace(plain.tasks[1], data=more.tasks[1].data), plain.tasks[2]))
    with pytest.raises(UsageError, match=r"the data of toy changed since .* was begun .corner-2 is 'sha256:"):
        execute(config(), tmp_path / "run", stream=swapped)
    assert execute(config(), tmp_path / "run").complete


def test_the_schedule_of_cells(tmp_path):
    matrix = execute(config(evaluation={"episodes": 3, "shared": 2}), tmp_path / "run")
    assert {place: len(cell.episodes) for place, cell in matrix.cells.items()} == {
        (0, 0): 2, (0, 1): 2, (0, 2): 2, (1, 0): 3, (1, 1): 2, (2, 0): 2, (2, 1): 3, (2, 2): 2, (3, 0): 3, (3, 1): 3, (3, 2): 3,
    }  # fmt: skip
    assert sorted(matrix.curve) == [(task, f) for task in range(3) for f in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert set(matrix.action_error) == {(learned, task) for learned, task in matrix.cells if task < learned}
    assert ScoreMatrix.load(tmp_path / "run" / "scores.json").to_json() == matrix.to_json()


def test_metrics_tell_task_phase_and_step(tmp_path):
    execute(config("packnet"), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["task"], row["phase"], row["step"]) for row in rows] == [
        (t, p, n) for t in range(3) for p, n in (("dense", 6), ("retrain", 2))
    ]
    assert all(row["fit"] > 0 for row in rows)


def test_a_run_is_the_plain_order_of_calls(tmp_path):
    """Without folder, evaluation, saving and signals the same weights come out."""
    methods = []
    execute(config("ewc"), tmp_path / "run", change=methods.append)
    assert weights_digest(methods[0]) == weights_digest(Lab(config("ewc")).learn().method)


def test_newest_agent(tmp_path):
    for name in ("2", "10", "x"):
        (tmp_path / "agent" / name).mkdir(parents=True)
    assert newest_agent(tmp_path) == tmp_path / "agent" / "10"
    (tmp_path / "agent" / "2" / "meta.json").touch()
    assert newest_agent(tmp_path / "agent" / "2") == tmp_path / "agent" / "2"
    assert newest_agent(Path("absent")) == Path("absent/agent/0")


@pytest.mark.parametrize("method", ["joint", "packnet"])
def test_a_disk_full_at_the_very_end_loses_nothing(method, tmp_path, whole):
    """After the last checkpoint only scores.json is missing; the next start writes it and learns nothing again."""
    refuse = OSError(28, "No space left on device")
    with patch("perdure.core.run.write_json", side_effect=refuse), pytest.raises(UsageError, match=r"No space left.*make room"):
        execute(config(method), tmp_path / "run")
    execute(config(method), tmp_path / "run", change=lambda method: setattr(method, "descend", pytest.fail))
    assert folder_digests(tmp_path / "run") == whole(config(method))


def test_phases_of_unknown_length_have_no_learning_curve(tmp_path):
    """Five points at step 0 would be the untrained policy five times."""

    def late(method):
        phases = method.phases
        method.phases = lambda task, access: [replace(p, steps=lambda n=p.steps: n) for p in phases(task, access)]

    matrix = execute(config(), tmp_path / "run", change=late)
    assert not matrix.curve
    assert matrix.complete
