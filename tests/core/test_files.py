"""Files are whole or absent, JSON is strict."""

import os
import stat

import pytest

from perdure.core import files
from perdure.core.errors import UsageError
from perdure.core.files import read_json, sha256, write_atomic, write_json


def test_written_and_read(tmp_path):
    value = {"a": [1, 2.5, None, True], "ü": "line\nbreak"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, call):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"new": 2})
    monkeypatch.undo()
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: calls.append("dir" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file") or sync(handle),
    )
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("rename") or replace(*names))
    write_atomic(tmp_path / "x", b"content")
    assert calls == ["file", "rename", "dir"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "x", b"")
        assert files.current_umask() == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [1, -float("inf")]}])
def test_nan_is_not_written(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '"\ud800'.encode("utf-8", "surrogatepass"),
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        "9" * 5000,
        b"\x00",
    ],
    ids=[
        "empty",
        "open",
        "nan",
        "inf",
        "-inf",
        "overflow",
        "twice",
        "deep",
        "surrogate",
        "utf16",
        "bom",
        "long-number",
        "zero",
    ],
)
def test_malformed_files_are_one_sentence(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=r"x\.json is not valid JSON") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_missing_folder_and_unreadable_are_one_sentence(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UsageError, match="is missing or is no regular file"):
            read_json(path)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="is missing or is no regular file"):
        read_json(fifo)


def test_large_files_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(files.JSON_LIMIT + 1)
    with pytest.raises(UsageError, match=r"has 67108865 bytes; a JSON file here has at most 67108864"):
        read_json(path)


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
