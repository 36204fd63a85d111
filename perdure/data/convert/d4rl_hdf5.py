"""D4RL-style HDF5: flat observations, actions, rewards, terminals, timeouts, optional next_observations.

Episodes end where `terminals` or `timeouts` is set. HDF5 can point outside its file and carry Python objects,
so links, external storage, virtual datasets, unknown filters and object types are refused before any data is
read. Other groups (`infos`, `metadata`) are not read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.data.arrays_file import digest_of, file_parts
from perdure.data.convert.episodes import Budget, RawEpisode, Source
from perdure.data.store import Dataset

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
DIGEST = "perdure_digest"
KNOWN_FILTERS = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    32000: "lzf",
}
RATIO_FROM = 64 * 2**20
MOST_RATIO = 1200
"""gzip reaches about 1000 on constant data; unallocated chunks, which cost a file nothing, go far beyond."""


def import_h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise UsageError("h5py is not installed: pip install 'perdure[minari]'") from None
    return h5py


def check_link(h5py: Any, group: Any, name: str, place: str) -> None:
    """Refuse everything but a hard link, which cannot leave the file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise UsageError(
            f"{place}, {name!r} is a soft or external link; copy the data it points to into the file"
        )


def check_array(dataset: Any, place: str, *, allow_variable: bool = False) -> None:
    """Refuse an HDF5 dataset that could read other files, run code or need a plugin."""
    if dataset.is_virtual or dataset.external:
        raise UsageError(f"{place} keeps its data in other files; copy them into this one")
    kind = dataset.dtype
    if kind.hasobject and not allow_variable:
        raise UsageError(
            f"{place} holds objects or rows of varying length ({kind}); only plain numbers are read"
        )
    if not kind.hasobject and kind.kind not in "fiub" and not allow_variable:
        raise UsageError(f"{place} has the type {kind}; only arrays of plain numbers are read")
    plist = dataset.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        code = plist.get_filter(index)[0]
        if code not in KNOWN_FILTERS:
            raise UsageError(f"{place} needs the HDF5 filter {code}; store it with gzip or uncompressed")


def charge(dataset: Any, place: str, budget: Budget) -> None:
    """Count the declared size of an HDF5 dataset and compare it with what is stored."""
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    budget.take(declared, place)
    if declared > RATIO_FROM and declared > MOST_RATIO * stored:
        raise UsageError(
            f"{place}: {stored} stored bytes claim to unpack to {declared}; the file is damaged or hostile"
        )


def read(path: Path, budget: Budget) -> Source:
    """Every episode of a D4RL-style file; the last one may lack an end."""
    h5py = import_h5py()
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        names = list(file)
        for name in names:
            check_link(h5py, file, name, str(path))
        for name in (*REQUIRED, *OPTIONAL):
            if name not in names:
                continue
            place = f"{path}, {name}"
            if not isinstance(file[name], h5py.Dataset):
                raise UsageError(f"{place} is a group; it must be an array")
            check_array(file[name], place)
            charge(file[name], place, budget)
            arrays[name] = file[name][()]
        claimed = file.attrs.get(DIGEST) if DIGEST in file.attrs else None
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise UsageError(
            f"{path} has no array {missing[0]!r}; D4RL-style files have {', '.join(REQUIRED + OPTIONAL)}"
        )
    notes = (
        [] if "timeouts" in arrays else ["the source has no 'timeouts', so episodes end at 'terminals' only"]
    )
    digest = claimed.decode("ascii", "replace") if isinstance(claimed, bytes) else None
    return Source(_split(arrays, str(path)), notes=notes, claimed_digest=digest)


def _split(arrays: dict[str, np.ndarray], place: str) -> list[RawEpisode]:
    total = len(arrays["actions"]) if arrays["actions"].ndim else 0
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != total:
            raise UsageError(
                f"{place}: {name} has the shape {array.shape} and actions have {total} rows; give as many"
            )
    flags = [
        arrays[name].reshape(total, -1).any(axis=1) for name in ("terminals", "timeouts") if name in arrays
    ]
    ends = np.flatnonzero(np.logical_or.reduce(flags)) + 1
    stops = [*ends.tolist(), *([total] if total and (not len(ends) or ends[-1] != total) else [])]
    timeouts, following = arrays.get("timeouts"), arrays.get("next_observations")
    episodes, start = [], 0
    for number, stop in enumerate(stops):
        cut_off = number == len(ends)
        episodes.append(
            RawEpisode(
                place=f"{place}, episode {number}",
                observations=arrays["observations"][start:stop],
                actions=arrays["actions"][start:stop],
                rewards=arrays["rewards"][start:stop],
                terminals=arrays["terminals"][start:stop],
                timeouts=None if timeouts is None or cut_off else timeouts[start:stop],
                last_observation=None if following is None else following[stop - 1],
            )
        )
        start = stop
    return episodes


def write(dataset: Dataset, path: Path) -> None:
    """One HDF5 file with checksummed chunks; episodes without a flag at their end get `timeouts` there."""
    h5py = import_h5py()
    count = np.arange(len(dataset))
    first = dataset.starts + count
    last = first + dataset.lengths
    keep = np.ones(len(dataset.array("observations")), bool)
    keep[last] = False
    following = np.ones_like(keep)
    following[first] = False
    ends = dataset.starts + dataset.lengths - 1
    truncated = dataset.array("truncated").copy()
    truncated[ends] |= ~dataset.array("terminated")[ends]
    arrays = {
        "observations": dataset.array("observations")[keep],
        "next_observations": dataset.array("observations")[following],
        "actions": dataset.array("actions"),
        "rewards": dataset.array("rewards"),
        "terminals": dataset.array("terminated"),
        "timeouts": truncated,
    }
    names = ("observations", "actions", "rewards", "terminated")
    digest = digest_of(file_parts({**{name: dataset.array(name) for name in names}, "truncated": truncated}))
    with h5py.File(path, "x") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=True, compression="gzip", fletcher32=True)
        file.attrs[DIGEST] = np.bytes_(digest)
