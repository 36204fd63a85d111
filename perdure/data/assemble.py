"""From episodes in memory to the validated arrays and card of a dataset; touches no disk."""

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Spec
from perdure.data.arrays_file import digest_of, file_parts
from perdure.data.card import FORMAT, card_digest, check_card
from perdure.data.names import safe_name
from perdure.data.trajectory import Trajectory, episode_arrays
from perdure.data.validate import faults


def split_holdout(episodes: int, share: float) -> list[int]:
    """Episodes kept out of training: every round(1/share)-th, the last if too few, none for share 0."""
    if not isinstance(share, (int, float)) or not 0 <= share <= 0.5:
        raise UsageError(f"holdout is {share!r}; it is the share of episodes kept out of training, 0 to 0.5")
    if share == 0 or episodes < 2:
        return []
    every = max(2, round(1 / share))
    return list(range(every - 1, episodes, every)) or [episodes - 1]


def assemble(
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
) -> tuple[dict[str, Any], Spec, dict[str, np.ndarray]]:
    """Validated card, spec and read-only flat arrays; the arguments are those of `store.write_dataset`."""
    place = f"dataset {safe_name(name, 'dataset name')}"
    if "noise" in behaviour or not isinstance(behaviour.get("policy"), str):
        raise UsageError(
            f"{place}: behaviour has the fields {sorted(behaviour)}; give 'policy', and noise as each "
            "trajectory's level"
        )
    items = list(trajectories)
    if not items:
        raise UsageError(f"{place}: there are zero episodes; give at least one")
    try:
        parts = [episode_arrays(item, spec, e) for e, item in enumerate(items)]
    except UsageError as problem:
        raise UsageError(f"{place}: {problem}") from None
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    lengths = np.asarray([len(part["rewards"]) for part in parts], np.int64)
    found = faults(spec, lengths, arrays)
    if found:
        raise UsageError(f"{place}: {found[0]}")
    for array in arrays.values():
        array.flags.writeable = False
    card = {
        "format": FORMAT,
        "name": name,
        "spec": spec.to_json(),
        "episode_lengths": lengths.tolist(),
        "returns": [float(part["rewards"].sum(dtype=np.float64)) for part in parts],
        "success": [None if item.success is None else bool(item.success) for item in items],
        "goals": [None if item.goal is None else [float(x) for x in item.goal] for item in items],
        "seeds": [None if item.seed is None else int(item.seed) for item in items],
        "behaviour": {
            **behaviour,
            "noise": [None if item.level is None else float(item.level) for item in items],
        },
        "quality": quality,
        "split": {"holdout": split_holdout(len(items), holdout)},
        "licence": licence,
        "source": source,
        "versions": dict(versions or {}),
        "digest": digest_of(file_parts(arrays)),
        "created_by": f"perdure {_own_version()}",
    }
    try:
        card["card_digest"] = card_digest(card)
    except (TypeError, ValueError, RecursionError) as problem:
        raise UsageError(
            f"{place}: behaviour or versions holds what JSON cannot ({problem}); use text and numbers"
        ) from None
    check_card(card, place)
    return card, spec, arrays


def _own_version() -> str:
    try:
        return metadata.version("perdure")
    except metadata.PackageNotFoundError:
        return "unknown"
