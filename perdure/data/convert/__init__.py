"""Foreign data formats: one file each, read in a limited child process, written directly.

`import_dataset` turns a foreign file or folder into a dataset folder, `export_dataset` does the reverse.
"""

import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.data.arrays_file import layout, map_arrays, open_regular
from perdure.data.card import ARRAYS_FILE, CARD_FILE
from perdure.data.convert.cage import Limits, Result, read_caged
from perdure.data.names import safe_name
from perdure.data.store import Dataset, write_dataset
from perdure.data.trajectory import Trajectory

FORMATS = {
    "npz": "perdure.data.convert.npz",
    "d4rl_hdf5": "perdure.data.convert.d4rl_hdf5",
    "minari": "perdure.data.convert.minari",
}
"""Name of a format -> the module that reads and writes it."""

PUBLISHED = {"mt50_npz": "perdure.data.convert.mt50_npz", "minari_atari": "perdure.data.convert.minari_atari"}
"""Published data that a stream converts for itself -> the module that reads them."""

HDF5_START = b"\x89HDF\r\n\x1a\n"
ZIP_START = b"PK\x03\x04"


def format_module(name: str) -> Any:
    """The module of a format; UsageError with the nearest known name."""
    if name not in FORMATS:
        raise UsageError(
            f"format is {name!r}; the known formats are {', '.join(FORMATS)}{nearest(name, FORMATS)}"
        )
    return importlib.import_module(FORMATS[name])


def reader_module(name: str) -> Any:
    """The module with the reader of a format or of published data."""
    return importlib.import_module(PUBLISHED[name]) if name in PUBLISHED else format_module(name)


def recognise(path: Path | str) -> str:
    """Format of a foreign file or folder, from its first bytes or the names in it.

    Raises:
        UsageError: missing, already a dataset of ours, or of no known format.
    """
    path = Path(path)
    if path.is_dir():
        if (path / CARD_FILE).exists():
            raise UsageError(f"{path} is a perdure dataset already; use it as it is")
        if (path / "metadata.json").exists() or (path / "data" / "metadata.json").exists():
            return "minari"
        if any(path.glob("*.npz")):
            return "npz"
    elif path.is_file():
        with open_regular(path.resolve()) as file:
            start = file.read(8)
        if start == HDF5_START or path.suffix in (".hdf5", ".h5"):
            return "d4rl_hdf5"
        if start[:4] == ZIP_START or path.suffix == ".npz":
            return "npz"
    else:
        raise UsageError(
            f"{path} does not exist or is no plain file or folder; give the path of the data to import"
        )
    raise UsageError(f"{path} is of no known format; name one of {', '.join(FORMATS)} if you know better")


def import_dataset(
    path: Path | str,
    out: Path | str,
    *,
    name: str,
    format: str | None = None,
    quality: str = "imported",
    licence: str = "unknown",
    source: str | None = None,
    bounds: tuple[Sequence[float], Sequence[float]] | None = None,
    n_actions: int | None = None,
    holdout: float = 0.1,
    limits: Limits | None = None,
) -> Dataset:
    """Read a foreign dataset in a limited child process and write it as a new dataset folder.

    Args:
        path: file or folder to read; it is never changed and nothing in it is executed.
        out: folder to make.
        name: name of the new dataset.
        format: one of `FORMATS`; None recognises it.
        quality, licence, holdout: for the card.
        source: where the data come from; default: the path and the format.
        bounds: (low, high) per action channel. None takes the format's own bounds if it has any, else the
            smallest and largest action in the data, widened to [-1, 1] where they lie inside; the card says
            which.
        n_actions: number of discrete actions; None takes the largest action in the data plus one.
        limits: memory and time of the child process.

    Returns:
        The opened dataset. Sources with as many observations as steps and no `next_observations` lose the
        last transition of each episode, because where it led is not known.

    Raises:
        UsageError: one sentence with file, field, value and remedy.
    """
    path, out = Path(path), Path(out).absolute()  # the reading child works in a folder of its own
    safe_name(name, "dataset name")
    format = format or recognise(path)
    format_module(format)
    if not path.exists():
        raise UsageError(f"{path} does not exist; give the path of the data to import")
    if out.exists():
        raise UsageError(
            f"{out} exists already; datasets are never changed in place, so name another or remove it"
        )
    options: dict[str, Any] = {"n_actions": n_actions, "bounds": None}
    if bounds is not None:
        options["bounds"] = [[float(x) for x in bound] for bound in bounds]
    with read_beside(format, path, out, options, limits or Limits()) as (episodes, result):
        return write_dataset(
            out,
            episodes,
            name=name,
            spec=result.spec,
            quality=quality,
            behaviour={"policy": "unknown", "action_bounds": result.bounds_from, "notes": result.notes},
            licence=licence,
            source=source or f"imported from {path.name} ({format})",
            holdout=holdout,
        )


@contextmanager
def read_beside(
    format: str, path: Path, out: Path, options: dict[str, Any], limits: Limits, reader: Mapping[str, Any] | None = None
) -> Iterator[tuple[list[Trajectory], Result]]:
    """The episodes that a limited child reads from `path`, mapped from a file near `out` that is there inside the `with` only.

    Args:
        format, options, limits, reader: as in `read_caged`.

    Raises:
        UsageError: the child refused, or nothing can be written near `out`.
    """
    place = next(parent for parent in out.absolute().parents if parent.is_dir())  # so that a refusal leaves no empty folder
    try:
        workplace = tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".import", dir=place)
    except OSError as problem:
        raise UsageError(f"{place} cannot be written ({problem.strerror}); choose another folder") from None
    with workplace as temporary:
        result = read_caged(format, path.resolve(), Path(temporary), options, limits, reader)
        with open_regular(Path(temporary) / ARRAYS_FILE) as file:
            arrays = map_arrays(file, layout(result.spec, result.lengths), f"{path}, as read")
        yield trajectories(arrays, result), result


def export_dataset(dataset: Dataset, path: Path | str, format: str) -> Path:
    """Write `dataset` in a foreign format to a new file or folder `path`; returns the path.

    Raises:
        UsageError: unknown format, `path` exists, a missing extra, or a disk that refuses.
    """
    module, path = format_module(format), Path(path).absolute()
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already; name another path or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        module.write(dataset, path)
    except OSError as problem:
        raise UsageError(
            f"{path} cannot be written ({problem}); check the space and the permissions there"
        ) from None
    return path


def trajectories(arrays: Mapping[str, np.ndarray], result: Result) -> list[Trajectory]:
    """The episodes in the flat `arrays` that a child wrote; views, no copies."""
    episodes, start = [], 0
    for e, (length, seed, success) in enumerate(zip(result.lengths, result.seeds, result.success, strict=True)):
        end = start + length
        episodes.append(
            Trajectory(
                observations=arrays["observations"][start + e : end + e + 1],
                actions=arrays["actions"][start:end],
                rewards=arrays["rewards"][start:end],
                terminated=arrays["terminated"][start:end],
                truncated=arrays["truncated"][start:end],
                success=success,
                seed=seed,
            )
        )
        start = end
    return episodes
