"""The parent's side of reading a foreign file: start a limited child, turn every end of it into one sentence.

A file from elsewhere can ask for absurd memory, never end, or crash a native library; no `try` catches those.
The child (`caged.py`) takes the risk and hands back plain arrays and JSON, no pickles.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import perdure
from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.core.spec import Spec
from perdure.core.threads import ONE_THREAD

RESULT_FILE = "result.json"
REFUSAL_FILE = "refusal.json"
EXIT_REFUSED = 1
EXIT_MEMORY = 4

GRACE_SECONDS = 10.0
"""The child stops itself at its limit; the parent kills it this much later if it did not."""


@dataclass(frozen=True)
class Limits:
    """What a child that reads a foreign file may use."""

    memory_mb: int = 4096
    """Address space of the child; a third of it is the most that the arrays may take."""
    seconds: int = 600
    """CPU time, and wall-clock time, of the child."""
    file_mb: int = 16384
    """Largest file it may write."""

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise UsageError(f"limits.{field} is {value!r}; it must be a whole number of at least 1")

    @property
    def array_bytes(self) -> int:
        return self.memory_mb * 2**20 // 3


@dataclass(frozen=True)
class Result:
    """What the child found, beside the arrays."""

    spec: Spec
    lengths: list[int]
    seeds: list[int | None]
    success: list[bool | None]
    bounds_from: str
    notes: list[str]


def child_environment() -> dict[str, str]:
    """A small environment: this package importable, one thread, no HDF5 plugins, nothing of the user's."""
    kept = {
        key: os.environ[key]
        for key in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
        if key in os.environ
    }
    package = str(Path(perdure.__file__).resolve().parent.parent)
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    hdf5 = {"HDF5_PLUGIN_PATH": os.devnull, "HDF5_USE_FILE_LOCKING": "FALSE"}
    return {**kept, **ONE_THREAD, **hdf5, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def read_caged(
    format: str,
    path: Path,
    folder: Path,
    options: dict[str, Any],
    limits: Limits,
    reader: Mapping[str, Any] | None = None,
) -> Result:
    """Have a child read `path` and write the arrays into `folder`.

    Args:
        format: name of the format.
        path: absolute path of the foreign file or folder.
        folder: empty folder for the child's files.
        options: `bounds` and `n_actions` of `import_dataset`.
        limits: of the child.
        reader: further arguments of the format's `read`, as plain JSON values.

    Raises:
        UsageError: the child refused the file, was stopped by a limit, or crashed.
    """
    request = {
        "format": format,
        "path": str(path),
        "folder": str(folder),
        "options": options,
        "reader": dict(reader or {}),
        "limits": asdict(limits),
    }
    command = [sys.executable, "-P", "-m", "perdure.data.convert.caged"]
    with open(folder / "stderr", "wb") as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=folder,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            child.communicate(json.dumps(request).encode(), timeout=limits.seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # killed below; the code then says so
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    return outcome(child.returncode, path, folder, limits)


def outcome(code: int, path: Path, folder: Path, limits: Limits) -> Result:
    """The child's result, or the UsageError that its exit code, signal or refusal stands for."""
    if code in (-signal.SIGKILL, -signal.SIGXCPU, -signal.SIGALRM):
        raise UsageError(
            f"{path}: reading was stopped after more than {limits.seconds} seconds or for want of memory; "
            "the file is "
            "damaged or too large, so give limits.seconds and limits.memory_mb more if you trust it"
        )
    if code == EXIT_MEMORY:
        raise UsageError(
            f"{path}: reading needs more than {limits.memory_mb} MB of memory; the file is damaged or too "
            "large, "
            "so give limits.memory_mb more if you trust it"
        )
    if code == EXIT_REFUSED and (folder / REFUSAL_FILE).is_file():
        raise UsageError(str(read_json(folder / REFUSAL_FILE)))
    if code < 0:
        name = signal.Signals(-code).name
        raise UsageError(
            f"{path}: the reader crashed with {name}; the file is damaged, so restore it from a copy"
        )
    if code != 0:
        lines = (folder / "stderr").read_text(errors="replace").strip().splitlines()
        reason = ascii(lines[-1])[:160] if lines else "no message"
        raise UsageError(
            f"{path}: the reader ended with code {code} ({reason}); check the file and the installation"
        )
    return _parse(read_json(folder / RESULT_FILE), path)


def _parse(value: Any, path: Path) -> Result:
    """The child handled a foreign file, so its answer is checked like one."""
    try:
        lengths, seeds, notes = value["episode_lengths"], value["seeds"], value["notes"]
        success = value["success"]
        sound = (
            all(type(n) is int and n > 0 for n in lengths)
            and all(seed is None or type(seed) is int for seed in seeds)
            and all(flag is None or type(flag) is bool for flag in success)
            and len(seeds) == len(success) == len(lengths)
            and all(isinstance(note, str) for note in notes)
        )
        if sound:
            return Result(
                Spec.from_json(value["spec"]),
                list(lengths),
                list(seeds),
                list(success),
                str(value["bounds_from"]),
                list(notes),
            )
    except (KeyError, TypeError, ArithmeticError):
        pass
    raise UsageError(
        f"{path}: the reader's answer is malformed; the file is damaged or hostile, so restore it from a copy"
    )
