"""Datasets on disk: a folder with `arrays.safetensors` and `card.json`, validated and memory-mapped.

A dataset is written whole or not at all and never edited afterwards. safetensors carries no checksum, so a
flipped bit would train a policy on wrong numbers; therefore the digest and all values are verified on the
first open on a machine (see `verified.py`), and again by `check`.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.core.files import current_umask, sync_folder, write_json
from perdure.core.spec import Spec
from perdure.data import verified
from perdure.data.arrays_file import file_parts, layout, map_arrays, open_regular
from perdure.data.assemble import assemble
from perdure.data.card import ARRAYS_FILE, CARD_FILE, read_card
from perdure.data.trajectory import Trajectory
from perdure.data.validate import faults


class Dataset:
    """A read-only set of episodes of one task; opens in milliseconds.

    Attributes:
        folder: where it lies; None for a dataset in memory.
        card: the parsed `card.json`.
        spec: spaces of observations and actions.
        name: name from the card.
        digest: `sha256:...` of the array file.
        lengths: (E,) int64, steps per episode.
        starts: (E,) int64, position of each episode's first step in the per-step arrays; its first
            observation is at `starts[e] + e`, as each episode keeps one observation more than it has steps.
        returns: (E,) float64, undiscounted sum of rewards.
        successes: E entries True, False or None (unknown).
        holdout: (E,) bool, True for the episodes kept out of training.
        transitions: number of steps in all episodes.
    """

    def __init__(
        self, folder: Path | None, card: dict[str, Any], spec: Spec, arrays: Mapping[str, np.ndarray]
    ):
        self.folder = folder
        self.card = card
        self.spec = spec
        self.name: str = card["name"]
        self.digest: str = card["digest"]
        self.lengths = np.asarray(card["episode_lengths"], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.returns = np.asarray(card["returns"], np.float64)
        self.successes: list[bool | None] = card["success"]
        self.holdout = np.zeros(len(self.lengths), bool)
        self.holdout[card["split"]["holdout"]] = True
        self.transitions = int(self.lengths.sum())
        self._arrays = dict(arrays)

    @classmethod
    def open(cls, folder: Path | str, verify: bool | None = None) -> "Dataset":
        """Open a dataset folder.

        Args:
            folder: holds `arrays.safetensors` and `card.json`.
            verify: True verifies digest and values now; None only if this machine has not done so since the
                file last changed; False checks the card and the header alone.

        Raises:
            UsageError: missing, damaged, or not sound; one sentence with file, field, value and remedy.
        """
        dataset, findings = _examine(Path(folder), verify)
        if findings:
            raise UsageError(findings[0])
        return dataset

    @classmethod
    def in_memory(cls, trajectories: Iterable[Trajectory], **description: Any) -> "Dataset":
        """A dataset without a folder; takes the keywords of `write_dataset` and validates alike.

        Its digest is the one that the file would have.
        """
        card, spec, arrays = assemble(trajectories, **description)
        return cls(None, card, spec, arrays)

    def array(self, name: str) -> np.ndarray:
        """Read-only flat array: `observations` (sum(T+1), *F) as stored frames, or `actions`, `rewards`, `terminated` or
        `truncated` (sum(T), ...).
        """
        if name not in self._arrays:
            raise UsageError(
                f"array is {name!r}; a dataset has {', '.join(self._arrays)}{nearest(name, self._arrays)}"
            )
        return self._arrays[name]

    def episodes(self, split: Literal["train", "holdout", "all"]) -> np.ndarray:
        """Ascending int64 indices of the episodes in a split."""
        chosen = {"train": ~self.holdout, "holdout": self.holdout, "all": np.ones_like(self.holdout)}
        if split not in chosen:
            raise UsageError(
                f"split is {split!r}; it must be 'train', 'holdout' or 'all'{nearest(split, chosen)}"
            )
        return np.flatnonzero(chosen[split])

    def trajectory(self, e: int) -> Trajectory:
        """Episode `e`; its arrays are read-only views."""
        if not 0 <= e < len(self.lengths):
            raise UsageError(
                f"episode is {e}; the dataset {self.name} has the episodes 0 to {len(self.lengths) - 1}"
            )
        start, end = int(self.starts[e]), int(self.starts[e] + self.lengths[e])
        goal = self.card["goals"][e]
        return Trajectory(
            observations=self._arrays["observations"][start + e : end + e + 1],
            actions=self._arrays["actions"][start:end],
            rewards=self._arrays["rewards"][start:end],
            terminated=self._arrays["terminated"][start:end],
            truncated=self._arrays["truncated"][start:end],
            success=self.successes[e],
            goal=None if goal is None else tuple(goal),
            seed=self.card["seeds"][e],
            level=self.card["behaviour"]["noise"][e],
        )

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    def __repr__(self) -> str:
        size = f"{len(self)} episodes, {self.transitions} transitions"
        return f"Dataset({self.name!r}, {size}, {self.card['quality']})"


def write_dataset(
    folder: Path | str,
    trajectories: Iterable[Trajectory],
    *,
    name: str,
    spec: Spec,
    quality: str,
    behaviour: Mapping[str, Any],
    licence: str,
    source: str,
    holdout: float = 0.1,
    versions: Mapping[str, str] | None = None,
) -> Dataset:
    """Write a new dataset folder, whole or not at all, and open it.

    Args:
        folder: must not exist yet; its parents are made.
        trajectories: at least one episode.
        name: safe name, see `names.safe_name`.
        spec: the spaces every episode must fit.
        quality: such as `expert`, `mixed`, `imported`.
        behaviour: who acted: `policy` and free fields; the noise levels are taken from the trajectories.
        licence: licence of the data, or `unknown`.
        source: where the data come from, in words.
        holdout: share of episodes kept out of training, 0 to 0.5; 0.1 holds out every tenth episode.
        versions: versions of the software that made the data.

    Raises:
        UsageError: wrong values (naming episode and column), an existing folder, or a disk that refuses.
    """
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise UsageError(
            f"{folder} exists already; datasets are never changed in place, so name another or remove it"
        )
    card, _, arrays = assemble(
        trajectories,
        name=name,
        spec=spec,
        quality=quality,
        behaviour=behaviour,
        licence=licence,
        source=source,
        holdout=holdout,
        versions=versions,
    )
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".staging", dir=folder.parent))
        with open(staging / ARRAYS_FILE, "xb") as file:
            for part in file_parts(arrays):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        write_json(staging / CARD_FILE, card)
        os.chmod(staging, 0o777 & ~current_umask())
        os.rename(staging, folder)
        sync_folder(folder.parent)
    except OSError as problem:
        needed = sum(array.nbytes for array in arrays.values())
        raise UsageError(
            f"{folder} cannot be written ({problem.strerror}); it needs {needed} bytes in a folder you may "
            "write to"
        ) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return Dataset.open(folder, verify=False)


def check(folder: Path | str) -> list[str]:
    """Every finding of a full verification, digest and values included, cached or not; empty when sound."""
    try:
        return _examine(Path(folder), verify=True)[1]
    except UsageError as finding:
        return [str(finding)]


def _examine(folder: Path, verify: bool | None) -> tuple[Dataset, list[str]]:
    """The dataset, and what a verification found; UsageError if it cannot even be mapped."""
    try:
        if not folder.is_dir():
            siblings = [child.name for child in folder.parent.iterdir()] if folder.parent.is_dir() else []
            shown = str(folder) if str(folder).isprintable() else ascii(str(folder))
            raise UsageError(
                f"{shown} is no dataset folder{nearest(folder.name, siblings)}; collect or import it first"
            )
        card, spec = read_card(folder)
        with open_regular(folder / ARRAYS_FILE) as file:
            arrays = map_arrays(file, layout(spec, card["episode_lengths"]), str(folder / ARRAYS_FILE))
            dataset = Dataset(folder, card, spec, arrays)
            state = os.fstat(file.fileno())
            if verify is False or (verify is None and verified.is_verified(state, card["card_digest"])):
                return dataset, []
            findings = _content_findings(dataset, file)
            if not findings:
                verified.remember(state, os.fstat(file.fileno()), card["card_digest"])
            return dataset, findings
    except (OSError, ValueError) as problem:
        raise UsageError(f"{folder} cannot be read ({problem}); check the path and its permissions") from None


def _content_findings(dataset: Dataset, file: BufferedReader) -> list[str]:
    """Digest, values and the card's returns against the file's content."""
    place = f"{dataset.folder}/{ARRAYS_FILE}"
    file.seek(0)
    digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    findings = []
    if digest != dataset.digest:
        findings.append(
            f"{place} has the digest {digest} and its card says {ascii(dataset.digest)[:80]}; "
            "the file was damaged or edited, so restore it from a copy or make the dataset again"
        )
    arrays = {
        name: dataset.array(name)
        for name in ("observations", "actions", "rewards", "terminated", "truncated")
    }
    findings += [f"{place}: {fault}" for fault in faults(dataset.spec, dataset.lengths, arrays)]
    with np.errstate(invalid="ignore", over="ignore"):
        rewards = arrays["rewards"].astype(np.float64)
        sums = np.add.reduceat(rewards, dataset.starts)
        slack = 1e-9 * (1 + np.add.reduceat(np.abs(rewards), dataset.starts))
        wrong = np.flatnonzero(np.abs(sums - dataset.returns) > slack)
    if len(wrong):
        e = int(wrong[0])
        findings.append(
            f"{dataset.folder}/{CARD_FILE}: returns of episode {e} is {dataset.returns[e]:.9g} and its "
            "rewards sum to "
            f"{sums[e]:.9g}; make the dataset again"
        )
    return findings
