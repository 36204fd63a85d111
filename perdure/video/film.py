"""Pictures of an environment, taken while an agent acts in it, and the file that shows them. Imports no torch."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from PIL import Image

from perdure.benchmarks.gym_env import GymEnv, GymFactory
from perdure.core.environment import EnvFactory
from perdure.core.errors import UsageError

MOST_FRAMES = 100
"""Pictures of an episode that goes to the horizon; at 200 steps every second step is one."""

PLAYS_SECONDS = 4.0
"""A full episode plays about this long, and never faster than 25 pictures per second."""

SHORTEST_MS, LONGEST_MS, HOLD_MS = 40, 120, 1000
"""A picture is shown at least and at most this long; the last one is held, so that a viewer sees how it ended."""

LARGEST = 10**6
"""Bytes of one clip."""


@runtime_checkable
class Drawable(Protocol):
    """An environment that draws itself."""

    def frame(self, size: int) -> np.ndarray:
        """The scene, upright, as (height, width, 3) uint8 with sides of at most `size`."""
        ...


def picture(env: gymnasium.Env, size: int) -> np.ndarray:
    """The present scene.

    Raises:
        UsageError: the environment has no pictures. Whatever a graphics library raises comes through.
    """
    if isinstance(env, Drawable):
        return env.frame(size)
    try:
        drawn = env.render() if isinstance(env, GymEnv) else None
    except gymnasium.error.Error as problem:
        raise UsageError(f"its environment draws no pictures ({' '.join(str(problem).split())[:160]})") from None
    if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.dtype != np.uint8:
        raise UsageError("its environment draws no pictures")
    image = Image.fromarray(drawn).convert("RGB")
    share = size / max(image.size)
    return np.asarray(image.resize([max(1, round(side * share)) for side in image.size], Image.Resampling.LANCZOS))


def opened(factory: EnvFactory) -> gymnasium.Env:
    """An environment that can be asked for pictures."""
    if isinstance(factory, GymFactory):
        return replace(factory, kwargs={**factory.kwargs, "render_mode": "rgb_array"})()
    return factory()


class Filmed(gymnasium.Wrapper):
    """Takes pictures of its present episode: the first scene, every `stride`-th step, and the last one."""

    def __init__(self, env: gymnasium.Env, size: int, horizon: int, stop_at_success: bool):
        super().__init__(env)
        self.size = size
        self.horizon = horizon
        self.stop = stop_at_success
        self.stride = max(1, -(-horizon // MOST_FRAMES))
        self.frames: list[np.ndarray] = []
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        started = self.env.reset(seed=seed, options=options)
        self.steps, self.frames = 0, [picture(self.env, self.size)]
        return started

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        ended = terminated or truncated or self.steps >= self.horizon or (self.stop and bool(info.get("success")))
        if ended or self.steps % self.stride == 0:
            self.frames.append(picture(self.env, self.size))
        return observation, reward, terminated, truncated, info


@dataclass(frozen=True, eq=False)
class FilmedFactory:
    """Hands over one environment that films; in place of a task's own factory, for one episode at a time."""

    camera: Filmed
    inner: EnvFactory

    @property
    def horizon(self) -> int:
        return self.inner.horizon

    def __call__(self) -> gymnasium.Env:
        return self.camera


def webp(frames: list[np.ndarray], horizon: int, stride: int) -> bytes:
    """An animated WebP that repeats for ever, of at most 1 MB: quality gives way before that."""
    ticks = max(1, horizon // stride)
    each = int(np.clip(1000 * PLAYS_SECONDS / ticks, SHORTEST_MS, LONGEST_MS))
    images = [Image.fromarray(frame) for frame in frames]
    content = b""
    for quality in (75, 50, 25, 5):
        file = io.BytesIO()
        images[0].save(
            file, "WEBP", save_all=True, append_images=images[1:], loop=0, quality=quality, method=3,
            duration=[each] * (len(images) - 1) + [HOLD_MS],
        )  # fmt: skip
        content = file.getvalue()
        if len(content) <= LARGEST:
            break
    return content
