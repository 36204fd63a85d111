"""From the arrays that foreign formats give to whole episodes with T+1 observations and stored types.

Runs in the child process; knows no file format.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Discrete, Spec
from perdure.data.arrays_file import digest_of, file_parts

SHORTENED = "the last transition of every episode without a known last observation was left out"


class Budget:
    """Bytes that all arrays together may take; counts what a header declares before anything is read."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0

    def take(self, size: int, place: str) -> None:
        self.used += size
        if self.used > self.limit:
            raise UsageError(
                f"{place}: the arrays need at least {self.used} bytes and the limit is {self.limit}; the "
                "file is damaged "
                "or too large, so give limits.memory_mb more if you trust it"
            )


@dataclass
class RawEpisode:
    """Arrays of one episode as a foreign file has them; `place` names it in messages."""

    place: str
    observations: np.ndarray
    """(T, *O) or (T+1, *O)"""
    actions: np.ndarray
    """(T, A) or (T,)"""
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray | None = None
    last_observation: np.ndarray | None = None
    """(*O): the observation after the last action, where `observations` lacks it."""
    seed: int | None = None
    success: bool | None = None
    """None where the file does not say."""


@dataclass
class Source:
    """Everything a format's reader found."""

    episodes: list[RawEpisode]
    spec: Spec | None = None
    """Where the format has one."""
    bounds_from: str = ""
    notes: list[str] = field(default_factory=list)
    claimed_digest: str | None = None
    """Digest that our own export put in, to detect damage in formats without checksums."""


def _flat(array: np.ndarray, name: str, place: str, steps: int) -> np.ndarray:
    """(T,) from (T,) or (T, 1)."""
    if array.shape == (steps, 1):
        array = array[:, 0]
    if array.shape != (steps,):
        raise UsageError(f"{place}: {name} has the shape {array.shape}; {steps} actions need ({steps},)")
    return array


def _flags(array: np.ndarray, name: str, place: str, steps: int) -> np.ndarray:
    """Booleans from booleans or from numbers that are exactly 0 or 1."""
    flat = _flat(array, name, place, steps)
    if flat.dtype.kind != "b" and not np.isin(flat, (0, 1)).all():
        raise UsageError(f"{place}: {name} holds values other than 0 and 1; store flags")
    return flat.astype(bool)


def _numbers(array: np.ndarray, name: str, place: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{place}: {name} has the type {array.dtype}; only arrays of plain numbers are read")
    return array


def whole(raw: RawEpisode) -> dict[str, np.ndarray] | None:
    """The episode with one observation more than actions, or None if nothing of it is left."""
    place = raw.place
    steps = len(raw.actions) if raw.actions.ndim else 0
    observations = _numbers(raw.observations, "observations", place)
    if steps == 0 or observations.ndim < 2 or len(observations) not in (steps, steps + 1):
        raise UsageError(
            f"{place}: observations have the shape {observations.shape} and actions {raw.actions.shape}; "
            "give one row per step, at least one step, and as many or one more observations"
        )
    actions = _numbers(raw.actions, "actions", place)
    rewards = _flat(_numbers(raw.rewards, "rewards", place), "rewards", place, steps)
    terminated = _flags(_numbers(raw.terminals, "terminals", place), "terminals", place, steps)
    if raw.timeouts is None:
        truncated = np.zeros(steps, bool)
        truncated[-1] = not terminated[-1]
    else:
        truncated = _flags(_numbers(raw.timeouts, "timeouts", place), "timeouts", place, steps)
    if len(observations) == steps and raw.last_observation is not None:
        if raw.last_observation.shape != observations.shape[1:]:
            raise UsageError(
                f"{place}: next_observations have another shape than observations; make them alike"
            )
        observations = np.concatenate([observations, raw.last_observation[None].astype(observations.dtype)])
    if len(observations) == steps:
        steps -= 1
        if steps == 0:
            return None
        actions, rewards, terminated = actions[:steps], rewards[:steps], terminated[:steps]
        truncated = truncated[:steps].copy()
        truncated[-1] = not terminated[-1]
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminated": terminated,
        "truncated": truncated,
    }


def data_bounds(actions: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Smallest and largest action per channel, [-1, 1] for channels that lie inside it."""
    finite = np.where(np.isfinite(actions), actions, 0)
    low, high = finite.min(axis=0).astype(float), finite.max(axis=0).astype(float)
    inside = (low >= -1) & (high <= 1)
    constant = ~inside & (low == high)
    low, high = low - constant, high + constant
    return tuple(np.where(inside, -1.0, low).tolist()), tuple(np.where(inside, 1.0, high).tolist())


def _find_spec(arrays: dict[str, np.ndarray], bounds: Any, n_actions: int | None) -> tuple[Spec, str]:
    obs = Box(arrays["observations"].shape[1:], str(arrays["observations"].dtype))
    actions = arrays["actions"]
    if actions.ndim == 1:
        if n_actions is not None:
            return Spec(obs, Discrete(n_actions)), "number of actions given at import"
        return Spec(
            obs, Discrete(max(1, int(actions.max()) + 1))
        ), "number of actions taken from the data: largest plus one"
    if bounds is not None:
        low, high = (tuple(bound) * actions.shape[1] if len(bound) == 1 else tuple(bound) for bound in bounds)
        return Spec(obs, Box(actions.shape[1:], low=low, high=high)), "given at import"
    low, high = data_bounds(actions)
    origin = "taken from the data: smallest and largest action per channel, [-1, 1] where they lie inside"
    return Spec(obs, Box(actions.shape[1:], low=low, high=high)), origin


def _stored(parts: list[np.ndarray], name: str, places: list[str]) -> np.ndarray:
    """One array of stored type from the episodes' arrays."""
    for part, place in zip(parts, places, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            raise UsageError(
                f"{place}: {name} have the shape {part.shape[1:]} per step and {parts[0].shape[1:]} in "
                f"{places[0]}; "
                "import them as separate datasets"
            )
    kinds = {part.dtype for part in parts}
    integers = all(kind.kind in "iu" for kind in kinds)
    if name == "actions" and integers and parts[0].shape[1:] in ((), (1,)):
        return np.concatenate(parts).reshape(-1).astype(np.int64)
    wanted = np.uint8 if name == "observations" and kinds == {np.dtype("uint8")} else np.float32
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite and is refused as such
        array = np.concatenate([part.astype(wanted, copy=False) for part in parts])
    if name == "actions" and array.ndim == 1:
        return array[:, None]
    return array


def pack(
    source: Source, place: str, *, bounds: Any, n_actions: int | None
) -> tuple[dict[str, Any], list[Any]]:
    """The result for the parent, and the parts of the array file.

    Args:
        source: what the reader found.
        place: how messages call it.
        bounds, n_actions: as in `import_dataset`.
    """
    kept: list[dict[str, np.ndarray]] = []
    places, seeds, successes, notes = [], [], [], list(source.notes)
    for raw in source.episodes:
        episode = whole(raw)
        if (
            len(raw.observations) == len(raw.actions)
            and raw.last_observation is None
            and SHORTENED not in notes
        ):
            notes.append(SHORTENED)
        if episode is not None:
            kept.append(episode)
            places.append(raw.place)
            seeds.append(raw.seed)
            successes.append(raw.success)
    if not kept:
        raise UsageError(
            f"{place}: there are zero episodes with at least one whole transition; give more data"
        )
    if len(kept) < len(source.episodes):
        notes.append(f"{len(source.episodes) - len(kept)} episodes of one step were left out")
    arrays = {name: _stored([e[name] for e in kept], name, places) for name in ("observations", "actions")}
    with np.errstate(over="ignore"):
        arrays["rewards"] = np.concatenate([e["rewards"].astype(np.float32) for e in kept])
    for name in ("terminated", "truncated"):
        arrays[name] = np.concatenate([e[name] for e in kept])
    found, bounds_from = _find_spec(arrays, bounds, n_actions)
    if source.spec is not None and bounds is None and n_actions is None:
        if (source.spec.obs_key, source.spec.action_key) != (found.obs_key, found.action_key) and not (
            source.spec.discrete and found.discrete and source.spec.obs_key == found.obs_key
        ):
            raise UsageError(
                f"{place}: its spaces are {source.spec.obs_key} and {source.spec.action_key} but its data "
                "are "
                f"{found.obs_key} and {found.action_key}; correct one of them"
            )
        found, bounds_from = source.spec, source.bounds_from
    parts = file_parts(arrays)
    if source.claimed_digest is not None and source.claimed_digest != digest_of(parts):
        raise UsageError(
            f"{place}: the data differ from the digest they were exported with; restore it from a copy, "
            "or take out perdure_digest if you changed them on purpose"
        )
    result = {
        "spec": found.to_json(),
        "episode_lengths": [len(e["rewards"]) for e in kept],
        "seeds": seeds,
        "success": successes,
        "bounds_from": bounds_from,
        "notes": notes,
    }
    return result, parts
