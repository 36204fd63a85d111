"""Datasets on disk: round trips, validation when writing, safe names, opening, the cache."""

import json
import os
import time

import numpy as np
import pytest
from dataset_samples import (
    ALL_SPECS,
    ARRAYS,
    CONTINUOUS,
    DESCRIPTION,
    DISCRETE,
    assert_same_arrays,
    episodes,
    lengths_of_episodes,
    specs,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Spec
from perdure.data.card import card_digest
from perdure.data.names import dataset_folder, safe_name
from perdure.data.report_card import describe
from perdure.data.store import Dataset, check, write_dataset


@settings(max_examples=30, deadline=None)
@given(spec=specs(), lengths=lengths_of_episodes, seed=st.integers(0, 2**32))
def test_round_trip_is_bit_for_bit(tmp_path_factory, spec, lengths, seed):
    folder = tmp_path_factory.mktemp("round") / "set"
    items = episodes(spec, lengths, seed)
    dataset = write_dataset(folder, items, name="sample", spec=spec, **DESCRIPTION)
    opened = Dataset.open(folder, verify=True)
    assert opened.spec == spec
    assert opened.card == dataset.card
    assert check(folder) == []
    for e, item in enumerate(items):
        back = opened.trajectory(e)
        for name in ARRAYS:
            assert vars(back)[name].tobytes() == np.ascontiguousarray(vars(item)[name]).tobytes()
        assert (back.success, back.goal, back.seed, back.level) == (
            item.success,
            item.goal,
            item.seed,
            item.level,
        )
    stored = load_file(folder / "arrays.safetensors")  # any safetensors reader can open the file
    assert all(np.array_equal(stored[name], opened.array(name)) for name in ARRAYS)


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_memory_and_disk_are_one_class_with_one_digest(tmp_path, spec):
    disk = written(tmp_path / "set", spec)
    memory = Dataset.in_memory(episodes(spec), name="sample", spec=spec, **DESCRIPTION)
    assert_same_arrays(disk, memory)
    assert memory.digest == disk.digest
    assert memory.folder is None
    assert len(memory) == 3


def test_facts_of_a_dataset(tmp_path):
    dataset = written(tmp_path / "set")
    assert dataset.transitions == 11
    assert dataset.lengths.tolist() == [4, 1, 6]
    assert dataset.starts.tolist() == [0, 4, 5]
    assert dataset.returns[2] == pytest.approx(dataset.array("rewards")[5:].sum(dtype=np.float64))
    assert dataset.successes == [True, False, None]
    assert dataset.card["behaviour"]["noise"] == [0.0, 0.1, 0.2]
    assert dataset.folder == tmp_path / "set"
    assert sorted(os.listdir(tmp_path)) == ["set"]
    with pytest.raises(ValueError, match="read-only"):
        dataset.array("actions")[0] = 0
    for wrong in (
        lambda: dataset.array("action"),
        lambda: dataset.episodes("test"),
        lambda: dataset.trajectory(3),
    ):
        with pytest.raises(UsageError):
            wrong()


@pytest.mark.parametrize(
    ("count", "share", "holdout"),
    [
        (1, 0.1, []),
        (2, 0.1, [1]),
        (5, 0.1, [4]),
        (25, 0.1, [9, 19]),
        (4, 0.5, [1, 3]),
        (9, 0.0, []),
        (7, 0.3, [2, 5]),
    ],
)
def test_holdout_is_fixed_and_leaves_episodes_to_train(count, share, holdout):
    dataset = Dataset.in_memory(
        episodes(CONTINUOUS, [2] * count), name="sample", spec=CONTINUOUS, holdout=share, **DESCRIPTION
    )
    assert dataset.episodes("holdout").tolist() == holdout
    assert (
        sorted([*dataset.episodes("train"), *holdout])
        == dataset.episodes("all").tolist()
        == list(range(count))
    )


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        written(tmp_path / "set")
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "set", *(tmp_path / "set").iterdir())
    }
    assert modes == {"set": 0o750, "card.json": 0o640, "arrays.safetensors": 0o640}


def plant(name, value, row, column=None):
    def change(items):
        array = vars(items[2])[name].copy()
        array[row if column is None else (row, column)] = value
        items[2] = type(items[2])(**{**vars(items[2]), name: array})

    return change


WRONG = {
    "NaN observation": (
        CONTINUOUS,
        plant("observations", np.nan, 6, 1),
        r"observations, episode 2, step 6, column 1 is nan",
    ),
    "infinite observation": (
        CONTINUOUS,
        plant("observations", -np.inf, 0, 0),
        "episode 2, step 0, column 0 is -inf",
    ),
    "NaN action": (CONTINUOUS, plant("actions", np.nan, 3, 0), "actions, episode 2, step 3, column 0 is nan"),
    "NaN reward": (CONTINUOUS, plant("rewards", np.nan, 5), "rewards, episode 2, step 5 is nan"),
    "action above": (
        CONTINUOUS,
        plant("actions", 1.5, 5, 1),
        r"step 5, column 1 is 1.5, outside the bounds \[-1, 1\]; clip",
    ),
    "action below": (CONTINUOUS, plant("actions", -2, 0, 1), r"episode 2, step 0, column 1 is -2, outside"),
    "discrete too large": (
        DISCRETE,
        plant("actions", 4, 1),
        "actions, episode 2, step 1 is 4; the spec has the actions 0 to 3",
    ),
    "discrete negative": (DISCRETE, plant("actions", -1, 1), "step 1 is -1"),
    "terminated early": (
        CONTINUOUS,
        plant("terminated", True, 2),
        "terminated, episode 2, step 2 is True before the end",
    ),
    "truncated early": (
        CONTINUOUS,
        plant("truncated", True, 0),
        "truncated, episode 2, step 0 is True before the end",
    ),
    "zero episodes": (CONTINUOUS, list.clear, "there are zero episodes; give at least one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused_by_place_and_nothing_is_left(tmp_path, case):
    spec, change, pattern = WRONG[case]
    items = episodes(spec)
    change(items)
    with pytest.raises(UsageError, match=pattern) as caught:
        write_dataset(tmp_path / "set", items, name="sample", spec=spec, **DESCRIPTION)
    assert str(caught.value).startswith("dataset sample: ")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_channel_names_appear_in_messages():
    spec = Spec(Box((3,), names=("x", "y", "gap")), CONTINUOUS.action)
    items = episodes(spec)
    items[0].observations[1, 2] = np.inf
    with pytest.raises(UsageError, match=r"episode 0, step 1, column 2 \('gap'\) is inf"):
        Dataset.in_memory(items, name="sample", spec=spec, **DESCRIPTION)


def test_bounds_are_rounded_like_the_data():
    spec = Spec(Box((1,)), Box((1,), low=(-0.1,), high=(0.1,)))
    items = episodes(spec)
    items[0].actions[:] = np.float32(0.1)  # larger than 0.1 as a double
    Dataset.in_memory(items, name="sample", spec=spec, **DESCRIPTION)


BAD_DESCRIPTIONS = {
    "holdout": (0.9, "holdout is 0.9"),
    "name": ("../x", "dataset name is '../x'"),
    "quality": ("a\nb", "quality is"),
    "licence": (3, "licence is 3; it must be a str"),
    "behaviour": ({}, "behaviour has the fields"),
}


@pytest.mark.parametrize("field", BAD_DESCRIPTIONS)
def test_wrong_descriptions_are_refused(tmp_path, field):
    value, pattern = BAD_DESCRIPTIONS[field]
    with pytest.raises(UsageError, match=pattern):
        written(tmp_path / "set", **{field: value})
    assert os.listdir(tmp_path) == []
    with pytest.raises(UsageError, match="what JSON cannot"):
        written(tmp_path / "set", behaviour={"policy": "p", "extra": float("nan")})


def test_an_existing_folder_is_never_touched(tmp_path):
    first = written(tmp_path / "set")
    with pytest.raises(UsageError, match="exists already"):
        written(tmp_path / "set", DISCRETE)
    assert check(tmp_path / "set") == []
    assert Dataset.open(tmp_path / "set").digest == first.digest


def test_a_disk_that_refuses_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written.*needs \d+ bytes"):
        written(tmp_path / "file" / "set")


def test_first_open_verifies_and_later_opens_do_not(tmp_path, own_cache, monkeypatch):
    dataset = written(tmp_path / "set")
    arrays = tmp_path / "set" / "arrays.safetensors"
    past = time.time_ns() - 10**9
    time.sleep(0.12)  # a file changed a moment ago is not remembered
    assert Dataset.open(tmp_path / "set").digest == dataset.digest
    assert len(list((own_cache / "verified").iterdir())) == 1
    monkeypatch.setattr("perdure.data.store.faults", lambda *_: pytest.fail("verified twice"))
    Dataset.open(tmp_path / "set")
    os.utime(arrays, ns=(past, past))
    with pytest.raises(pytest.fail.Exception):
        Dataset.open(tmp_path / "set")


def test_a_flipped_bit_is_found_on_the_first_open_but_the_header_alone_is_trusted_on_request(tmp_path):
    written(tmp_path / "set")
    arrays = tmp_path / "set" / "arrays.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-30] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(UsageError, match=r"set/arrays.safetensors has the digest .*damaged or edited"):
        Dataset.open(tmp_path / "set")
    Dataset.open(tmp_path / "set", verify=False)
    assert len(check(tmp_path / "set")) >= 1


def test_an_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "file"))
    written(tmp_path / "set")
    time.sleep(0.12)
    assert Dataset.open(tmp_path / "set").transitions == 11


def test_values_are_verified_even_with_fitting_digests(tmp_path):
    """Someone else's writer may make a consistent folder of unsound values."""
    written(tmp_path / "set")
    arrays, card_path = tmp_path / "set" / "arrays.safetensors", tmp_path / "set" / "card.json"
    values = load_file(arrays)
    values["observations"][0, 1] = np.nan
    values["actions"][0, 0] = 7
    from safetensors.numpy import save_file

    from perdure.core.files import sha256

    save_file(values, arrays)
    card = json.loads(card_path.read_text())
    card["digest"], card["returns"][1] = sha256(arrays), 99.0
    card["card_digest"] = card_digest(card)
    card_path.write_text(json.dumps(card))
    with pytest.raises(UsageError, match="observations, episode 0, step 0, column 1 is nan"):
        Dataset.open(tmp_path / "set")
    found = check(tmp_path / "set")
    assert len(found) == 3
    assert "column 0 is 7" in found[1]
    assert "returns of episode 1 is 99" in found[2]


SAFE = ["a", "mujoco/hopper-v5", "ünïcode", "a.b_c-d", "x" * 100]
UNSAFE = [
    "",
    " ",
    ".",
    "..",
    "../a",
    "a/../b",
    "/a",
    "~a",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b]0;t",
    "a\u202eb",
    "a\u200bb",
]
UNSAFE += ["x" * 101, "a//b", "a/", "c:x", "\ud800", "e\u0301", "a /b", "\U0001f600" * 60]


def test_safe_names():
    assert [safe_name(name, "name") for name in SAFE] == SAFE
    for name in [*UNSAFE, None, 3]:
        with pytest.raises(UsageError, match=r"^task name ") as caught:
            safe_name(name, "task name")
        assert str(caught.value).isprintable()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_a_safe_name_never_leaves_its_root(name):
    try:
        folder = dataset_folder(name, "/srv/root")
    except UsageError:
        return
    assert os.path.normpath(folder).startswith("/srv/root/")


def test_dataset_folder_uses_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path))
    assert dataset_folder("a/b") == tmp_path / "a" / "b"
    monkeypatch.delenv("PERDURE_DATA")
    assert str(dataset_folder("a")) == "data/a"
    assert str(dataset_folder("a", "r")) == "r/a"


def test_describe_gives_plain_facts():
    items = episodes(CONTINUOUS, (4, 2, 5))
    for item in items:
        item.observations[:, 1] = 3.5
    dataset = Dataset.in_memory(items, name="sample", spec=CONTINUOUS, **DESCRIPTION)
    facts = json.loads(json.dumps(describe(dataset), allow_nan=False))
    observations = dataset.array("observations").astype(np.float64)
    for column, row in enumerate(facts["observations"]):
        assert row["mean"] == pytest.approx(observations[:, column].mean(), abs=1e-12)
        assert row["std"] == pytest.approx(observations[:, column].std(), abs=1e-12)
        assert (row["min"], row["max"]) == (observations[:, column].min(), observations[:, column].max())
    assert facts["constant_channels"] == {"observations": ["1"], "actions": []}
    assert facts["success"] == {"known": 2, "successes": 1, "rate": 0.5}
    assert facts["split"] == {"train": 2, "holdout": 1}
    assert facts["transitions"] == 11
    assert [row["level"] for row in facts["levels"]] == [0.0, 0.1, 0.2]
    assert facts["terminated"] + facts["truncated"] == 3
    assert facts["lengths"]["max"] == 5


def test_describe_images_and_discrete_actions():
    facts = describe(
        Dataset.in_memory(episodes(ALL_SPECS[2]), name="sample", spec=ALL_SPECS[2], **DESCRIPTION)
    )
    assert len(facts["observations"]) == 2
    assert sum(row["count"] for row in facts["actions"]) == 11
