"""MuJoCo bodies of Gymnasium v5 with rewards for a velocity or a direction, or other proportions, as environments of a stream.

An episode is named by a number, which seeds how it begins: equal numbers and actions give byte-identical episodes, whatever the
environment did before. What is asked for is in the reward alone; no observation says it.

Gymnasium: Towers et al. 2024, arXiv 2407.17032, MIT licence. Imports no torch; MuJoCo only when used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from perdure.benchmarks.installed import versions_of
from perdure.benchmarks.mujoco_tasks import BODIES, MujocoTask, find_task, walker_factors
from perdure.benchmarks.numbered import episode_of
from perdure.benchmarks.picture import Picture
from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Box, Spec

Variant = Literal["v5", "published"]

OBSERVED = {"hopper": 11, "walker2d": 17, "halfcheetah": 17, "swimmer": 8, "ant": 27}
"""Body -> numbers of an observation; the ant's are without contact forces."""

TORSO = 3
"""Numbers that the published observation of the cheetah has at its end: where its torso is."""

ACTIONS = {"hopper": 3, "walker2d": 6, "halfcheetah": 6, "swimmer": 2, "ant": 8}
"""Body -> torques of an action, each from -1 to 1."""


@dataclass(frozen=True)
class MujocoFactory:
    """One task of a family, such as "velocity-0.45" of "cheetah-vel"."""

    family: str
    task: str
    variant: Variant = "v5"
    """published: the cheetah of cheetah-vel also observes where its torso is, and the swimmer's velocity is divided by the
    length of a step twice, as in CuGRO's code; v5: neither."""

    def __post_init__(self) -> None:
        find_task(self.family, self.task)
        if self.variant not in get_args(Variant):
            known = get_args(Variant)
            raise UsageError(f"variant is '{self.variant}'{nearest(self.variant, known)}; use one of {', '.join(known)}")

    @property
    def what(self) -> MujocoTask:
        return find_task(self.family, self.task)

    @property
    def horizon(self) -> int:
        return self.what.horizon

    @property
    def spec(self) -> Spec:
        body = self.what.body
        size = OBSERVED[body] + (TORSO if self._sees_torso else 0)
        return Spec(Box((size,)), Box((ACTIONS[body],), low=(-1.0,) * ACTIONS[body], high=(1.0,) * ACTIONS[body]))

    @property
    def _sees_torso(self) -> bool:
        return self.variant == "published" and self.family == "cheetah-vel"

    def __call__(self) -> MujocoEnv:
        return MujocoEnv(self)


class MujocoEnv(gymnasium.Env):
    """One task."""

    def __init__(self, factory: MujocoFactory):
        self.factory, self.task = factory, factory.what
        spec = factory.spec
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, spec.obs.shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action.size,), np.float32)
        self._env = body(self.task)
        self._picture = Picture()
        self.steps = 0
        """Since the episode began."""
        self.episode = 0
        """The number that names the episode."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `options["goal"]`, one whole number, names; without one, that of `seed`.

        Raises:
            UsageError: the goal is something else.
        """
        super().reset(seed=seed)
        self.episode = episode_of(self, seed, options, "a MuJoCo")
        self.steps = 0
        obs, _ = self._env.reset(seed=self.episode)
        return self._observed(obs), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step with `action` (A,), clipped; the episode is cut at the horizon, and ends where the body falls."""
        executed = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        obs, reward, terminated, _, info = self._env.step(executed)
        self.steps += 1
        truncated = not terminated and self.steps >= self.task.horizon
        return self._observed(obs), self._reward(executed, float(reward), info), bool(terminated), truncated, {}

    def _reward(self, action: np.ndarray, reward: float, info: dict[str, Any]) -> float:
        """Of the family; `reward` and `info` are Gymnasium's."""
        effort = float(np.square(action).sum())
        if self.task.family == "cheetah-vel":
            return -abs(float(info["x_velocity"]) - self.task.aim[0]) - 0.05 * effort
        if self.task.family == "swimmer-dir":
            speed = self._speed(info)
            return (speed / self._env.dt if self.factory.variant == "published" else speed) - 1e-4 * effort
        if self.task.family == "ant-dir":  # effort, contacts and the bonus for standing are those of Ant-v5
            return reward - float(info["reward_forward"]) + self._speed(info)
        return reward

    def _speed(self, info: dict[str, Any]) -> float:
        """Along the direction that is asked for, in m/s."""
        along, across = self.task.aim
        return along * float(info["x_velocity"]) + across * float(info["y_velocity"])

    def _observed(self, obs: np.ndarray) -> np.ndarray:
        if self.factory.spec.obs.size > obs.size:
            obs = np.concatenate([obs, self._env.data.body("torso").xpos])
        return obs.astype(np.float32)

    def frame(self, size: int) -> np.ndarray:
        """The body seen by the camera that follows it, as (size, size, 3) uint8."""
        return self._picture.draw(self._env, "track", size)

    def close(self) -> None:
        self._picture.close()
        self._env.close()


def body(task: MujocoTask) -> Any:
    """Gymnasium's environment of the task's body, without wrappers or time limit; a walker with its own proportions.

    Raises:
        UsageError: MuJoCo is not installed.
    """
    arguments = {"include_cfrc_ext_in_observation": False} if task.body == "ant" else {}
    try:
        import mujoco  # noqa: F401  Gymnasium says so late

        env: Any = gymnasium.make(BODIES[task.body], disable_env_checker=True, **arguments).unwrapped
    except (ModuleNotFoundError, gymnasium.error.DependencyNotInstalled) as problem:
        raise missing(getattr(problem, "name", None) or "mujoco") from None
    if task.family == "walker-params":
        _change(env.model, walker_factors(int(task.name.rpartition("-")[2])))
    return env


def _change(model: Any, factors: dict[str, np.ndarray]) -> None:
    """Multiply the properties of the moving parts; the floor and the joints of the root stay."""
    for name, values in factors.items():
        array = getattr(model, name)
        rows = array[-len(values) :]
        rows *= values.reshape(-1, *[1] * (array.ndim - 1))


def missing(package: str) -> UsageError:
    """What to say where a package of the extra is not there."""
    return UsageError(f"MuJoCo is not installed ({package}): pip install 'perdure[mujoco]'")


def versions() -> dict[str, str]:
    """Versions of what decides how an episode goes.

    Raises:
        UsageError: MuJoCo is not installed.
    """
    return versions_of("gymnasium", "mujoco", "numpy", missing=missing)
