"""Files that are whole or absent: atomic writes with fsync, strict JSON, digests."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perdure.core.errors import Unreadable, UsageError

JSON_LIMIT = 64 * 2**20
"""Largest JSON file that is read, in bytes."""


def current_umask() -> int:
    """The process's umask; reading it needs setting it, so it is set back at once."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make renames and new names inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that a reader, or a crash, sees the old file or the new one and never a mix."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns a disk that refuses into one sentence.

    Raises:
        UsageError: no space, no permission, or an error of the device.
    """
    try:
        yield
    except OSError as problem:
        raise UsageError(f"{place} cannot be written ({problem.strerror}); make room or mend the disk, then repeat the command:"
                         " finished work is kept") from None


def json_bytes(value: Any) -> bytes:
    """Readable, strict JSON (NaN and infinity are refused with ValueError)."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `json_bytes(value)`."""
    write_atomic(path, json_bytes(value))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
    return dict(pairs)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def read_json(path: Path) -> Any:
    """Strict JSON from a file of at most 64 MB.

    Raises:
        UsageError: missing, unreadable, too large, or malformed (NaN and duplicate keys included).
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f"{path} is missing or is no regular file; give the path of an existing JSON file")
        if path.stat().st_size > JSON_LIMIT:
            raise UsageError(f"{path} has {path.stat().st_size} bytes; a JSON file here has at most {JSON_LIMIT}")
        text = path.read_bytes().decode("utf-8")
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} is not valid JSON ({str(problem)[:160]}); restore it from a copy or make it again") from None
    except OSError as problem:
        raise Unreadable(f"{path} cannot be read ({problem.strerror}); check the path and its permissions") from None


def sha256(path: Path) -> str:
    """Digest of a file's bytes, as `sha256:<hex>`."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
