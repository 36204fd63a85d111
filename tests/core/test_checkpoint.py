"""Checkpoints: whole or absent, two generations, every damage found and said, nothing lost to a full disk."""

import json
import os
import random
import shutil
import stat

import pytest
import torch
from safetensors.torch import save_file

from perdure.core import checkpoint
from perdure.core.checkpoint import Generations, read_folder, write_folder
from perdure.core.errors import GuardError, Unreadable, UsageError

FILES = ("agent.safetensors", "resume.safetensors", "meta.json")


def tensors(value):
    return {"agent": {"w": torch.full((5,), float(value)), "mask": torch.ones(2, dtype=torch.int16)},
            "resume": {"optimizer/step": torch.tensor(float(value))}}  # fmt: skip


def generations(folder, count=2):
    made = Generations(folder / "resume")
    for value in range(1, count + 1):
        made.write({"cursor": {"step": value}, "rate": 0.1}, tensors(value))
    return made


def newest(made):
    """(step of the newest good generation, or None; what was said)."""
    said = []
    found = made.newest(said.append)
    if found is None:
        return None, said
    meta, groups = found
    assert torch.equal(groups["agent"]["w"], torch.full((5,), float(meta["cursor"]["step"])))
    return meta["cursor"]["step"], said


def test_what_is_written_is_read(tmp_path):
    write_folder(tmp_path / "a", {"x": {"1": [2, None]}}, tensors(3))
    meta, groups = read_folder(tmp_path / "a")
    assert meta["x"] == {"1": [2, None]}
    assert groups["agent"]["mask"].dtype == torch.int16
    assert float(groups["resume"]["optimizer/step"]) == 3
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(FILES)


def test_two_generations_are_kept(tmp_path):
    made = generations(tmp_path, 5)
    assert made.numbers() == [4, 5]
    assert newest(made) == (5, [])
    assert [p.name for p in made.folder.iterdir() if p.name.startswith(".")] == []


def test_an_empty_or_absent_folder_has_none(tmp_path):
    assert newest(Generations(tmp_path / "absent")) == (None, [])
    (tmp_path / "resume").mkdir()
    assert newest(Generations(tmp_path / "resume")) == (None, [])


def read_or_refuse(folder):
    """(meta, ""), or (None, the sentence that refuses the folder)."""
    try:
        return read_folder(folder)[0], ""
    except UsageError as problem:
        return None, str(problem)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_found(tmp_path, name):
    """Every byte of the small files is tried; what still reads must be what was written."""
    generations(tmp_path)
    path = tmp_path / "resume" / "00000002" / name
    content = path.read_bytes()
    good = read_folder(path.parent)
    rng = random.Random(0)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        meta, problem = read_or_refuse(path.parent)
        if meta is None:
            assert "\n" not in problem
            assert "00000002" in problem
        else:
            assert name == "meta.json", "tensors are covered byte by byte"
            assert meta == good[0], f"byte {place}"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "append"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_generation_falls_back_and_says_so(tmp_path, name, damage):
    made = generations(tmp_path, 3)
    path = tmp_path / "resume" / "00000003" / name
    content = path.read_bytes()
    spoiled = {
        "flip": content[:40] + bytes([content[40] ^ 4]) + content[41:],
        "cut": content[:-7],
        "empty": b"",
        "append": content + b"x",
    }
    path.unlink() if damage == "missing" else path.write_bytes(spoiled[damage])
    step, said = newest(made)
    assert step == 2
    assert len(said) == 1
    assert "00000003" in said[0]
    assert "falling back to the checkpoint before it" in said[0]
    made.write({"cursor": {"step": 4}}, tensors(4))
    assert newest(made) == (4, [])


def test_files_of_two_generations_mixed_are_refused(tmp_path):
    made = generations(tmp_path)
    shutil.copy(tmp_path / "resume/00000001/agent.safetensors", tmp_path / "resume/00000002/agent.safetensors")
    assert newest(made)[0] == 1


def test_when_every_generation_is_damaged_it_starts_over_and_says_so(tmp_path):
    made = generations(tmp_path)
    for path in made.folder.glob("*/agent.safetensors"):
        path.write_bytes(b"")
    step, said = newest(made)
    assert step is None
    assert "falling back to the beginning: no earlier one is left" in said[-1]


def test_a_newer_format_is_refused_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    made = generations(tmp_path)
    monkeypatch.undo()
    with pytest.raises(
        UsageError,
        match=r"has checkpoint format 2, written by perdure .*; this perdure reads up to 1: install a newer one",
    ):
        made.newest(print)
    assert made.numbers() == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_refused_before_anything_is_written(tmp_path, value):
    made = generations(tmp_path, 1)
    spoiled = tensors(2)
    spoiled["agent"]["w"][3] = value
    with pytest.raises(GuardError, match="w holds NaN or infinity; nothing of it was saved"):
        made.write({"cursor": {"step": 2}}, spoiled)
    assert newest(made) == (1, [])
    assert [p.name for p in made.folder.iterdir()] == ["00000001"]


def full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["save_file", "fsync", "rename", "mkdir", "write_bytes"])
def test_a_full_disk_leaves_the_old_generations_and_says_what_to_do(tmp_path, monkeypatch, where):
    made = generations(tmp_path, 3)
    targets = {"save_file": (checkpoint, "save_file"), "fsync": (os, "fsync"), "rename": (os, "rename"),
               "mkdir": (checkpoint.Path, "mkdir"), "write_bytes": (checkpoint.Path, "write_bytes")}  # fmt: skip
    monkeypatch.setattr(*targets[where], full)
    with pytest.raises(
        UsageError,
        match=r"cannot write .*00000004 .*No space left.*MB are free there: make room or choose another --out",
    ):
        made.write({"cursor": {"step": 4}}, tensors(4))
    monkeypatch.undo()
    assert made.numbers() == [2, 3]
    assert newest(made) == (3, [])
    assert not list(made.folder.glob(".*"))
    made.write({"cursor": {"step": 4}}, tensors(4))
    assert newest(made) == (4, [])


def test_a_failed_write_back_is_not_believed(tmp_path, monkeypatch):
    """A disk that loses what was written: the generation before it is still there."""
    made = generations(tmp_path, 2)

    def lossy(values, path):
        save_file(values, path)

    rename = os.rename

    def tear(old, new):
        (old / "agent.safetensors").write_bytes(b"lost")
        rename(old, new)

    monkeypatch.setattr(checkpoint, "save_file", lossy)
    monkeypatch.setattr(os, "rename", tear)
    with pytest.raises(UsageError, match=r"agent\.safetensors was not written correctly; check the disk"):
        made.write({"cursor": {"step": 3}}, tensors(3))
    monkeypatch.undo()
    assert 2 in made.numbers()
    assert newest(made)[0] == 2


def test_stale_staging_is_swept_and_a_repeated_save_meets_its_own_litter(tmp_path):
    made = generations(tmp_path, 2)
    litter = made.folder / ".00000003.staging"
    for _ in range(3):  # killed in the middle of the same save again and again
        litter.mkdir(exist_ok=True)
        (litter / "agent.safetensors").write_bytes(b"half")
    made.write({"cursor": {"step": 3}}, tensors(3))
    assert newest(made) == (3, [])
    litter.mkdir()
    (litter / "x").write_bytes(b"half")
    assert newest(made) == (3, [])
    assert sorted(p.name for p in made.folder.iterdir()) == ["00000002", "00000003"]


def test_a_half_deleted_old_generation_is_never_taken(tmp_path):
    made = generations(tmp_path, 2)
    (made.folder / "00000001" / "meta.json").unlink()
    assert newest(made) == (2, [])
    made.write({"cursor": {"step": 3}}, tensors(3))
    made.write({"cursor": {"step": 4}}, tensors(4))
    assert made.numbers() == [3, 4]


def test_replacing_a_folder_keeps_it_whole(tmp_path):
    write_folder(tmp_path / "a", {"x": 1}, tensors(1))
    write_folder(tmp_path / "a", {"x": 2}, {"agent": {"w": torch.zeros(1)}})
    assert read_folder(tmp_path / "a")[0]["x"] == 2
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["agent.safetensors", "meta.json"]


def test_order_of_a_save(tmp_path, monkeypatch):
    """Files, folder, rename, parent: only then is the generation real."""
    calls = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda h: calls.append("folder" if stat.S_ISDIR(os.fstat(h).st_mode) else "file") or sync(h)
    )
    monkeypatch.setattr(os, "rename", lambda *names: calls.append("rename") or rename(*names))
    write_folder(tmp_path / "a", {}, tensors(1))
    assert calls == ["file", "file", "file", "folder", "rename", "folder"]


@pytest.mark.parametrize("mask", [0o022, 0o002])
def test_modes_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_folder(tmp_path / "a", {}, tensors(1))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "a").iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: [], "is malformed; it needs 'format' and 'digests'"),
        (lambda meta: meta | {"format": "1"}, "is malformed"),
        (lambda meta: meta | {"digests": []}, "is malformed"),
        (lambda meta: meta | {"cursor": {"step": 77}}, "is damaged"),
        (lambda meta: {k: v for k, v in meta.items() if k != "digest"}, "is damaged"),
        (lambda meta: signed(meta | {"digests": {"../../x.safetensors": "sha256:0"}}), "is missing"),
        (lambda meta: signed(meta | {"digests": {"meta.json": "sha256:0"}}), "is missing"),
    ],
)
def test_forged_meta_is_refused_and_reads_nothing_outside(tmp_path, change, message):
    write_folder(tmp_path / "a", {"cursor": {"step": 1}}, tensors(1))
    save_file({"w": torch.zeros(1)}, tmp_path.parent / "x.safetensors")
    path = tmp_path / "a" / "meta.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UsageError, match=message):
        read_folder(tmp_path / "a")


def signed(meta):
    return meta | {"digest": checkpoint.own_digest(meta)}


def test_a_generation_that_the_system_will_not_read_is_no_damage(tmp_path, monkeypatch):
    made = generations(tmp_path)

    def refuse(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "sha256", refuse)
    with pytest.raises(Unreadable, match="Input/output error"):
        newest(made)
    monkeypatch.undo()
    assert newest(made) == (2, [])


def test_damaged_generations_are_set_aside_until_a_newer_one_is_written(tmp_path):
    made = generations(tmp_path)
    (tmp_path / "resume" / "00000002" / "agent.safetensors").write_bytes(b"")
    assert newest(made)[0] == 1
    assert (tmp_path / "resume" / ".00000002.damaged").is_dir()
    made.write({"cursor": {"step": 3}}, tensors(3))
    assert made.numbers() == [1, 2]
    assert newest(made) == (3, [])
    assert not list((tmp_path / "resume").glob(".*"))
