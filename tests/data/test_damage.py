"""Damaged and hostile files: always one UsageError, never another exception, never a silent success."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from dataset_samples import CONTINUOUS, IMAGES, written

from perdure.core.errors import UsageError
from perdure.data.convert import cage, export_dataset
from perdure.data.store import Dataset, check

CASES = int(os.environ.get("PERDURE_FUZZ", "150"))
"""Random damages per file."""


def damage(content: bytes, chance: random.Random) -> bytes:
    """One random damage: bit flip, byte swap, cut, append, zeroed page, repeated page."""
    data, place = bytearray(content), chance.randrange(len(content))
    kind = chance.choice(["flip", "flip", "flip", "swap", "cut", "append", "zero", "repeat"])
    if kind == "flip":
        data[place] ^= 1 << chance.randrange(8)
    elif kind == "swap":
        other = chance.randrange(len(content))
        data[place], data[other] = data[other], data[place]
    elif kind == "cut":
        del data[chance.choice([0, 7, 8, place]) :]
    elif kind == "append":
        data += chance.randbytes(chance.choice([1, 8, 4096]))
    elif kind == "zero":
        data[place : place + 4096] = bytes(len(data[place : place + 4096]))
    else:
        page = chance.choice([16, 64, 512])
        data[place : place + page] = (data[max(0, place - page) : place] * page)[
            : len(data[place : place + page])
        ]
    return bytes(data)


def assert_one_sentence(problem, folder):
    assert str(folder) in str(problem)
    assert "\n" not in str(problem)


@pytest.mark.parametrize("spec", [CONTINUOUS, IMAGES])
@pytest.mark.parametrize("name", ["arrays.safetensors", "card.json"])
def test_no_damage_of_a_dataset_goes_unnoticed(tmp_path, name, spec):
    original = written(tmp_path / "set", spec)
    path = tmp_path / "set" / name
    content, chance = path.read_bytes(), random.Random(name)
    noticed = 0
    for _ in range(CASES):
        broken = damage(content, chance)
        path.write_bytes(broken)
        try:
            opened = Dataset.open(tmp_path / "set")
        except UsageError as problem:
            assert_one_sentence(problem, tmp_path / "set")
            assert check(tmp_path / "set") != []
            noticed += 1
        else:  # only what does not change a single value, such as a blank at the end of the card
            assert broken == content or (name == "card.json" and opened.card == original.card), broken
    assert noticed > CASES * 0.9


def test_truncated_files_are_refused_at_every_length(tmp_path):
    written(tmp_path / "set")
    path = tmp_path / "set" / "arrays.safetensors"
    content = path.read_bytes()
    for length in [*range(300), *range(300, len(content), 9)]:
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"arrays\.safetensors"):
            Dataset.open(tmp_path / "set", verify=False)


def headed(header, body=None, length=None):
    """Replaces the header of the array file; `header` maps the parsed one to bytes or to what JSON takes."""

    def change(folder):
        path = folder / "arrays.safetensors"
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        made = header(json.loads(content[8 : 8 + size]))
        text = made if isinstance(made, bytes) else json.dumps(made).encode()
        text += b" " * (-len(text) % 8)
        rest = content[8 + size :] if body is None else body
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + rest)

    return change


def entry(name, **fields):
    return lambda header: {**header, name: {**header[name], **fields}}


def replaced(make):
    """Puts something that is no plain file in the place of the array file."""

    def change(folder):
        path = folder / "arrays.safetensors"
        path.rename(folder / "aside")
        make(path)

    return change


def gap(folder):
    """Eight bytes that belong to no array, before the last one."""
    path = folder / "arrays.safetensors"
    size = int.from_bytes(path.read_bytes()[:8], "little")
    content = path.read_bytes()[8 + size :]
    last = [len(content) - 11 + 8, len(content) + 8]
    headed(entry("truncated", data_offsets=last), body=content + bytes(8))(folder)


ARRAYS_REFUSED = {
    "header that asks for absurd memory": (headed(lambda h: h, length=2**62), "is cut short"),
    "header over its limit": (
        headed(lambda h: b"{" + b" " * 2**20 + b"}"),
        "header claims .* 1048576 is the most",
    ),
    "odd header": (headed(lambda h: b"{}", length=3), "multiple of 8"),
    "array that asks for absurd memory": (headed(entry("rewards", shape=[2**40])), "the card needs"),
    "negative shape": (headed(entry("rewards", shape=[-1])), "the card needs"),
    "shape of booleans": (headed(entry("observations", shape=[14, True])), "the card needs"),
    "other type": (headed(entry("rewards", dtype="I32")), "the card needs"),
    "no table": (headed(lambda h: b"[1, 2, 3]"), "no table of arrays"),
    "no entry": (headed(lambda h: {**h, "rewards": 3}), "the card needs"),
    "more arrays": (headed(lambda h: {**h, "x" * 90: h["rewards"]}), "disagree about the array 'xxx"),
    "fewer arrays": (
        headed(lambda h: {k: h[k] for k in h if k != "actions"}),
        "disagree about the array 'actions'",
    ),
    "the same name twice": (headed(lambda h: b'{"rewards": 1, "rewards": 2}'), "no valid JSON"),
    "nested": (headed(lambda h: b"[" * 100_000), "no valid JSON"),
    "not UTF-8": (headed(lambda h: b'{"\xff": 1}'), "no valid JSON"),
    "huge number": (headed(lambda h: b'{"a": ' + b"9" * 5000 + b"}"), "no valid JSON"),
    "overlap": (
        headed(lambda h: {**h, "rewards": {**h["rewards"], "data_offsets": [0, 44]}}),
        "overlap or leave a gap",
    ),
    "offsets that do not fit": (headed(entry("rewards", data_offsets=[0, 8])), "do not fit its shape"),
    "offsets that are no numbers": (headed(entry("rewards", data_offsets=["0", 8])), "two whole numbers"),
    "gap": (gap, "overlap or leave a gap"),
    "bytes at the end": (headed(lambda h: h, body=bytes(10_000)), "cut short or appended to"),
    "no data": (headed(lambda h: h, body=b""), "cut short or appended to"),
    "missing": (lambda folder: (folder / "arrays.safetensors").unlink(), "No such file"),
    "link": (replaced(lambda p: p.symlink_to("aside")), "must be a readable plain file"),
    "pipe": (replaced(os.mkfifo), "is no plain file"),
    "folder": (replaced(os.mkdir), "is no plain file"),
    "endless device": (replaced(lambda p: p.symlink_to("/dev/zero")), "must be a readable plain file"),
}


@pytest.mark.parametrize("case", ARRAYS_REFUSED)
def test_hostile_array_files(tmp_path, case):
    change, pattern = ARRAYS_REFUSED[case]
    written(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(UsageError, match=pattern) as caught:
        Dataset.open(tmp_path / "set", verify=False)
    assert str(caught.value).startswith(str(tmp_path / "set"))
    assert len(str(caught.value)) < 600
    assert check(tmp_path / "set") == [str(caught.value)]


def test_folders_that_are_no_datasets(tmp_path):
    written(tmp_path / "hammer")
    with pytest.raises(UsageError, match="did you mean 'hammer'"):
        Dataset.open(tmp_path / "hamer")
    with pytest.raises(UsageError, match="no dataset folder"):
        Dataset.open(tmp_path / "hammer" / "card.json")
    with pytest.raises(UsageError, match=r"'a.x00b' is no dataset folder"):
        Dataset.open("a\0b")
    (tmp_path / "hammer" / "card.json").rename(tmp_path / "card.json")
    (tmp_path / "hammer" / "card.json").symlink_to(tmp_path / "card.json")
    with pytest.raises(UsageError, match="is a link"):
        Dataset.open(tmp_path / "hammer")


BATCH = """
import hashlib, json, os, sys
import h5py, numpy
from perdure.data.convert import caged
import perdure.data.convert.npz, perdure.data.convert.d4rl_hdf5
from perdure.data.convert.cage import Limits
limits = Limits(memory_mb=2048, seconds=20)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            caged.restrict(limits)
            code = caged.serve(request)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, flush=True)
"""


@pytest.mark.parametrize("format", ["npz", "d4rl_hdf5"])
def test_no_damage_of_a_foreign_file_goes_unnoticed(tmp_path, format):
    """The child's code on damaged exports, forked from one process so that each case takes milliseconds.

    HDF5 itself detects no damage; our exports carry checksums per chunk and a digest, tested here.
    """
    dataset = written(tmp_path / "set", lengths=(40, 30))
    path = export_dataset(dataset, tmp_path / ("out" if format == "npz" else "out.hdf5"), format)
    victims = sorted(path.iterdir()) if path.is_dir() else [path]
    contents, chance = [victim.read_bytes() for victim in victims], random.Random(format)
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", BATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=cage.child_environment(),
        text=True,
    )
    options = {"bounds": None, "n_actions": None}
    codes: dict[int, int] = {}
    cases = CASES // 2  # each costs a process
    for case in range(cases):
        which = case % len(victims)
        victims[which].write_bytes(damage(contents[which], chance))
        folder = tmp_path / f"work{case}"
        folder.mkdir()
        request = {"format": format, "path": str(path), "folder": str(folder), "options": options}
        child.stdin.write(json.dumps({**request, "limits": {"memory_mb": 2048, "seconds": 20}}) + "\n")
        child.stdin.flush()
        code = int(child.stdout.readline())
        codes[code] = codes.get(code, 0) + 1
        assert code in (0, cage.EXIT_REFUSED, cage.EXIT_MEMORY) or code < 0, f"case {case}: code {code}"
        if code == 0:
            stored = (folder / "arrays.safetensors").read_bytes()
            assert "sha256:" + hashlib.sha256(stored).hexdigest() == dataset.digest, (
                f"case {case} was believed"
            )
        elif code == cage.EXIT_REFUSED:
            sentence = json.loads((folder / "refusal.json").read_text())
            assert str(path) in sentence
            assert "\n" not in sentence
            assert len(sentence) < 700
        shutil.rmtree(folder)
        victims[which].write_bytes(contents[which])
    child.stdin.close()
    child.wait(timeout=30)
    assert codes.get(cage.EXIT_REFUSED, 0) > cases / 4, codes


def test_wrong_shapes_between_card_and_arrays_are_refused(tmp_path):
    """Two sound datasets whose files were mixed up."""
    written(tmp_path / "one")
    written(tmp_path / "two", lengths=(4, 1, 7))
    written(tmp_path / "three", CONTINUOUS, name="other")
    content = np.frombuffer((tmp_path / "three" / "arrays.safetensors").read_bytes(), np.uint8).copy()
    content[-40] ^= 8
    shutil.copy(tmp_path / "two" / "arrays.safetensors", tmp_path / "one" / "arrays.safetensors")
    with pytest.raises(UsageError, match="the card needs"):
        Dataset.open(tmp_path / "one", verify=False)
    (tmp_path / "one" / "arrays.safetensors").write_bytes(content.tobytes())
    with pytest.raises(UsageError, match="has the digest"):
        Dataset.open(tmp_path / "one")
