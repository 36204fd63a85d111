"""Panda manipulation tasks of panda-gym v3 as Gymnasium environments whose episodes are named by a goal.

A perdure goal is where the target and the object of an episode lie, in metres; frozen lists of them ship with the package,
and `reset` takes one: equal goals and actions give byte-identical episodes on one machine, whatever the environment did
before.

panda-gym: Gallouedec et al. 2021, arXiv 2106.13687; MIT licence. Imports no torch; panda-gym and pybullet only when used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from perdure.benchmarks import frozen
from perdure.benchmarks.installed import versions_of
from perdure.benchmarks.panda_layout import ABSENT, Layout, LayoutName
from perdure.core.errors import UsageError, nearest

HORIZON = 50
"""Steps per episode, as in panda-gym."""

Variant = Literal["fixed", "published"]

CLASSES = {"reach": "PandaReachEnv", "push": "PandaPushEnv", "pick-and-place": "PandaPickAndPlaceEnv"}
"""Task -> class in panda_gym.envs."""

FAR_ABOVE = 3.0
"""Height in metres at which nothing is touched."""

CUBE_HEIGHT = 0.02
"""Height in metres of the centre of a cube that lies on the table."""

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "reach": {"goal_x": (-0.15, 0.15), "goal_y": (-0.15, 0.15), "goal_z": (0.0, 0.3)},
    "push": dict.fromkeys(("goal_x", "goal_y", "object_x", "object_y"), (-0.15, 0.15)),
    "pick-and-place": {"goal_x": (-0.15, 0.15), "goal_y": (-0.15, 0.15), "goal_z": (CUBE_HEIGHT, 0.2 + CUBE_HEIGHT),
                       "object_x": (-0.15, 0.15), "object_y": (-0.15, 0.15)},
}  # fmt: skip
"""Task -> the numbers of a goal in metres, each with its range: those from which panda-gym draws."""

GOALS_FILE = frozen.FOLDER / "panda_v3.json"


@dataclass(frozen=True)
class PandaFactory:
    """One Panda task; `task` is "reach", "push" or "pick-and-place"."""

    task: str
    variant: Variant = "fixed"
    """fixed: 50 steps, whatever happens; published: an episode ends with success, as panda-gym's do."""
    layout: LayoutName = "aligned"

    def __post_init__(self) -> None:
        Layout(self.task, self.layout)
        if self.variant not in get_args(Variant):
            known = get_args(Variant)
            raise UsageError(f"variant is '{self.variant}'{nearest(self.variant, known)}; use one of {', '.join(known)}")

    @property
    def horizon(self) -> int:
        return HORIZON

    def __call__(self) -> PandaEnv:
        return PandaEnv(self.task, self.variant, self.layout)


class PandaEnv(gymnasium.Env):
    """One task, simulated without a window by a pybullet client of its own.

    Rewards are the dense ones of panda-gym: minus the distance in metres of what is to arrive from where it is to arrive.
    `info["success"]` is a bool about this step: that distance is below 5 cm.
    """

    def __init__(self, task: str, variant: Variant = "fixed", layout: LayoutName = "aligned"):
        self.task, self._published, self._layout = task, variant == "published", Layout(task, layout)
        spec = self._layout.spec
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, spec.obs.shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action.size,), np.float32)
        self._env = raw_environment(task)
        # panda-gym draws an episode's positions from its seed; here they are given, so it gets them where it would draw them
        self._env.task._sample_goal = self._given_goal
        self._env.task._sample_object = self._given_object
        self._goal: dict[str, float] = {}
        self._steps = 0

    def _given_goal(self) -> np.ndarray:
        return np.array([self._goal["goal_x"], self._goal["goal_y"], self._goal.get("goal_z", CUBE_HEIGHT)])

    def _given_object(self) -> np.ndarray:
        return np.array([self._goal["object_x"], self._goal["object_y"], CUBE_HEIGHT])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `options["goal"]` names; `seed` has nothing to decide here and is ignored.

        Raises:
            UsageError: no goal, or one of the wrong size or outside the task's range.
        """
        super().reset(seed=seed)
        self._goal = self._checked((options or {}).get("goal"))
        self._steps = 0
        self._forget_contacts()
        seen, info = self._env.reset()
        return self._observed(seen), {"success": bool(info["is_success"])}

    def _forget_contacts(self) -> None:
        """Contacts that the solver remembers from the last episode would push the cube in the first step of the next one; a
        step in which nothing touches anything removes them. Restoring a saved state does not.
        """
        if "object_x" in self._goal:
            self._env.sim.set_base_pose("object", np.array([0.0, 0.0, FAR_ABOVE]), np.array([0.0, 0.0, 0.0, 1.0]))
        self._env.robot.reset()
        self._env.sim.physics_client.stepSimulation()

    def _checked(self, goal: Any) -> dict[str, float]:
        ranges = RANGES[self.task]
        if goal is None:
            raise UsageError(
                f"reset of Panda task {self.task} got no goal; give options={{'goal': [...]}} with {', '.join(ranges)}, in m,"
                f" as perdure.benchmarks.panda_env.goals({self.task!r}) has them"
            )
        vector = np.asarray(goal, dtype=np.float64)
        if vector.shape != (len(ranges),):
            raise UsageError(f"goal of Panda task {self.task} has shape {list(vector.shape)}; it is {', '.join(ranges)}, in m")
        found = dict(zip(ranges, vector.tolist(), strict=True))
        for name, (low, high) in ranges.items():
            if not low <= found[name] <= high:
                raise UsageError(f"goal of Panda task {self.task} has {name} {found[name]:g}; give {low:g} to {high:g} m")
        return found

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step with `action` (A,), clipped; `truncated` at the horizon, `terminated` by success in `published` alone."""
        seen, reward, reached, _, _ = self._env.step(self._layout.executed(action))
        self._steps += 1
        ended = self._published and reached
        truncated = not ended and self._steps >= HORIZON
        return self._observed(seen), float(reward), ended, truncated, {"success": bool(reached)}

    def _observed(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        time_left = np.array([1 - self._steps / HORIZON])
        own = np.concatenate([seen["observation"], time_left, seen["achieved_goal"], seen["desired_goal"]])
        return self._layout.observations(own)

    def frame(self, size: int) -> np.ndarray:
        """The scene as (size, size, 3) uint8, drawn by pybullet's own renderer, which needs neither GPU nor display."""
        self._env.render_width = self._env.render_height = size
        self._env.render_distance = 0.9
        return np.ascontiguousarray(np.asarray(self._env.render(), np.uint8)[..., :3])

    def close(self) -> None:
        self._env.close()


def raw_environment(task: str) -> Any:
    """panda-gym's own environment of a task, with dense rewards and no time limit; in no window.

    Raises:
        UsageError: panda-gym is not installed, or there is no such task.
    """
    if task not in CLASSES:
        raise UsageError(f"there is no Panda task '{task}'{nearest(task, CLASSES) or '; known: ' + ', '.join(CLASSES)}")
    with _silent():
        try:
            from panda_gym import envs
        except ModuleNotFoundError as problem:
            raise missing(problem.name or "panda_gym") from None
        return vars(envs)[CLASSES[task]](render_mode="rgb_array", renderer="Tiny", reward_type="dense")


def missing(package: str) -> UsageError:
    """What to say where a package of the extra is not there."""
    remedy = "pip install 'perdure[panda]'"
    if sys.version_info >= (3, 12):
        remedy = f"it needs Python 3.11, as pybullet has no wheels for newer ones: python3.11 -m venv .venv, then {remedy}"
    return UsageError(f"panda-gym is not installed ({package}): {remedy}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing that C code prints reaches the terminal: pybullet tells its build time and its arguments."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        with open(os.devnull, "wb") as nowhere:
            for stream in kept:
                os.dup2(nowhere.fileno(), stream)
            yield
            flush(None)
    finally:
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)


def goals(task: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The frozen, disjoint goal lists of a task: `final` (50), `curve` (10), `probe` (10) and `data` (1,000).

    Raises:
        UsageError: the package has no goals for the task.
    """
    return frozen.goal_lists(GOALS_FILE, task, "Panda")


def versions() -> dict[str, str]:
    """Versions of what decides how an episode goes.

    Raises:
        UsageError: panda-gym is not installed.
    """
    return versions_of("panda-gym", "pybullet", "numpy", missing=missing)


TASKS = tuple(ABSENT)
"""Every task with frozen goals and a measured noise ladder."""
