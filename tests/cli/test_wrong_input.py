"""One table of wrong inputs: each ends with exit code 2, one clear sentence, no traceback, and nothing lost."""

import json
import os
import resource
import zipfile

import numpy as np
import pytest
from cli_samples import SHORT, dataset, edit_card, forge, npz, patch, refused, stream_file
from wrong_lines import EMPTY, LINES

from perdure.core.checkpoint import write_folder
from perdure.core.lock import claimed
from perdure.run_config import resolve, settle_config

CASES = []


def wrong(*fragments):
    """Add a case: a function from a folder to the words of a command, and what its complaint must say."""

    def add(case):
        CASES.append(pytest.param(case, fragments, id=case.__name__))
        return case

    return add


def words(line):
    return lambda place: line.split()


# -- names, keys and values ---------------------------------------------------------------------------------

CASES += [pytest.param(words(line), fragments, id=line) for line, fragments in LINES.items()]

CASES += [pytest.param(lambda place, argv=argv: argv, ("empty",), id=f"empty in {' '.join(argv)}") for argv in EMPTY]


# -- datasets -----------------------------------------------------------------------------------------------


@wrong("observations, episode 0, step 0, column 0 is nan")
def dataset_with_nan(place):
    forge(dataset(place / "set"), "observations", np.nan)
    return ["data", "check", "./set"]


@wrong("actions", "outside")
def dataset_with_actions_outside_the_bounds(place):
    forge(dataset(place / "set"), "actions", 2.5)
    return ["data", "check", "./set"]


@wrong("arrays.safetensors", "observations")
def dataset_with_wrong_shapes(place):
    edit_card(dataset(place / "set"), episode_lengths=[5, 5, 6])
    return ["data", "check", "./set"]


@wrong("zero episodes")
def dataset_without_episodes(place):
    empty = {name: [] for name in ("episode_lengths", "returns", "success", "goals", "seeds")}
    edit_card(dataset(place / "set"), **empty, split={"holdout": []}, behaviour={"policy": "x", "noise": []})
    return ["data", "check", "./set"]


@wrong("arrays.safetensors")
def dataset_cut_short(place):
    patch(dataset(place / "set") / "arrays.safetensors", lambda content: content[:-10])
    return ["data", "check", "./set"]


@wrong("digest", "damaged")
def dataset_with_a_flipped_bit(place):
    patch(dataset(place / "set") / "arrays.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    return ["data", "check", "./set"]


@wrong("arrays.safetensors", "cut short")
def dataset_whose_header_asks_for_absurd_memory(place):
    patch(dataset(place / "set") / "arrays.safetensors", lambda content: (2**60).to_bytes(8, "little") + content[8:])
    return ["data", "check", "./set"]


@wrong("card.json", "episode_lengths of episode 0")
def dataset_whose_card_asks_for_absurd_memory(place):
    edit_card(dataset(place / "set"), episode_lengths=[10**15, 5, 5])
    return ["data", "check", "./set"]


@wrong("card.json", "damaged or edited")
def dataset_with_an_edited_card(place):
    patch(dataset(place / "set") / "card.json", lambda content: content.replace(b'"expert"', b'"mixed"'))
    return ["data", "info", "./set"]


# -- foreign data -------------------------------------------------------------------------------------------


@wrong("observations, episode 0, step 0, column 0 is nan")
def import_with_nan(place):
    return ["data", "import", npz(place / "raw", observations=np.full((6, 3), np.nan)), "x"]


@wrong("ep0.npz", "actions")
def import_with_wrong_shapes(place):
    return ["data", "import", npz(place / "raw", actions=np.zeros((4, 1))), "x"]


@wrong("ep0.npz", "step")
def import_without_steps(place):
    return ["data", "import", npz(place / "raw", steps=0), "x"]


@wrong("raw", "no known format")
def import_of_an_empty_folder(place):
    (place / "raw").mkdir()
    return ["data", "import", "raw", "x"]


@wrong("actions", "outside")
def import_with_actions_outside_the_bounds(place):
    return ["data", "import", npz(place / "raw"), "x", "--low", "-0.01", "--high", "0.01"]


@wrong("ep0.npz")
def import_of_a_cut_file(place):
    patch(npz(place / "raw") / "ep0.npz", lambda content: content[: len(content) // 2])
    return ["data", "import", "raw", "x"]


@wrong("ep0.npz")
def import_with_a_flipped_bit(place):
    with zipfile.ZipFile(npz(place / "raw") / "ep0.npz") as archive:
        at = archive.getinfo("actions.npy").header_offset + 200
    patch(place / "raw" / "ep0.npz", lambda content: content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
    return ["data", "import", "raw", "x"]


@wrong("ep0.npz", "object")
def import_with_a_pickled_object(place):
    return ["data", "import", npz(place / "raw", rewards=np.array([{"run": "me"}] * 6, dtype=object)), "x"]


@wrong("ep0.npz")
def import_whose_header_asks_for_absurd_memory(place):
    npz(place / "raw")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(place / "raw" / "ep0.npz", "a") as archive:
        archive.writestr("timeouts.npy", member)
    return ["data", "import", "raw", "x"]


@wrong("exists already")
def import_over_a_dataset(place):
    dataset(place / "data" / "x")
    return ["data", "import", npz(place / "raw"), "x"]


@wrong("format is 'zarr'")
def import_of_an_unknown_format(place):
    return ["data", "import", npz(place / "raw"), "x", "--format", "zarr"]


# -- streams of users ---------------------------------------------------------------------------------------


@wrong("kitchen.toml", "'swing'", "no dataset at")
def stream_with_a_missing_dataset(place):
    return ["run", "finetune", stream_file(place, ["name = 'swing'\ndata = 'nothing'"])]


@wrong("'swing'", "'Pendulm-v1' is not registered", "did you mean 'Pendulum-v1'?")
def listing_a_stream_with_a_mistyped_environment(place):
    dataset(place / "set")
    scored = "score = 'return'\nlow = 0\nhigh = 1"
    return ["streams", stream_file(place, [f"name = 'swing'\ndata = 'set'\nenv = 'Pendulm-v1'\n{scored}"])]


@wrong("'swing'", "horizon is 0")
def listing_a_stream_without_steps(place):
    dataset(place / "set")
    scored = "horizon = 0\nscore = 'return'\nlow = 0\nhigh = 1"
    return ["streams", stream_file(place, [f"name = 'swing'\ndata = 'set'\nenv = 'Pendulum-v1'\n{scored}"])]


@wrong("'swing'", "has no score")
def listing_a_stream_that_nothing_scores(place):
    dataset(place / "set")
    return ["streams", stream_file(place, ["name = 'swing'\ndata = 'set'\nenv = 'Pendulum-v1'"])]


@wrong("'swing'", "no held-out episode")
def listing_a_stream_without_held_out_episodes(place):
    dataset(place / "set", episodes=1)
    return ["streams", stream_file(place, ["name = 'swing'\ndata = 'set'"])]


@wrong("the task 'swing' twice")
def listing_a_stream_that_names_a_task_twice(place):
    dataset(place / "set")
    return ["streams", stream_file(place, ["name = 'swing'\ndata = 'set'"] * 2)]


@wrong("MountainCarContinuous-v0", "sample", "different spaces", "obs is float32-2 here and float32-3 there")
def stream_with_other_spaces_than_its_data(place):
    dataset(place / "set")
    scored = "score = 'return'\nlow = 0\nhigh = 1"
    return ["run", "finetune", stream_file(place, [f"name = 'up'\ndata = 'set'\nenv = 'MountainCarContinuous-v0'\n{scored}"])]


@wrong("Joint", "the datasets of earlier tasks", "kitchen forbids")
def method_that_needs_what_the_stream_forbids(place):
    dataset(place / "set")
    return ["run", "joint", stream_file(place, ["name = 'swing'\ndata = 'set'"], "past_data_allowed = false")]


@wrong("policy.heads", "kitchen forbids", "the task id")
def heads_per_task_where_the_stream_hides_the_task(place):
    dataset(place / "set")
    return ["run", "finetune", stream_file(place, ["name = 'swing'\ndata = 'set'"], "task_id_at_test = false")]


@wrong("policy is 'sfbc'", "parts for every task", "kitchen forbids", "use --policy bc --policy.heads single")
def a_critic_head_per_task_where_the_stream_hides_the_task(place):
    dataset(place / "set")
    name = stream_file(place, ["name = 'swing'\ndata = 'set'"], "task_id_at_test = false")
    return ["run", "finetune", name, "--policy", "sfbc", "--policy.normaliser", "first"]


@wrong("CuGRO", "the task id at test time", "kitchen forbids")
def a_method_that_needs_the_task_where_the_stream_hides_it(place):
    dataset(place / "set")
    return ["run", "cugro", stream_file(place, ["name = 'swing'\ndata = 'set'"], "task_id_at_test = false")]


@wrong("kitchen.toml", "changed since")
def config_of_a_stream_file_that_changed(place):
    dataset(place / "set")
    name = stream_file(place, ["name = 'swing'\ndata = 'set'"])
    settle_config(_folder(place / "old"), resolve("finetune", name))
    stream_file(place, ["name = 'swing'\ndata = 'set'\ntext = 'Swing.'"])
    return ["run", "--from", "old/config.json"]


# -- run folders --------------------------------------------------------------------------------------------


def _folder(path):
    path.mkdir()
    return path


@wrong("holds a run of another config", "method is 'packnet' here and 'finetune' there")
def folder_of_another_config(place):
    settle_config(_folder(place / "mine"), resolve("finetune", "toy"))
    return ["run", "packnet", "toy", "--out", "mine"]


@wrong("is not empty and holds no run")
def folder_with_other_things(place):
    (_folder(place / "mine") / "thesis.tex").write_text("x")
    return ["run", "packnet", "toy", "--out", "mine"]


@wrong("mine", "cannot be written")
def file_where_the_folder_should_be(place):
    (place / "mine").write_text("x")
    return ["run", "packnet", "toy", "--out", "mine"]


@wrong("checkpoint format 99", "install a newer one")
def checkpoint_of_a_newer_format(place):
    settle_config(_folder(place / "mine"), resolve("packnet", "toy"))
    newer = place / "mine" / "resume" / "00000001"
    newer.mkdir(parents=True)
    (newer / "meta.json").write_text(json.dumps({"format": 99, "digests": {}, "perdure": "9.0"}))
    return ["run", "packnet", "toy", "--out", "mine"]


@wrong("checkpoint format 99", "install a newer one")
def agent_of_a_newer_format(place):
    (_folder(place / "agent1") / "meta.json").write_text(json.dumps({"format": 99, "digests": {}}))
    return ["eval", "agent1"]


@wrong("holds no agent that can be built")
def agent_without_its_config(place):
    write_folder(place / "agent1", {"learned": 1}, {})
    return ["eval", "agent1"]


@wrong("old/config.json", "no run config", "missing")
def config_with_missing_fields(place):
    (_folder(place / "old") / "config.json").write_text('{"method": "packnet"}')
    return ["run", "--from", "old/config.json"]


@wrong("config.json", "unknown field 'profil'", "did you mean 'profile'?")
def config_with_an_unknown_field(place):
    settle_config(_folder(place / "old"), resolve("packnet", "toy"))
    patch(place / "old" / "config.json", lambda content: content.replace(b'"hash"', b'"profil": "x", "hash"'))
    return ["run", "--from", "old/config.json"]


@wrong("config.json is not valid JSON")
def config_that_is_no_json(place):
    (_folder(place / "old") / "config.json").write_text("{")
    return ["run", "--from", "old/config.json"]


@wrong("holds no run")
def report_of_an_empty_folder(place):
    _folder(place / "mine")
    return ["report", "mine"]


@wrong("scores.json")
def report_of_damaged_scores(place):
    settle_config(_folder(place / "mine"), resolve("packnet", "toy"))
    (place / "mine" / "scores.json").write_text('{"format": 1}')
    return ["report", "mine"]


@pytest.mark.parametrize(("case", "fragments"), CASES)
def test_wrong_input_is_one_clear_sentence_and_loses_nothing(case, fragments, place, perdure):
    refused(perdure, place, case(place), fragments)


def test_a_second_command_on_the_same_folder_is_refused(place, perdure):
    with claimed(place / "mine"):
        code, _, err = perdure("run", "packnet", "toy", "--out", "mine")
    assert code == 2
    assert len(err) == 1
    assert f"is being written by process {os.getpid()}" in err[0]


def test_a_full_disk_is_named_and_finished_work_is_kept(place, perdure, monkeypatch):
    command = ("run", "packnet", "toy", "--out", "mine", *SHORT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))  # every file that grows beyond this fails, as on a full disk
    try:
        code, _, err = perdure(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert "cannot write" in err[-1]
    assert "make room" in err[-1]
    assert not any("Traceback" in line for line in err)
    assert perdure(*command)[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(place, perdure):
    _folder(place / "shut").chmod(0o500)
    code, _, err = perdure("run", "packnet", "toy", "--out", "shut/mine")
    assert code == 2
    assert len(err) == 1
    assert "cannot be written" in err[0]
