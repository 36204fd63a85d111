"""The commands end to end on the toy stream, as a user types them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_samples import SHORT, dataset, npz

from perdure.api import enough_memory, plan
from perdure.bench import MEASURES
from perdure.cli import VERBS
from perdure.cli.data import VERBS as DATA_VERBS
from perdure.core.errors import GuardError
from perdure.core.matrix import ScoreMatrix


def test_run_report_and_eval_end_to_end(place, perdure):
    code, out, _ = perdure("run", "packnet", "toy", "--seed", "0", "1", "--out", "mine", *SHORT)
    assert code == 0
    first = out.splitlines()[0]
    for part in ("packnet on toy", "bc layers 2, width 64", "cpu profile: 8 steps per task, batch 8", "seed 0", "mine/seed0"):
        assert part in first
    assert "seed 0: average performance" in out
    assert "forgetting 0.000" in out
    assert "next:  perdure report mine/seed0 mine/seed1" in out
    scores = (place / "mine" / "seed0" / "scores.json").read_bytes()

    code, out, err = perdure("run", "packnet", "toy", "--seed", "0", "1", "--out", "mine", *SHORT)
    assert code == 0
    assert sum("is finished already" in line for line in err) == 2
    assert (place / "mine" / "seed0" / "scores.json").read_bytes() == scores

    before = {path: path.stat().st_mtime_ns for path in (place / "mine").rglob("*")}
    code, out, _ = perdure("eval", "mine/seed0", "--json", "--workers", "0")
    assert code == 0
    found = json.loads(out)
    matrix = ScoreMatrix.load(place / "mine" / "seed0" / "scores.json")
    assert [row["score"] for row in found["tasks"]] == [row["before"] for row in found["tasks"]]
    assert all(0 <= row["interval"][0] <= row["interval"][1] <= 1 for row in found["tasks"])
    assert [len(row["episodes"]) for row in found["tasks"]] == [len(matrix.cells[3, j].episodes) for j in range(3)]
    code, out, _ = perdure("eval", "mine/seed0/agent/1", "--json", "--workers", "0", "--episodes", "2")
    assert [row["before"] for row in json.loads(out)["tasks"]] == [matrix.mean(1, 0)]
    code, out, _ = perdure("eval", "mine/seed1", "--task", "corner-2", "--episodes", "3", "--workers", "0")
    assert code == 0
    assert "corner-2" in out
    assert "corner-1" not in out
    assert {path: path.stat().st_mtime_ns for path in (place / "mine").rglob("*")} == before

    code, out, _ = perdure("report", "mine", "--json")
    assert code == 0
    assert json.loads(out)["rows"]
    assert (place / "mine" / "report.html").is_file()


def test_a_config_file_repeats_a_run_and_finishes_one(place, perdure):
    code, out, _ = perdure("run", "finetune", "toy", "--show", *SHORT)
    assert code == 0
    config = json.loads(out)
    assert config["method_config"]["steps"] == 8
    assert not (place / "runs").exists()
    (place / "my.json").write_text(out)
    assert json.loads(perdure("run", "--from", "my.json", "--show")[1]) == config
    code, out, _ = perdure("run", "--from", "my.json", "--workers", "0")
    assert code == 0
    folder = place / "runs" / "toy" / "finetune" / f"bc-{config['hash']}-seed0"
    assert (folder / "scores.json").is_file()
    assert perdure("run", "--from", "my.json", "--out", "again", "--workers", "0")[0] == 0
    assert (place / "again" / "scores.json").read_bytes() == (folder / "scores.json").read_bytes()
    _, _, err = perdure("run", "--from", "again/config.json")  # no --out: the run folder that the file lies in
    assert "again is finished already" in err[0]


def test_dry_run_estimates_and_writes_nothing(place, perdure):
    code, out, err = perdure("run", "er", "toy", "--dry-run", *SHORT)
    assert code == 0
    assert not err
    for word in ("estimate", "time", "memory", "disk"):
        assert word in out
    assert list(place.iterdir()) == []


def test_show_lists_one_config_per_seed(perdure):
    shown = json.loads(perdure("run", "ewc", "toy", "--seed", "3", "4", "--show", "--method.strength", "7")[1])
    assert [config["seed"] for config in shown] == [3, 4]
    assert {config["method_config"]["strength"] for config in shown} == {7.0}
    assert shown[0]["hash"] == shown[1]["hash"]


def test_help_has_examples_and_the_fields_with_their_values(perdure):
    for verb in VERBS:
        code, out, err = perdure(verb, "--help")
        assert (code, err) == (0, [])
        assert f"perdure {verb}" in out
        assert "example" in out
    for verb, (_, _, example) in DATA_VERBS.items():
        assert example in perdure("data", verb, "--help")[1]
    assert all(name in perdure("bench", "--help")[1] for name in MEASURES)
    out = perdure("run", "ewc", "toy", "--policy", "dt", "--help")[1]
    assert "--method.strength 1 " in out
    assert "Weight of the penalty" in out
    assert "--method.steps 400 " in out
    assert "--policy.context 5 " in out
    assert "--stream.tasks 3 " in out
    assert "--evaluation.episodes 50 " in out


def test_without_arguments_three_commands_to_try(perdure):
    code, out, err = perdure()
    assert (code, err) == (0, [])
    assert len(out.splitlines()) <= 15
    assert sum(line.startswith("  perdure ") for line in out.splitlines()) == 3
    assert perdure("--version")[1].startswith("perdure ")
    assert all(verb in perdure("--help")[1] for verb in VERBS)


LISTINGS = ("methods", "streams", "streams toy-pixels", "data list", "data info ./set", "data check ./set", "data card ./set")


@pytest.mark.parametrize("command", LISTINGS)
def test_everything_that_lists_or_checks_speaks_json(command, place, perdure):
    dataset(place / "set")
    dataset(place / "data" / "mine" / "one")
    code, plain, _ = perdure(*command.split())
    assert code == 0
    assert plain.strip()
    code, out, _ = perdure(*command.split(), "--json")
    assert code == 0
    assert json.loads(out)


def test_data_go_in_and_out(place, perdure):
    code, out, _ = perdure("data", "import", npz(place / "raw"), "pend/one", "--low", "-2", "--high", "2", "--quality", "random")
    assert code == 0
    assert "pend/one" in out
    assert "action bounds  given" in " ".join(perdure("data", "info", "pend/one")[1].split(" "))
    card = json.loads((place / "data" / "pend" / "one" / "card.json").read_text())
    assert card["spec"]["action"]["low"] == [-2.0]
    assert card["quality"] == "random"
    assert perdure("data", "export", "pend/one", "out", "--format", "npz")[0] == 0
    assert list((place / "out").glob("*.npz"))
    (place / "data" / "pend" / "one" / "card.json").write_text("{")
    code, out, _ = perdure("data", "list")
    assert code == 0
    assert "damaged" in out


def test_a_guard_ends_with_its_own_code_and_the_remedy(place, perdure):
    code, _, err = perdure("run", "finetune", "toy", "--workers", "0", "--evaluation.episodes", "1", "--evaluation.shared", "1",
                           "--evaluation.curve", "0", "--method.learning_rate", "1e38", "--method.clip", "0")  # fmt: skip
    assert code == 3
    assert "NaN or inf" in err[-1]
    assert "lower method.learning_rate" in err[-1]
    assert not any("Traceback" in line for line in err)


def test_whole_numbers_may_be_written_with_an_exponent(perdure):
    assert json.loads(perdure("run", "packnet", "toy", "--seed", "1e1", "--show")[1])["seed"] == 10


def test_too_little_memory_is_a_guard_that_names_the_sizes(perdure):
    code, _, err = perdure("run", "finetune", "toy", *SHORT, "--policy.width", "30000000000")
    assert code == 3
    assert "method.batch 8 and policy.width 30000000000" in err[-1]
    assert not any("Traceback" in line for line in err)
    assert perdure("run", "finetune", "toy", "--policy.width", "30000000000", "--dry-run")[0] == 3


def test_only_what_speaks_of_memory_becomes_a_guard():
    config = plan("finetune", "toy")
    with pytest.raises(RuntimeError, match="shapes differ"), enough_memory(config):
        raise RuntimeError("shapes differ")
    for problem in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")):
        with pytest.raises(GuardError, match=r"method\.batch 64"), enough_memory(config):
            raise problem


def test_streams_say_whether_their_data_are_here(place, perdure):
    found = {stream["name"]: stream for stream in json.loads(perdure("streams", "--json")[1])}
    assert len(found["cw20-v3"]["tasks"]) == 20
    assert not found["cw3-v3"]["tasks"][0]["present"]
    assert found["toy"]["tasks"][0]["present"]


# -- in a process of their own --------------------------------------------------------------------------------


def start(place, *words):
    path = str(Path(__file__).parents[2])
    return subprocess.Popen([sys.executable, "-m", "perdure", *words], cwd=place, env={**os.environ, "PYTHONPATH": path},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_a_checkpoint_and_the_command_that_resumes(place, number, code):
    words = ("run", "finetune", "toy", "--out", "mine", "--workers", "0", "--method.steps", "300000")
    process = start(place, *words)
    deadline = time.monotonic() + 60
    while not list((place / "mine" / "resume").glob("0*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == code
    last = err.splitlines()[-1]
    assert "after a clean checkpoint; resume with: perdure run finetune toy --out mine" in last
    assert "Traceback" not in err


@pytest.mark.parametrize("after", [0.3, 0.8])
def test_ctrl_c_while_modules_are_imported_is_one_sentence(place, after):
    process = start(place, "run", "finetune", "toy", "--out", "mine", "--workers", "0", "--method.steps", "300000")
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("perdure: ")
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_is_no_traceback(place):
    process = start(place, "streams", "--json")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
