"""Folders of `.npz` episodes with the keys observations, actions, rewards, terminals (or dones).

This is the layout of the published MT50 data (one file per episode, in time order, T observations for T
actions). `next_observations` and `timeouts` are used where present. Only plain arrays are read: the zip
directory and the array headers are checked against each other and against a budget first, and object arrays
are refused.
"""

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.files import write_atomic
from perdure.data.arrays_file import open_regular
from perdure.data.convert.episodes import Budget, RawEpisode, Source
from perdure.data.store import Dataset

REQUIRED = ("observations", "actions", "rewards")
OPTIONAL = ("terminals", "dones", "timeouts", "next_observations")
MOST_MEMBERS = 1000
MOST_FILES = 1_000_000
RATIO_FROM = 16 * 2**20
"""Smaller members may be compressed as much as they like: constant arrays are common."""
MOST_RATIO = 200
LONGEST_HEADER = 10_000
"""Also the limit in numpy."""


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `ep_10` after `ep_9`."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"([0-9]+)", name)]


def read(path: Path, budget: Budget) -> Source:
    """Every episode of a folder of `.npz` files, or of one file."""
    if path.is_dir():
        names = sorted((child.name for child in path.iterdir() if child.name.endswith(".npz")), key=natural)
        if len(names) > MOST_FILES:
            raise UsageError(f"{path} has {len(names)} .npz files; {MOST_FILES} is the most")
        files = [path / name for name in names]
    else:
        files = [path]
    notes: list[str] = []
    episodes = [_episode(file, budget, notes) for file in files]
    return Source(episodes, notes=notes)


def read_arrays(path: Path, budget: Budget, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the `wanted` arrays that one `.npz` file has; plain numbers only.

    Raises:
        UsageError: naming file and array, for anything that is no sound file of plain arrays.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive, str(path), budget, wanted)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as problem:
            reason = ascii(str(problem))[:160]
            raise UsageError(f"{path} is no sound .npz file ({reason}); restore it from a copy") from None


def _episode(path: Path, budget: Budget, notes: list[str]) -> RawEpisode:
    arrays = read_arrays(path, budget, REQUIRED + OPTIONAL)
    missing = [key for key in REQUIRED if key not in arrays]
    if missing or not {"terminals", "dones"} & set(arrays):
        wanted = missing[0] if missing else "terminals"
        raise UsageError(
            f"{path} has no array {wanted!r}; an episode needs observations, actions, rewards and terminals"
        )
    terminals = arrays["terminals"] if "terminals" in arrays else arrays["dones"]
    if "terminals" not in arrays:
        note = "'dones' was read as termination, as the source does not tell it from a time limit"
        if note not in notes:
            notes.append(note)
    following = arrays.get("next_observations")
    return RawEpisode(
        place=str(path),
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminals=terminals,
        timeouts=arrays.get("timeouts"),
        last_observation=following[-1]
        if following is not None and following.ndim and len(following)
        else None,
    )


def _arrays(
    archive: zipfile.ZipFile, place: str, budget: Budget, wanted: tuple[str, ...]
) -> dict[str, np.ndarray]:
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > MOST_MEMBERS or len(set(names)) != len(names):
        raise UsageError(
            f"{place} has {len(members)} members, or one twice; an episode has a handful, each once"
        )
    arrays = {}
    for member in members:
        key = member.filename.removesuffix(".npy")
        with archive.open(
            member
        ) as stream:  # checks the name in the file against the directory, wanted or not
            if key in wanted:
                arrays[key] = _array(stream, member, f"{place}, {key}", budget)
    return arrays


def _array(stream: Any, member: zipfile.ZipInfo, place: str, budget: Budget) -> np.ndarray:
    """One member, after its header and the directory agree about its size."""
    if member.file_size > RATIO_FROM and member.file_size > MOST_RATIO * member.compress_size:
        raise UsageError(
            f"{place}: {member.compress_size} bytes claim to unpack to {member.file_size}; that is over "
            f"{MOST_RATIO} times as much, so store the array uncompressed if you trust it"
        )
    head = io.BytesIO(stream.read(min(member.file_size, LONGEST_HEADER + 16)))
    try:
        version = np.lib.format.read_magic(head)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = reader(head)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError):
        raise UsageError(f"{place} has a damaged array header; restore the file from a copy") from None
    if dtype.hasobject:
        raise UsageError(f"{place} holds Python objects, which can run code when read; store plain numbers")
    if dtype.kind not in "fiub":
        raise UsageError(f"{place} has the type {dtype}; only arrays of plain numbers are read")
    count = 1
    for length in shape:
        if length < 0:
            raise UsageError(f"{place} has the shape {shape}; lengths cannot be negative")
        count *= length
    size = count * dtype.itemsize
    if head.tell() + size != member.file_size:
        raise UsageError(
            f"{place} has the shape {shape}, which needs {size} bytes, and another size; the file is damaged"
        )
    budget.take(size, place)
    body = head.read() + stream.read()
    array = np.frombuffer(body, dtype, count)
    return array.reshape(shape, order="F" if fortran else "C")


def write(dataset: Dataset, path: Path) -> None:
    """A folder with one `.npz` per episode; observations keep their T+1 rows, `timeouts` is truncation."""
    path.mkdir()
    width = len(str(len(dataset)))
    for e in range(len(dataset)):
        item = dataset.trajectory(e)
        content = io.BytesIO()
        np.savez(
            content,
            observations=item.observations,
            actions=item.actions,
            rewards=item.rewards,
            terminals=item.terminated,
            timeouts=item.truncated,
        )
        write_atomic(path / f"episode_{e:0{width}}.npz", content.getvalue())
