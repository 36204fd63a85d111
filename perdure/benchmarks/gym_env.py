"""Any Gymnasium environment as an environment of a stream, for streams that users write.

Imports no torch. Episodes are named by their seed; goals are for environments that this library knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Box, Discrete, Spec

CHANNELS = (1, 3, 4)
"""Last axis of an image that is stored channels last."""


@dataclass(frozen=True)
class GymFactory:
    """An environment that `gymnasium.make(id, **kwargs)` makes."""

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    horizon: int = 1000

    def __post_init__(self) -> None:
        if type(self.horizon) is not int or self.horizon < 1:
            raise UsageError(f"horizon is {self.horizon!r}; it is a whole number of at least 1")

    def __hash__(self) -> int:
        """Pools of environments are found by their factory, and a dict has no hash of its own."""
        return hash((self.id, self.horizon))

    def look_up(self) -> None:
        """Refuse an id that is not registered, without making the environment; `module:id` registers itself when made."""
        known = self.id in gymnasium.registry or any(name.startswith(f"{self.id}-v") for name in gymnasium.registry)
        if ":" not in self.id and not known:
            raise UsageError(f"environment '{self.id}' is not registered{nearest(self.id, gymnasium.registry)}")

    def __call__(self) -> GymEnv:
        try:
            env = gymnasium.make(self.id, max_episode_steps=self.horizon, **self.kwargs)
        except (gymnasium.error.Error, ModuleNotFoundError) as problem:
            close = nearest(self.id, gymnasium.registry)
            raise UsageError(f"environment '{self.id}' cannot be made ({_line(problem)}){close}") from None
        except TypeError as problem:
            raise UsageError(
                f"environment '{self.id}' does not take the arguments {self.kwargs} ({_line(problem)})"
            ) from None
        return GymEnv(env, self.id)


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]


class GymEnv(gymnasium.Wrapper):
    """Vectors as float32, images as uint8 with channels first, `info["success"]` where there is success."""

    def __init__(self, env: gymnasium.Env, name: str):
        super().__init__(env)
        self._name = name
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise UsageError(
                f"environment '{name}' observes {type(space).__name__}; only float vectors and images fit"
            )
        self._turn = space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[-1] in CHANNELS
        low, high = self._observed(space.low), self._observed(space.high)
        self.observation_space = gymnasium.spaces.Box(low, high, low.shape, low.dtype.type)

    def _observed(self, obs: Any) -> np.ndarray:
        array = np.asarray(obs)
        if array.dtype == np.uint8:
            return np.ascontiguousarray(np.moveaxis(array, -1, 0)) if self._turn else array
        return array.astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode of `seed`; `options` stays here, as environments refuse options they do not know.

        Raises:
            UsageError: `options` names a goal.
        """
        if (options or {}).get("goal") is not None:
            raise UsageError(
                f"environment '{self._name}' takes no goals; its episodes are named by seeds, leave goals out"
            )
        obs, info = self.env.reset(seed=seed)
        return self._observed(obs), _with_success(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observed(obs), float(reward), bool(terminated), bool(truncated), _with_success(info)


def _with_success(info: dict[str, Any]) -> dict[str, Any]:
    for key in ("success", "is_success"):
        if key in info:
            return {**info, "success": bool(info[key])}
    return info


def spec_of(env: gymnasium.Env, name: str) -> Spec:
    """Spaces of an environment that `GymFactory` made.

    Raises:
        UsageError: the actions are neither discrete from 0 nor a bounded vector.
    """
    obs, action = env.observation_space, env.action_space
    assert isinstance(obs, gymnasium.spaces.Box)  # GymEnv made it
    seen = Box(obs.shape, "uint8" if obs.dtype == np.uint8 else "float32")
    if isinstance(action, gymnasium.spaces.Discrete) and action.start == 0:
        return Spec(seen, Discrete(int(action.n)))
    if isinstance(action, gymnasium.spaces.Box) and len(action.shape) == 1 and action.is_bounded():
        low, high = (tuple(float(x) for x in bound) for bound in (action.low, action.high))
        return Spec(seen, Box(action.shape, low=low, high=high))
    raise UsageError(
        f"environment '{name}' has the actions {action}; only discrete ones from 0 or a bounded vector fit"
    )
