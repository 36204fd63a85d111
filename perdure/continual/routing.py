"""Routing: whether a new task shares the copy of an earlier one, and whose. One decision per task, from data, before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ROUTERS = ("action", "latent", "hybrid", "never", "always", "oracle", "random")

FAR = 1e9
"""A distance over threshold that is never near; JSON has no infinity."""


@dataclass(frozen=True)
class Distances:
    """Of the new task to one earlier task."""

    action: float
    """Error of the earlier subnetwork over that of a constant prediction; 1 means no better than a constant."""
    latent: float
    """Nats per dimension."""
    own_action: float
    """The same error of the earlier task on its own held-out data."""
    own_latent: float
    """The same divergence between the earlier task's training and held-out data."""


@dataclass(frozen=True)
class Decision:
    """Where a task goes, and why."""

    source: int | None
    """The earlier task whose copy it shares; None: it is not near any."""
    nearest: int | None
    """The nearest task, whether it is near enough or not; None: there is none to share with."""
    ratios: Mapping[int, float] = field(default_factory=dict)
    """Distance over threshold per candidate; 1 or less means near enough."""
    distances: Mapping[int, Distances] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "ratios": {str(t): r for t, r in self.ratios.items()},
                "distances": {str(t): asdict(d) for t, d in self.distances.items()}}


def ratio(kind: str, distance: Distances, tolerance: float, latent_tolerance: float, mix: float) -> float:
    """Distance over threshold, 0 where the new task is as near as the earlier task's own data.

    action: the threshold lies between the error of the earlier task on its own data and that of a constant prediction, at the
    share `tolerance` of the way; a task that is no better than a constant on its own data is near to nothing. latent:
    `latent_tolerance` nats per dimension above the divergence within the earlier task. hybrid: `mix` times the first and
    1 - `mix` times the second.
    """
    room = tolerance * (1 - distance.own_action)
    action = max(0.0, distance.action - distance.own_action) / room if room > 0 else FAR
    latent = max(0.0, distance.latent - distance.own_latent) / latent_tolerance
    return {"action": action, "latent": latent, "hybrid": mix * action + (1 - mix) * latent}[kind]


def raw_distance(kind: str, distance: Distances, latent_tolerance: float, mix: float) -> float:
    """By which near tasks are compared: how well each would do, not how far that is from what it does on its own data."""
    latent = distance.latent / latent_tolerance
    return {"action": distance.action, "latent": latent, "hybrid": mix * distance.action + (1 - mix) * latent}[kind]


def nearest_source(ratios: Mapping[int, float], raw: Mapping[int, float]) -> int | None:
    """Of the candidates that are near enough the one with the smallest raw distance, the earliest of equal ones."""
    near = [task for task in ratios if ratios[task] <= 1]
    return min(near, key=lambda task: (raw[task], task)) if near else None


def released_source(kind: str, actions: Mapping[int, float], latents: Mapping[int, float], action_threshold: float,
                    latent_threshold: float) -> tuple[int, bool]:
    """The best candidate and whether it is near enough, as in the authors' code, with its constants 0.7 and 0.5.

    With two or more candidates its hybrid never finds one too far: the best has at most 0.3 after the scaling to [0, 1].
    """
    if kind == "hybrid" and len(actions) > 1:
        scores = {t: 0.7 * a + 0.3 * b for t, a, b in zip(actions, _scaled(actions), _scaled(latents), strict=True)}
        threshold = 0.5
    elif kind == "hybrid":
        scores = {t: 0.7 * actions[t] / action_threshold + 0.3 * latents[t] / latent_threshold for t in actions}
        threshold = 1.0
    else:
        scores, threshold = (dict(actions), action_threshold) if kind == "action" else (dict(latents), latent_threshold)
    best = min(scores, key=lambda task: (scores[task], task))
    return best, scores[best] <= threshold


def _scaled(values: Mapping[int, float]) -> list[float]:
    low, high = min(values.values()), max(values.values())
    return [(v - low) / (high - low) if high > low else 0.0 for v in values.values()]
