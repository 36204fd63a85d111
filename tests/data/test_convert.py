"""Import and export: round trips, missing last observations, bounds, every refusal, the cage."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from dataset_samples import (
    ALL_SPECS,
    CONTINUOUS,
    DESCRIPTION,
    assert_same_arrays,
    episodes,
    lengths_of_episodes,
    specs,
)
from dataset_samples import written
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import UsageError
from perdure.core.files import sha256
from perdure.data.convert import FORMATS, cage, caged, export_dataset, import_dataset, recognise
from perdure.data.convert.cage import Limits
from perdure.data.convert.npz import natural
from perdure.data.store import Dataset, check

SUFFIX = {"npz": "", "d4rl_hdf5": ".hdf5", "minari": "-v0"}


def served(path, format, folder, **options):
    """What the child would answer, without starting one: (result, digest of the arrays) or a UsageError."""
    folder.mkdir()
    limits = Limits(memory_mb=300)
    request = {"format": format, "path": str(path), "folder": str(folder), "limits": vars(limits)}
    code = caged.serve({**request, "options": {"bounds": None, "n_actions": None, **options}})
    cage.outcome(code, path, folder, limits)
    return json.loads((folder / "result.json").read_text()), sha256(folder / "arrays.safetensors")


def refused(path, format, folder):
    with pytest.raises(UsageError) as caught:
        served(path, format, folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=12, deadline=None)
@given(spec=specs(), lengths=lengths_of_episodes, seed=st.integers(0, 2**32))
def test_export_and_import_are_bit_for_bit(tmp_path_factory, format, spec, lengths, seed):
    if format == "minari":
        pytest.importorskip("minari")
    folder = tmp_path_factory.mktemp("convert")
    dataset = Dataset.in_memory(episodes(spec, lengths, seed), name="sample", spec=spec, **DESCRIPTION)
    path = export_dataset(dataset, folder / f"out{SUFFIX[format]}", format)
    assert recognise(path) == format
    result, digest = served(path, format, folder / "work")
    assert digest == dataset.digest and result["episode_lengths"] == lengths and result["notes"] == []
    if format == "minari":
        assert result["spec"]["action"].get("n") == (spec.action.n if spec.discrete else None)
        assert result["seeds"] == list(range(len(lengths)))


@pytest.mark.parametrize("format", FORMATS)
def test_import_in_a_child_process_makes_a_sound_dataset(tmp_path, format):
    if format == "minari":
        pytest.importorskip("minari")
    dataset = written(tmp_path / "set", ALL_SPECS[3] if format == "npz" else CONTINUOUS)
    path = export_dataset(dataset, tmp_path / f"out{SUFFIX[format]}", format)
    back = import_dataset(path, tmp_path / "back", name="again", licence="CC-BY-4.0")
    assert_same_arrays(back, dataset)
    assert back.spec == dataset.spec and check(tmp_path / "back") == []
    assert (
        back.card["quality"] == "imported"
        and back.card["licence"] == "CC-BY-4.0"
        and format in back.card["source"]
    )
    assert sorted(os.listdir(tmp_path)) == sorted(["set", path.name, "back"])
    with pytest.raises(UsageError, match="exists already"):
        import_dataset(path, tmp_path / "back", name="again")
    with pytest.raises(UsageError, match="exists already"):
        export_dataset(dataset, path, format)


def test_an_exported_minari_dataset_loads_in_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    dataset = written(tmp_path / "set")
    export_dataset(dataset, tmp_path / "point-v0", "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = minari.load_dataset("point-v0")
    assert loaded.total_episodes == 3 and loaded.total_steps == 11
    np.testing.assert_array_equal(loaded[2].observations, dataset.trajectory(2).observations)


# --- npz: the layout of the published MT50 files, T observations, float64, flags as numbers


def save_episode(path, steps=5, **changes):
    rng = np.random.default_rng(steps)
    arrays = {
        "observations": rng.normal(size=(steps, 3)),
        "actions": rng.uniform(-1, 1, (steps, 2)),
        "rewards": rng.normal(size=(steps, 1)),
        "terminals": np.eye(1, steps, steps - 1)[0],
        **changes,
    }
    arrays = {key: value for key, value in arrays.items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def test_files_are_in_natural_order_and_short_episodes_lose_their_last_transition(tmp_path):
    source = tmp_path / "mt50"
    source.mkdir()
    for number, steps in ((10, 4), (9, 6), (2, 1), (100, 3)):
        save_episode(source / f"ep_{number}.npz", steps)
    dataset = import_dataset(source, tmp_path / "out", name="mt50")
    assert dataset.lengths.tolist() == [5, 3, 2]
    notes = " ".join(dataset.card["behaviour"]["notes"])
    assert "last transition" in notes and "1 episodes of one step were left out" in notes
    assert not dataset.array("terminated").any() and np.flatnonzero(dataset.array("truncated")).tolist() == [
        4,
        7,
        9,
    ]


def test_natural_order():
    assert sorted(["a10", "a9", "b1", "a", "10", "9"], key=natural) == ["9", "10", "a", "a9", "a10", "b1"]


def test_next_observations_complete_an_episode_and_dones_are_named(tmp_path):
    arrays = save_episode(
        tmp_path / "a.npz", terminals=None, dones=np.eye(1, 5, 4)[0], next_observations=np.ones((5, 3))
    )
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "work")
    assert result["episode_lengths"] == [5] and "'dones' was read as termination" in result["notes"][0]
    assert result["spec"]["action"]["low"] == [-1, -1] and "taken from the data" in result["bounds_from"]
    assert len(arrays["observations"]) == 5


def test_bounds_come_from_the_data_or_from_the_caller(tmp_path):
    actions = np.array([[0.5, -3], [0.1, 2], [0.2, 7.0]])
    save_episode(tmp_path / "a.npz", 3, observations=np.zeros((4, 3)), actions=actions)
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w1")
    assert result["spec"]["action"]["low"] == [-1, -3] and result["spec"]["action"]["high"] == [1, 7]
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w2", bounds=[[-9], [9]])
    assert result["spec"]["action"]["high"] == [9, 9] and result["bounds_from"] == "given at import"
    with pytest.raises(
        UsageError, match=r"actions, episode 0, step 2, column 1 is 7, outside the bounds \[-5, 5\]"
    ):
        import_dataset(tmp_path / "a.npz", tmp_path / "out", name="x", bounds=([-5], [5]))
    assert not (tmp_path / "out").exists()


def test_discrete_actions_are_recognised(tmp_path):
    save_episode(tmp_path / "a.npz", 3, observations=np.zeros((4, 3)), actions=np.array([0, 2, 1], np.int32))
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w1")
    assert result["spec"]["action"]["n"] == 3
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w2", n_actions=6)
    assert result["spec"]["action"]["n"] == 6


def raw_member(path, header, body=b"", name="observations.npy", compress=zipfile.ZIP_STORED):
    """An .npz whose first array has a hand-made header."""
    save_episode(path)
    with zipfile.ZipFile(path) as archive:
        rest = {n: archive.read(n) for n in archive.namelist() if n != name}
    with zipfile.ZipFile(path, "w", compress) as archive:
        text = header.encode()
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
        for key, content in rest.items():
            archive.writestr(key, content)


def bomb(path):
    save_episode(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("next_observations.npy", bytes(64 * 2**20))


def duplicate(path):
    save_episode(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("actions.npy", b"")


NPZ_REFUSED = {
    "missing key": (lambda p: save_episode(p, rewards=None), "has no array 'rewards'"),
    "missing flags": (lambda p: save_episode(p, terminals=None), "has no array 'terminals'"),
    "text": (
        lambda p: save_episode(p, rewards=np.array(["a"] * 5)),
        "type <U1; only arrays of plain numbers",
    ),
    "structured": (lambda p: save_episode(p, rewards=np.zeros(5, "f4,f4")), "only arrays of plain numbers"),
    "no flags but numbers": (lambda p: save_episode(p, terminals=np.arange(5)), "values other than 0 and 1"),
    "lengths": (
        lambda p: save_episode(p, rewards=np.zeros(7)),
        r"rewards has the shape \(7,\); 5 actions need \(5,\)",
    ),
    "observations": (lambda p: save_episode(p, observations=np.zeros((9, 3))), "one more observation"),
    "scalars": (lambda p: save_episode(p, actions=np.array(1.0)), "at least one step"),
    "empty": (lambda p: save_episode(p, 1), "zero episodes"),
    "absurd shape": (
        lambda p: raw_member(p, "{'descr': '<f8', 'fortran_order': False, 'shape': (8589934592, 3)}"),
        "needs 206158430208 bytes, and another size; the file is damaged",
    ),
    "negative shape": (
        lambda p: raw_member(p, "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}"),
        "cannot be negative|damaged",
    ),
    "header with code": (lambda p: raw_member(p, "__import__('os').system('true')"), "damaged array header"),
    "bomb": (bomb, "claim to unpack to 67108864; that is over 200 times"),
    "twice the same member": (duplicate, "or one twice"),
    "no zip": (lambda p: p.write_bytes(b"PK\x03\x04 nothing"), "is no sound .npz file"),
    "pipe": (os.mkfifo, "is no plain file"),
}


@pytest.mark.parametrize("case", NPZ_REFUSED)
def test_npz_refusals(tmp_path, case):
    make, pattern = NPZ_REFUSED[case]
    make(tmp_path / "a.npz")
    sentence = refused(tmp_path / "a.npz", "npz", tmp_path / "work")
    assert re.search(pattern, sentence), sentence


class Payload:
    """Unpickling an instance would make the canary file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def test_a_pickled_object_is_refused_and_never_runs(tmp_path):
    canary, source = tmp_path / "canary", tmp_path / "a.npz"
    objects = np.empty(5, object)
    objects[:] = [Payload(canary)] * 5
    save_episode(source, rewards=objects)
    with np.load(source, allow_pickle=True) as loaded:
        assert len(loaded["rewards"]) == 5
    canary.rmdir()  # so the payload works
    with pytest.raises(UsageError, match="rewards holds Python objects, which can run code when read"):
        import_dataset(source, tmp_path / "out", name="x")
    assert sorted(os.listdir(tmp_path)) == ["a.npz"]


# --- HDF5


def save_d4rl(path, ends=(3, 7), total=10, **changes):
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros((2, total), bool)
    terminals[ends[0]], timeouts[ends[1]] = True, True
    arrays = {
        "observations": rng.normal(size=(total, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (total, 2)).astype(np.float32),
        "rewards": rng.normal(size=total).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return arrays


def test_d4rl_episodes_end_at_flags_and_the_tail_counts(tmp_path):
    following = np.arange(30, dtype=np.float32).reshape(10, 3)
    arrays = save_d4rl(tmp_path / "a.hdf5", next_observations=following)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["infos/qpos"] = np.zeros(10)
    dataset = import_dataset(tmp_path / "a.hdf5", tmp_path / "out", name="d4rl")
    assert dataset.lengths.tolist() == [4, 4, 2]
    np.testing.assert_array_equal(dataset.trajectory(1).observations[:-1], arrays["observations"][4:8])
    np.testing.assert_array_equal(dataset.trajectory(1).observations[-1], following[7])
    assert np.flatnonzero(dataset.array("terminated")).tolist() == [3]
    assert np.flatnonzero(dataset.array("truncated")).tolist() == [7, 9]


def test_d4rl_without_timeouts_or_next_observations(tmp_path):
    save_d4rl(tmp_path / "a.hdf5", timeouts=None)
    result, _ = served(tmp_path / "a.hdf5", "d4rl_hdf5", tmp_path / "work")
    assert result["episode_lengths"] == [3, 5] and len(result["notes"]) == 2


def with_h5(path, change):
    save_d4rl(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        change(file)


def virtual(file):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "rewards", (10,))
    file.create_virtual_dataset("rewards", layout)


H5_REFUSED = {
    "external link": (
        lambda f: f.__setitem__("rewards", h5py.ExternalLink("/etc/passwd", "/x")),
        "soft or external link",
    ),
    "soft link": (lambda f: f.__setitem__("rewards", h5py.SoftLink("/rewards")), "soft or external link"),
    "link beside the arrays": (
        lambda f: f.__setitem__("more", h5py.ExternalLink("/etc/passwd", "/x")),
        "'more' is a soft",
    ),
    "virtual": (virtual, "keeps its data in other files"),
    "external storage": (
        lambda f: f.create_dataset("rewards", (10,), "f4", external=[("/etc/passwd", 0, 40)]),
        "keeps its data in other files",
    ),
    "variable length": (
        lambda f: f.create_dataset("rewards", (10,), h5py.vlen_dtype(np.float32)),
        "objects or rows of varying length",
    ),
    "text": (
        lambda f: f.create_dataset("rewards", (10,), h5py.string_dtype()),
        "objects or rows of varying length",
    ),
    "reference": (
        lambda f: f.create_dataset("rewards", (10,), h5py.ref_dtype),
        "objects or rows of varying length",
    ),
    "opaque": (lambda f: f.create_dataset("rewards", (10,), "V8"), "only arrays of plain numbers"),
    "group": (lambda f: f.create_group("rewards"), "is a group"),
    "missing": (lambda f: None, "has no array 'rewards'"),
    "absurd shape": (
        lambda f: f.create_dataset("rewards", (2**36,), "f8", chunks=(1024,)),
        "need at least .* bytes",
    ),
    "unallocated": (
        lambda f: f.create_dataset("rewards", (2**24 + 1024,), "f4", chunks=(1024,)),
        "0 stored bytes claim",
    ),
    "lengths": (
        lambda f: f.create_dataset("rewards", (9,), "f4"),
        r"rewards has the shape \(9,\) and actions have 10 rows",
    ),
}


@pytest.mark.parametrize("case", H5_REFUSED)
def test_hdf5_refusals(tmp_path, case):
    change, pattern = H5_REFUSED[case]
    with_h5(tmp_path / "a.hdf5", change)
    sentence = refused(tmp_path / "a.hdf5", "d4rl_hdf5", tmp_path / "work")
    assert re.search(pattern, sentence), sentence


def test_minari_never_builds_the_environment_that_a_file_names(tmp_path):
    pytest.importorskip("minari")
    export_dataset(written(tmp_path / "set"), tmp_path / "p-v0", "minari")
    place = tmp_path / "p-v0" / "data" / "metadata.json"
    metadata = json.loads(place.read_text())
    for name in ("observation_space", "action_space"):
        rest = {key: value for key, value in metadata.items() if key != name}
        place.write_text(json.dumps({**rest, "env_spec": '{"id": "x-v0", "entry_point": "os:abort"}'}))
        assert f"{name} is missing" in refused(tmp_path / "p-v0", "minari", tmp_path / name)
    place.write_text(json.dumps(metadata))
    with h5py.File(place.parent / "main_data.hdf5", "a") as file:
        file["episode_0/infos/x"] = h5py.ExternalLink("/etc/passwd", "/x")
    assert "soft or external link" in refused(tmp_path / "p-v0", "minari", tmp_path / "link")


# --- recognising, and the cage


def test_recognise_and_unknown_formats(tmp_path):
    written(tmp_path / "set")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path, pattern in (
        ("set", "perdure dataset already"),
        ("text", "no known format"),
        ("empty", "no known format"),
    ):
        with pytest.raises(UsageError, match=pattern):
            recognise(tmp_path / path)
    with pytest.raises(UsageError, match="does not exist"):
        recognise(tmp_path / "none")
    with pytest.raises(UsageError, match="did you mean 'minari'"):
        import_dataset(tmp_path / "text", tmp_path / "out", name="x", format="minary")
    with pytest.raises(UsageError, match="dataset name is"):
        import_dataset(tmp_path / "text", tmp_path / "out", name="../x")


OUTCOMES = {
    -signal.SIGKILL: "more than 7 seconds",
    -signal.SIGXCPU: "more than 7 seconds",
    -signal.SIGALRM: "more than 7 seconds",
    -signal.SIGSEGV: "crashed with SIGSEGV",
    cage.EXIT_MEMORY: "more than 99 MB of memory",
    9: r"ended with code 9 \('ImportError: x'\)",
    1: r"ended with code 1",
    0: "malformed",
}


@pytest.mark.parametrize("code", OUTCOMES)
def test_every_end_of_the_child_is_one_sentence(tmp_path, code):
    (tmp_path / "stderr").write_text("Traceback\nImportError: x\n")
    (tmp_path / "result.json").write_text('{"episode_lengths": ["3"]}')
    with pytest.raises(UsageError, match=OUTCOMES[code]) as caught:
        cage.outcome(code, tmp_path / "a.npz", tmp_path, Limits(memory_mb=99, seconds=7))
    assert "a.npz" in str(caught.value)


def test_a_child_that_hangs_is_killed(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    save_episode(tmp_path / "a.npz")
    monkeypatch.setattr(cage.sys, "executable", str(script))
    monkeypatch.setattr(cage, "GRACE_SECONDS", -0.8)
    with pytest.raises(UsageError, match="more than 1 seconds"):
        import_dataset(tmp_path / "a.npz", tmp_path / "out", name="x", limits=Limits(seconds=1))
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "python"]


def test_limits_hold_in_the_child(tmp_path):
    """Memory ends as MemoryError, time as a signal, files at their size."""
    program = (
        "import sys; from perdure.data.convert.caged import restrict, Limits; restrict(Limits(512, 1, 1))\n"
        "try: bytearray(2**30); print('no limit')\n"
        "except MemoryError: print('memory')\n"
        "try: open('big', 'wb').write(bytes(2**21)); print('no limit')\n"
        "except OSError: print('file')\n"
        "while True: pass"
    )
    command = [sys.executable, "-P", "-u", "-c", program]
    child = subprocess.run(
        command, env=cage.child_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert child.stdout.split() == ["memory", "file"] and child.returncode in (
        -signal.SIGALRM,
        -signal.SIGXCPU,
        -signal.SIGKILL,
    )


def test_memory_limit_reaches_the_user(tmp_path):
    save_episode(tmp_path / "a.npz", 2000, observations=np.random.default_rng(0).normal(size=(2001, 3000)))
    with pytest.raises(UsageError, match="limits.memory_mb"):
        import_dataset(tmp_path / "a.npz", tmp_path / "out", name="x", limits=Limits(memory_mb=120))


@pytest.mark.parametrize("field", ["memory_mb", "seconds", "file_mb"])
def test_limits_are_checked(field):
    with pytest.raises(UsageError, match=f"limits.{field} is 0"):
        Limits(**{field: 0})
