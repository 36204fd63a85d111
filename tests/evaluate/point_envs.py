"""Tiny environments for these tests: a point that walks to a goal, sound or with one fault on purpose."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from perdure.core.spec import Box, Discrete, Spec

SPEC = Spec(obs=Box((4,)), action=Box((2,), low=(-1.0, -1.0), high=(1.0, 1.0)))
DISCRETE = Spec(obs=Box((2, 3, 3), dtype="uint8"), action=Discrete(5))


class PointEnv(gymnasium.Env):
    """Observation: position and goal; the start is drawn from the seed; success within 0.1."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = np.array((options or {}).get("goal") or (1.0, 1.0))
        self.position = self.np_random.uniform(-1, 1, 2)
        self.steps = 0
        return np.concatenate([self.position, self.goal]), {}

    def step(self, action):
        self.steps += 1
        self.position = self.position + 0.2 * action
        distance = float(np.linalg.norm(self.position - self.goal))
        return (
            np.concatenate([self.position, self.goal]),
            -distance,
            False,
            False,
            {"success": distance < 0.1},
        )


@dataclass(frozen=True)
class PointFactory:
    horizon: int = 40
    sizes: tuple[int, ...] = (1, 2)

    def __call__(self):
        return PointEnv()


class FaultyEnv(PointEnv):
    """Fails at step 5 of the episode with goal[0] == 2, `times` times in all (counted in `folder`)."""

    def __init__(self, factory):
        self.factory = factory

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.steps == 5 and self.goal[0] == 2.0 and self._due():
            kind = self.factory.kind
            if kind in ("exit", "drift"):
                os._exit(7)
            if kind == "kill":
                os.kill(os.getpid(), 9)
            if kind == "hang":
                time.sleep(1000)
            if kind == "raise":
                raise ValueError("the arm\nfell off")
            if kind == "nan":
                obs = obs * np.nan
            if kind == "reward":
                reward = float("nan")
            if kind == "shape":
                obs = obs[:3]
        if self.factory.kind == "drift":  # another process, another episode
            obs = obs + 1e-3 * os.getpid()
        return obs, reward, terminated, truncated, info

    def _due(self):
        marks = len(list(Path(self.factory.folder).iterdir()))
        if marks >= self.factory.times:
            return False
        (Path(self.factory.folder) / f"mark-{marks}").touch()
        return True


@dataclass(frozen=True)
class FaultyFactory:
    kind: str
    folder: str
    times: int = 1
    horizon: int = 40

    def __call__(self):
        return FaultyEnv(self)


class GridEnv(gymnasium.Env):
    """uint8 images, five actions, no success, ends itself after the number of steps that the seed names."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 3, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3 + seed % 7
        return np.full((2, 3, 3), self.left, np.uint8), {}

    def step(self, action):
        assert type(action) is int
        self.left -= 1
        return np.full((2, 3, 3), self.left, np.uint8), float(action), self.left == 0, False, {}


@dataclass(frozen=True)
class GridFactory:
    horizon: int = 6

    def __call__(self):
        return GridEnv()


@dataclass(frozen=True)
class MissingFactory:
    horizon: int = 5

    def __call__(self):
        from perdure.core.errors import UsageError

        raise UsageError("Meta-World is not installed: pip install 'perdure[metaworld]'")
