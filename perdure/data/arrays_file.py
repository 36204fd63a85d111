"""The one array file of a dataset: safetensors, written in order and read through a memory map.

The reader is our own because a general one trusts the header: it would allocate what a damaged header claims.
Here the card says which arrays there are, and the header has to agree with it exactly before anything is
mapped.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Spec

HEADER_LIMIT = 2**20
"""A header of five arrays has a few hundred bytes; more than 1 MB is damage or an attack."""

TYPE_NAMES = {
    np.dtype("float32"): "F32",
    np.dtype("uint8"): "U8",
    np.dtype("int64"): "I64",
    np.dtype("bool"): "BOOL",
}

Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


def layout(spec: Spec, lengths: list[int]) -> Layout:
    """Type and shape of every array that episodes of these lengths need."""
    steps = sum(lengths)
    action: tuple[np.dtype[Any], tuple[int, ...]] = (np.dtype("int64"), (steps,))
    if isinstance(spec.action, Box):
        action = (np.dtype("float32"), (steps, *spec.action.shape))
    return {
        "observations": (np.dtype(spec.obs.dtype), (steps + len(lengths), *spec.obs.stored.shape)),
        "actions": action,
        "rewards": (np.dtype("float32"), (steps,)),
        "terminated": (np.dtype("bool"), (steps,)),
        "truncated": (np.dtype("bool"), (steps,)),
    }


def header_bytes(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], bytes]:
    """Order of the arrays in the file (widest type first: all are aligned then) and the padded header."""
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    entries, position = {}, 0
    for name in order:
        array = arrays[name]
        entries[name] = {
            "dtype": TYPE_NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return order, len(text).to_bytes(8, "little") + text


def file_parts(arrays: Mapping[str, np.ndarray]) -> list[bytes | memoryview]:
    """What the file consists of, in order, without a copy of the data."""
    order, header = header_bytes(arrays)
    return [header, *(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data for name in order)]


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """`sha256:<hex>` of the parts one after the other."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return "sha256:" + state.hexdigest()


def open_regular(path: Path) -> BufferedReader:
    """Open a plain file: no link, pipe or device, whatever its name was a moment ago.

    Raises:
        UsageError: it is missing, unreadable or not a plain file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise UsageError(
            f"{path} cannot be opened ({problem.strerror}); it must be a readable plain file"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{path} is no plain file; restore the dataset from a copy or make it again")
    return os.fdopen(handle, "rb")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name appears twice")
    return fields


def _read_header(file: BufferedReader, size: int, place: str) -> tuple[int, dict[str, Any]]:
    """Position of the first data byte, and the parsed header."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise UsageError(
            f"{place}: the file has {size} bytes and is cut short; restore it from a copy or make it again"
        )
    if length > HEADER_LIMIT:
        raise UsageError(
            f"{place}: the header claims {length} bytes; {HEADER_LIMIT} is the most, so the file is damaged"
        )
    if length % 8:
        raise UsageError(
            f"{place}: the header has {length} bytes; it needs a multiple of 8 to keep the arrays aligned"
        )
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise UsageError(
            f"{place}: the header is no valid JSON; restore the file from a copy or make it again"
        ) from None
    if not isinstance(header, dict):
        raise UsageError(
            f"{place}: the header is no table of arrays; restore the file from a copy or make it again"
        )
    return 8 + length, header


def map_arrays(file: BufferedReader, expected: Layout, place: str) -> dict[str, np.ndarray]:
    """Read-only views of the arrays in `file`, without reading them.

    Args:
        file: opened safetensors file, at its start.
        expected: what the card promises; the header must say exactly the same.
        place: how messages call the file.

    Raises:
        UsageError: names, types, shapes, offsets or the file size differ from `expected`.
    """
    size = os.fstat(file.fileno()).st_size
    start, header = _read_header(file, size, place)
    if set(header) != set(expected):
        odd = sorted(set(header) ^ set(expected))[0]
        raise UsageError(
            f"{place}: the header and the card disagree about the array {ascii(odd)[:60]}; make it again"
        )
    spans: dict[str, tuple[int, int]] = {}
    for name, (dtype, shape) in expected.items():
        wanted = {"dtype": TYPE_NAMES[dtype], "shape": list(shape)}
        entry = header[name] if isinstance(header[name], dict) else {}
        said = {"dtype": entry.get("dtype"), "shape": entry.get("shape")}
        if said != wanted or any(type(n) is not int for n in entry["shape"]):
            raise UsageError(f"{place}: {name} is {ascii(said)[:120]} in the header; the card needs {wanted}")
        offsets = entry.get("data_offsets")
        if not isinstance(offsets, list) or len(offsets) != 2 or any(type(n) is not int for n in offsets):
            raise UsageError(
                f"{place}: {name} has the offsets {ascii(offsets)[:60]}; two whole numbers are needed"
            )
        if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize or offsets[0] % dtype.itemsize:
            raise UsageError(
                f"{place}: {name} has the offsets {ascii(offsets)[:60]}, which do not fit its shape {shape}"
            )
        spans[name] = (offsets[0], offsets[1])
    position = 0
    for begin, end in sorted(spans.values()):
        if begin != position:
            raise UsageError(
                f"{place}: the arrays overlap or leave a gap at byte {position}; make the dataset again"
            )
        position = end
    if start + position != size:
        raise UsageError(
            f"{place}: the file has {size} bytes and its header describes {start + position}; "
            "it was cut short or appended to, so restore it from a copy or make it again"
        )
    whole = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
    return {
        name: whole[start + begin : start + end].view(expected[name][0]).reshape(expected[name][1])
        for name, (begin, end) in spans.items()
    }
