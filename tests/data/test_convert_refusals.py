"""Foreign files that are refused: damaged, hostile, or not what they should be; nothing in them ever runs."""

import json
import os
import re
import zipfile

import h5py
import numpy as np
import pytest
from dataset_samples import (
    written,
)
from foreign_samples import refused, save_d4rl, save_episode

from perdure.core.errors import UsageError
from perdure.data.convert import export_dataset, import_dataset


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
