"""The facts about a dataset that a person wants to see before learning from it, as plain values."""

from typing import Any

import numpy as np

from perdure.core.spec import Box
from perdure.data.store import Dataset

CHUNK_VALUES = 2**22
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def channel_statistics(array: np.ndarray, space: Box) -> list[dict[str, Any]]:
    """Minimum, mean, maximum and standard deviation per channel.

    Args:
        array: (N, *shape) observations or actions.
        space: names the channels; an image has one channel per colour, taken over all pixels.

    Returns:
        One dict per channel: `name`, `unit` (or None), `min`, `mean`, `max`, `std`, `constant`.
    """
    channels = space.shape[0]
    flat = array.reshape(len(array), channels, -1)
    rows = max(1, CHUNK_VALUES // (flat.shape[1] * flat.shape[2]))
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    shift = flat[0].mean(axis=1, dtype=np.float64)  # near the mean, so that the squares below lose no digits
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows].astype(np.float64)
        low, high = np.minimum(low, part.min(axis=(0, 2))), np.maximum(high, part.max(axis=(0, 2)))
        part -= shift[:, None]
        total += part.sum(axis=(0, 2))
        squares += np.square(part).sum(axis=(0, 2))
    count = len(flat) * flat.shape[2]
    mean = total / count
    deviation = np.sqrt(np.maximum(0, squares / count - mean**2))
    named, unit = len(space.names) == channels, len(space.units) == channels
    return [
        {
            "name": space.names[c] if named else f"{c}",
            "unit": space.units[c] if unit else None,
            "min": float(low[c]),
            "mean": float(shift[c] + mean[c]),
            "max": float(high[c]),
            "std": float(deviation[c]) if low[c] < high[c] else 0.0,
            "constant": bool(low[c] == high[c]),
        }
        for c in range(channels)
    ]


def _spread(values: np.ndarray) -> dict[str, float]:
    quantiles = np.quantile(values, QUANTILES)
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return {
        **{name: float(q) for name, q in zip(names, quantiles, strict=True)},
        "mean": float(np.mean(values)),
    }


def _success(outcomes: list[bool | None]) -> dict[str, Any]:
    known = [outcome for outcome in outcomes if outcome is not None]
    return {"known": len(known), "successes": sum(known), "rate": sum(known) / len(known) if known else None}


def _levels(dataset: Dataset) -> list[dict[str, Any]]:
    """Episodes, mean return and success for each noise level of the behaviour policy, lowest first."""
    levels = dataset.card["behaviour"]["noise"]
    found = sorted({level for level in levels if level is not None})
    if None in levels and found:
        found.append(None)
    rows = []
    for level in found:
        episodes = [e for e, other in enumerate(levels) if other == level]
        outcome = _success([dataset.successes[e] for e in episodes])
        mean = float(dataset.returns[episodes].mean())
        rows.append({"level": level, "episodes": len(episodes), "mean_return": mean, "success": outcome})
    return rows


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, returns, success, channels, levels, split and size of a dataset, as plain JSON values."""
    card, spec = dataset.card, dataset.spec
    observations = channel_statistics(dataset.array("observations"), spec.obs.stored)
    if isinstance(spec.action, Box):
        actions: Any = channel_statistics(dataset.array("actions"), spec.action)
        constant = [row["name"] for row in actions if row["constant"]]
    else:
        counts = np.bincount(dataset.array("actions"), minlength=spec.action.n)
        names = spec.action.names or tuple(map(str, range(spec.action.n)))
        actions = [{"name": name, "count": int(count)} for name, count in zip(names, counts, strict=True)]
        constant = []
    arrays = [dataset.array(n) for n in ("observations", "actions", "rewards", "terminated", "truncated")]
    return {
        "name": dataset.name,
        "folder": None if dataset.folder is None else str(dataset.folder),
        "quality": card["quality"],
        "licence": card["licence"],
        "source": card["source"],
        "policy": card["behaviour"]["policy"],
        "digest": dataset.digest,
        "created_by": card["created_by"],
        "versions": card["versions"],
        "observation_space": spec.obs_key,
        "action_space": spec.action_key,
        "episodes": len(dataset),
        "transitions": dataset.transitions,
        "bytes": sum(array.nbytes for array in arrays),
        "split": {"train": len(dataset.episodes("train")), "holdout": len(dataset.episodes("holdout"))},
        "lengths": _spread(dataset.lengths),
        "returns": _spread(dataset.returns),
        "success": _success(dataset.successes),
        "terminated": int(dataset.array("terminated").sum()),
        "truncated": int(dataset.array("truncated").sum()),
        "levels": _levels(dataset),
        "observations": observations,
        "actions": actions,
        "constant_channels": {
            "observations": [row["name"] for row in observations if row["constant"]],
            "actions": constant,
        },
    }
