"""Folders of the published MT50 episodes: one `.npz` per episode of 500 steps of a Meta-World task, numbered in time order.

The data were released with MTDiff (He et al. 2023, arXiv 2305.18459) and are what Offline Continual World (CompoFormer,
arXiv 2411.11364) learns from. An episode has observations (T, 39), actions (T, 4), rewards and terminals or dones, T each,
and in most copies next_observations (T, 39), without which its last transition is lost. Meta-World never ends an episode
before its time limit, so a flag at the last step is that limit and a flag before it means that the file is something else.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Spec
from perdure.data.arrays_file import open_regular
from perdure.data.convert import read_beside
from perdure.data.convert.cage import Limits
from perdure.data.convert.episodes import Budget, RawEpisode, Source
from perdure.data.convert.npz import read_arrays
from perdure.data.names import safe_name
from perdure.data.store import Dataset, write_dataset

WIDTHS = {"observations": 39, "next_observations": 39, "actions": 4}
"""Columns of the arrays that have a row per step."""

FLAGS = ("terminals", "dones")
SUCCESS = ("success", "successes")
WANTED = (*WIDTHS, "rewards", *FLAGS, *SUCCESS)
LONGEST = 500

ROUNDING = 1e-6
"""An action may leave [-1, 1] by so much; it is clipped."""

ORIGIN = (
    "MT50 episodes released with MTDiff (He et al. 2023, arXiv 2305.18459): replay of one SAC agent per task on Meta-World v2"
)


# -- in the child -----------------------------------------------------------------------------------------------


def read(path: Path, budget: Budget, files: Sequence[str]) -> Source:
    """The episodes in `files` of a task's folder, in the order given."""
    return Source([_episode(path / name, budget) for name in files])


def _episode(file: Path, budget: Budget) -> RawEpisode:
    arrays = {name: np.squeeze(array, 1) if _single_column(name, array) else array
              for name, array in read_arrays(file, budget, WANTED).items()}  # fmt: skip
    flags = next((name for name in FLAGS if name in arrays), None)
    missing = next((name for name in ("observations", "actions", "rewards") if name not in arrays), None)
    if missing or flags is None:
        raise UsageError(f"{file} has no array '{missing or 'terminals'}'; an MT50 episode has observations, actions, rewards"
                         " and terminals (or dones)")
    steps = len(arrays["actions"]) if arrays["actions"].ndim else 0
    if not 2 <= steps <= LONGEST:
        raise UsageError(f"{file}: actions has the shape {arrays['actions'].shape}; an MT50 episode has 2 to {LONGEST} rows of 4")
    for name, array in arrays.items():
        wanted = (steps, WIDTHS[name]) if name in WIDTHS else (steps,)
        if array.shape != wanted:
            raise UsageError(f"{file}: {name} has the shape {array.shape}; with {steps} actions it must be {wanted}")
        if not np.isfinite(array).all():
            step = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UsageError(f"{file}: {name}, step {step} is not finite; every value must be, so restore the file from a copy")
    _check_flags(arrays[flags], f"{file}: {flags}")
    return RawEpisode(
        place=str(file), observations=arrays["observations"], actions=_actions(arrays["actions"], file),
        rewards=arrays["rewards"], terminals=np.zeros(steps, bool), last_observation=_last(arrays, file),
        success=next((bool(arrays[name].any()) for name in SUCCESS if name in arrays), None),
    )  # fmt: skip


def _single_column(name: str, array: np.ndarray) -> bool:
    return name not in WIDTHS and array.ndim == 2 and array.shape[1] == 1


def _check_flags(flags: np.ndarray, place: str) -> None:
    if not np.isin(flags, (0, 1)).all():
        raise UsageError(f"{place} holds values other than 0 and 1; it must be flags")
    early = np.flatnonzero(flags[:-1])
    if len(early):
        raise UsageError(f"{place} is set at step {early[0]} of {len(flags)}; a file holds one episode, which only its time limit"
                         " ends, so the flag belongs at the last step or nowhere")


def _actions(actions: np.ndarray, file: Path) -> np.ndarray:
    beyond = np.abs(actions) > 1 + ROUNDING
    if beyond.any():
        step, column = (int(i) for i in np.argwhere(beyond)[0])
        raise UsageError(f"{file}: actions, step {step}, column {column} is {actions[step, column]:.9g}; an action of Meta-World"
                         " lies in [-1, 1]")
    return np.clip(actions, -1, 1)


def _last(arrays: dict[str, np.ndarray], file: Path) -> np.ndarray | None:
    """(39,): the observation after the last action, where the file has it."""
    following = arrays.get("next_observations")
    if following is None:
        return None
    broken = np.flatnonzero((following[:-1] != arrays["observations"][1:]).any(axis=1))
    if len(broken):
        raise UsageError(f"{file}: next_observations, step {broken[0]} is not the observation of the step after it; a file holds"
                         " one unbroken episode")
    return following[-1].copy()  # a view would keep the whole array


# -- in the parent ----------------------------------------------------------------------------------------------


def present(folder: Path, files: Sequence[str]) -> None:
    """Refuse a task's folder that lacks one of `files`.

    Raises:
        UsageError: naming the first file that is missing.
    """
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise UsageError(f"{folder / absent[0]} is missing, as are {len(absent) - 1} more of the {len(files)} episodes asked for"
                         f" ({files[0]} to {files[-1]}); complete the folder, or ask for fewer")


def digest_of_files(folder: Path, files: Sequence[str]) -> str:
    """`sha256:...` over the names and contents of the files, in the order given."""
    whole = hashlib.sha256()
    for name in files:
        with open_regular(folder / name) as file:
            whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return "sha256:" + whole.hexdigest()


def convert(
    folder: Path, out: Path, *, files: Sequence[str], name: str, spec: Spec, quality: str, limits: Limits | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Read the episodes of one task in a limited child process and write them as a new dataset folder.

    Args:
        folder: of the task; never changed, and nothing in it is executed.
        out: dataset folder to make, whole or not at all.
        files: names of the episodes' files, in time order.
        name: of the new dataset.
        spec: of the task, with names and units of the channels.
        quality: for the card.
        limits: memory and time of the child process.
        say: told what is being done.

    Raises:
        UsageError: one sentence that names file and array.
    """
    safe_name(name, "dataset name")
    say(f"converting {len(files)} MT50 episodes from {folder} into {out}")
    digest = digest_of_files(folder, files)
    options = {"bounds": [[-1.0], [1.0]], "n_actions": None}
    with read_beside("mt50_npz", folder, out, options, limits or Limits(), {"files": list(files)}) as (episodes, result):
        returns = [float(episode.rewards.sum(dtype=np.float64)) for episode in episodes]
        known = [success for success in result.success if success is not None]
        behaviour = {
            "policy": "SAC while it learned (replay)",
            "episodes": len(episodes),
            "return": {"min": min(returns), "mean": sum(returns) / len(returns), "max": max(returns)},
            "success": sum(known) / len(known) if known else None,
            "files": [files[0], files[-1]],
            "source_digest": digest,
            "notes": [*result.notes, "the flag at the last step is the time limit; it is stored as truncated"],
        }
        return write_dataset(out, episodes, name=name, spec=spec, quality=quality, behaviour=behaviour, licence="unknown",
                             source=f"{ORIGIN}; folder {folder.name}")
