"""PointMass: a mass that is moved by its velocity to a target it does not see. Pure numpy; an episode takes microseconds.

`options["goal"]` of `reset` is the start position; the target is the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Discrete, Spec

SPEED = 0.2
"""Distance per step at full velocity."""

RADIUS = 0.05
"""Within this distance of the target an episode is a success; small enough that a trunk trained on another corner misses."""

GRID_RADIUS = 0.15
"""The same for discrete moves, which cannot come closer than half a cell's diagonal."""

PIXELS = 36
"""Side of the image variant."""

VIEW = 1.3
"""Half the width of the world that a picture shows; what is outside is drawn at its edge."""

WHITE, TARGET, TRAIL, MASS = (np.array(c, dtype=np.float64) for c in
                              ((255, 255, 255), (94, 184, 120), (168, 196, 232), (32, 84, 160)))


@dataclass(frozen=True)
class PointMassFactory:
    """Makes one point-mass environment."""

    target: tuple[float, ...]
    """Coordinates within [-1, 1]; their number is the dimension."""
    discrete: bool = False
    """Actions are +-1 along one axis instead of a velocity."""
    pixels: bool = False
    """Observations are a uint8 image with a bright spot instead of coordinates (two dimensions only)."""
    horizon: int = 20

    def __call__(self) -> PointMass:
        return PointMass(self)

    def spec(self) -> Spec:
        """Spaces of the environment."""
        n = len(self.target)
        axes = tuple("xyzuvw"[:n])
        obs = Box((1, PIXELS, PIXELS), "uint8") if self.pixels else Box((n,), low=(-2.0,) * n, high=(2.0,) * n, names=axes)
        action = Discrete(2 * n) if self.discrete else Box((n,), low=(-1.0,) * n, high=(1.0,) * n, names=axes)
        return Spec(obs, action)


class PointMass(gymnasium.Env):
    """The environment of a PointMassFactory."""

    def __init__(self, factory: PointMassFactory):
        self.factory = factory
        self.target = np.asarray(factory.target, dtype=np.float64)
        n = len(self.target)
        spec = factory.spec()
        self.action_space = gymnasium.spaces.Discrete(2 * n) if factory.discrete else gymnasium.spaces.Box(-1, 1, (n,))
        high = 255 if factory.pixels else 2.0
        self.observation_space = gymnasium.spaces.Box(0 if factory.pixels else -high, high, spec.obs.shape,
                                                      np.uint8 if factory.pixels else np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        goal = (options or {}).get("goal")
        if goal is None:
            goal = np.random.default_rng(seed).uniform(-1, 1, len(self.target))
        if len(goal) != len(self.target):
            raise UsageError(f"goal has {len(goal)} numbers; a start position here has {len(self.target)}")
        self.position = np.asarray(goal, dtype=np.float64)
        self.path = [self.position]
        self.steps = 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.factory.discrete:
            velocity = np.zeros(len(self.target))
            velocity[int(action) // 2] = 1.0 if int(action) % 2 else -1.0
        else:
            velocity = np.clip(np.asarray(action, dtype=np.float64), -1, 1)
        self.position = np.clip(self.position + SPEED * velocity, -2, 2)
        self.path.append(self.position)
        self.steps += 1
        distance = float(np.linalg.norm(self.target - self.position))
        info = {"success": distance < (GRID_RADIUS if self.factory.discrete else RADIUS)}
        return self._observe(), -distance, False, self.steps >= self.factory.horizon, info

    def _observe(self) -> np.ndarray:
        if not self.factory.pixels:
            return self.position.astype(np.float32)
        image = np.zeros((1, PIXELS, PIXELS), dtype=np.uint8)
        column, row = ((self.position + 2) / 4 * (PIXELS - 5)).round().astype(int) + 2
        image[0, row - 2 : row + 3, column - 2 : column + 3] = 255
        return image

    def frame(self, size: int) -> np.ndarray:
        """A picture (size, size, 3) uint8 of the target, the way so far and the mass; the first two dimensions, y upwards."""
        image = np.broadcast_to(WHITE, (size, size, 3)).copy()
        near = GRID_RADIUS if self.factory.discrete else RADIUS
        _disc(image, self.target, near + 0.06, TARGET)
        _disc(image, self.target, near + 0.02, WHITE)
        for before, after in pairwise(self.path):
            for part in np.linspace(0, 1, 12, endpoint=False):
                _disc(image, before + part * (after - before), 0.025, TRAIL)
        _disc(image, self.position, 0.06, MASS)
        return image.round().astype(np.uint8)

    def expert(self, rng: np.random.Generator, noise: float) -> np.ndarray | int:
        """The action towards the target, with Gaussian noise of the given standard deviation (or that share of random moves)."""
        gap = self.target - self.position
        if self.factory.discrete:
            if rng.random() < noise:
                return int(rng.integers(2 * len(gap)))
            axis = int(np.argmax(np.abs(gap)))
            return 2 * axis + int(gap[axis] > 0)
        size = max(float(np.linalg.norm(gap)), SPEED)
        return np.clip(gap / size + noise * rng.standard_normal(len(gap)), -1, 1).astype(np.float32)


def _disc(image: np.ndarray, place: np.ndarray, radius: float, colour: np.ndarray) -> None:
    """Paint a disc with a smooth edge into `image`; `place` and `radius` are in units of the world."""
    scale = len(image) / (2 * VIEW)
    x, y = np.clip((*place, 0.0)[:2], 0.07 - VIEW, VIEW - 0.07)  # a one-dimensional world is a line through the middle
    column, row, reach = (x + VIEW) * scale, (VIEW - y) * scale, radius * scale
    top, left = (max(0, int(centre - reach - 1)) for centre in (row, column))
    part = image[top : int(row + reach + 2), left : int(column + reach + 2)]
    rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    distance = np.hypot(rows + 0.5 - row, columns + 0.5 - column)
    cover = np.clip(reach - distance + 0.5, 0, 1)[:, :, None]
    part += cover * (colour - part)
