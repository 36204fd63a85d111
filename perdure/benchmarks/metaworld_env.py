"""Meta-World v3 tasks as Gymnasium environments whose episodes are named by a goal.

Meta-World ignores `reset(seed=)`: what an episode looks like follows from one "random vector" (object and
target positions) alone. So a perdure goal is that vector, frozen lists of them ship with the package, and
`reset` takes one: equal goals and actions give byte-identical episodes on one machine, whatever the
environment did before.

Meta-World: Yu et al. 2019, arXiv 1910.10897; MIT licence. Imports no torch; metaworld only when used.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np

from perdure.benchmarks import frozen
from perdure.benchmarks.installed import versions_of
from perdure.benchmarks.picture import Picture
from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Box, Spec

LONGEST = 500
"""Steps after which Meta-World itself ends an episode."""

GOALS_FILE = frozen.FOLDER / "metaworld_v3.json"

DRAWS = 100
"""How often one reset may ask for the random vector; an accepted one is asked for a few times."""

_FRAME = (
    *("hand_x", "hand_y", "hand_z", "gripper_opening"),
    *(f"object1_{part}" for part in ("x", "y", "z", "q0", "q1", "q2", "q3")),
    *(f"object2_{part}" for part in ("x", "y", "z", "q0", "q1", "q2", "q3")),
)
_FRAME_UNITS = ("m", "m", "m", "1", *(("m", "m", "m", "1", "1", "1", "1") * 2))

SPEC = Spec(
    obs=Box(
        (39,),
        names=(*_FRAME, *(f"previous_{name}" for name in _FRAME), "goal_x", "goal_y", "goal_z"),
        units=(*_FRAME_UNITS, *_FRAME_UNITS, "m", "m", "m"),
    ),
    action=Box(
        (4,),
        low=(-1.0,) * 4,
        high=(1.0,) * 4,
        names=("move_x", "move_y", "move_z", "close_gripper"),
        units=("cm per step", "cm per step", "cm per step", "1"),
    ),
)
"""Spaces of every task: this frame and the one before (zeros where a task has one object), then the goal."""


@dataclass(frozen=True)
class MetaWorldFactory:
    """One Meta-World v3 task; `task` is its name without the `-v3`, such as "hammer"."""

    task: str
    horizon: int = 200
    """Steps per episode: as in Continual World (arXiv 2105.10919), where Meta-World itself has 500."""

    def __post_init__(self) -> None:
        if type(self.horizon) is not int or not 1 <= self.horizon <= LONGEST:
            raise UsageError(f"horizon is {self.horizon!r}; a Meta-World episode has 1 to {LONGEST} steps")

    def __call__(self) -> MetaWorldEnv:
        return MetaWorldEnv(self.task, self.horizon)


class MetaWorldEnv(gymnasium.Env):
    """One task with the goal in the observation (39 float32), actions (4,) in [-1, 1], no early end.

    Rewards are Meta-World's `v2` rewards, 0 to 10 per step. `info["success"]` is a bool about this step.
    """

    def __init__(self, task: str, horizon: int):
        self._env = raw_environment(task)
        self._env.max_path_length = horizon
        self.task = task
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (39,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._goal = np.zeros(0)
        self._draws = 0
        # Meta-World offers only `set_task`, which unpickles its argument; goals here are plain numbers, so
        # the environment gets them where it would draw them. It redraws vectors it does not accept, for ever
        # if it always gets the same one: hence a function that counts, and not its own field for a frozen
        # vector.
        self._env._get_state_rand_vec = self._frozen_vector
        self._pads = [self._env.data.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]
        self._env.touching_object = self._touching
        self._picture = Picture()

    def _frozen_vector(self) -> np.ndarray:
        self._draws += 1
        if self._draws > DRAWS:
            raise UsageError(
                f"goal {self._goal.tolist()} is not accepted by task {self.task}, whose object and target "
                "would be too close; take one of the package's goals"
            )
        return self._goal.copy()  # a copy, because environments write into the vector they get

    def _touching(self, geom: int) -> bool:
        """Whether both pads press on a geom: Meta-World's own answer, which takes a third of a step of many tasks."""
        data = self._env.data
        if not data.ncon:
            return False
        pairs = data.contact.geom  # (contacts, 2)
        theirs = (pairs == geom).any(1)
        for pad in self._pads:
            rows = np.flatnonzero(theirs & (pairs == pad).any(1))
            if not sum(data.efc_force[data.contact.efc_address[row]] for row in rows) > 0:
                return False
        return True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `options["goal"]` names; `seed` has nothing to decide here and is ignored.

        Raises:
            UsageError: no goal, or one of the wrong size or outside the task's range.
        """
        super().reset(seed=seed)
        self._goal = self._checked((options or {}).get("goal"))
        self._draws = 0
        obs, _ = self._env.reset()
        return obs.astype(np.float32), {"success": False}

    def _checked(self, goal: Any) -> np.ndarray:
        space = self._env._random_reset_space
        if goal is None:
            raise UsageError(
                f"reset of Meta-World task {self.task} got no goal; give options={{'goal': [...]}} with "
                f"{space.low.size} numbers, as perdure.benchmarks.metaworld_env.goals({self.task!r}) has them"
            )
        vector = np.asarray(goal, dtype=np.float64)
        if vector.shape != space.low.shape:
            raise UsageError(
                f"goal of Meta-World task {self.task} has shape {list(vector.shape)}; "
                f"it has {space.low.size} numbers"
            )
        if not ((vector >= space.low) & (vector <= space.high)).all():
            raise UsageError(
                f"goal {vector.tolist()} of Meta-World task {self.task} is outside its range; give numbers "
                f"from {space.low.tolist()} to {space.high.tolist()}"
            )
        return vector

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step with `action` (4,), clipped; `truncated` at the horizon, never `terminated`."""
        clipped = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        obs, reward, _, truncated, info = self._env.step(clipped)
        return (
            obs.astype(np.float32),
            float(reward),
            False,
            bool(truncated),
            {"success": bool(info["success"])},
        )

    def frame(self, size: int) -> np.ndarray:
        """The scene seen by Meta-World's camera `corner2`, as (size, size, 3) uint8; its upside-down picture is turned."""
        # at the camera's own 60 degrees the objects are a few pixels
        self._env.model.camera("corner2").fovy[:] = 40
        return np.ascontiguousarray(self._picture.draw(self._env, "corner2", size)[::-1])

    def close(self) -> None:
        self._picture.close()
        self._env.close()


def raw_environment(task: str) -> Any:
    """Meta-World's own environment of a task, goal visible, not yet reset.

    Raises:
        UsageError: Meta-World is not installed, or it has no such task.
    """
    try:
        from metaworld.env_dict import ENV_CLS_MAP
    except ModuleNotFoundError as problem:
        raise missing(problem.name or "metaworld") from None
    if f"{task}-v3" not in ENV_CLS_MAP:
        names = [name.removesuffix("-v3") for name in ENV_CLS_MAP]
        raise UsageError(f"Meta-World has no task '{task}'{nearest(task, names)}")
    env = _sharing(ENV_CLS_MAP[f"{task}-v3"])()
    env._partially_observable = False
    del env.sawyer_observation_space  # a cached property, computed while the goal was still hidden
    env._set_task_called = True
    return env


@lru_cache(maxsize=1)
def _sharing(cls: Any) -> Any:
    """The class, whose environments copy one compiled model: to compile it takes ten times as long as to copy it.

    A copy each, because environments write into their models.
    """
    from mujoco import MjData

    class Sharing(cls):
        model_of_all: Any = None

        def _initialize_simulation(self) -> tuple[Any, Any]:
            if Sharing.model_of_all is None:
                Sharing.model_of_all = super()._initialize_simulation()[0]
            model = copy(Sharing.model_of_all)
            return model, MjData(model)

    return Sharing


def missing(package: str) -> UsageError:
    """What to say where a package of the extra is not there."""
    return UsageError(f"Meta-World is not installed ({package}): pip install 'perdure[metaworld]'")


def expert(task: str) -> Any:
    """Meta-World's scripted policy of a task; its `get_action(obs)` takes (39,) float64, may leave [-1, 1].

    Raises:
        UsageError: Meta-World is not installed, or it has no such task.
    """
    raw_environment(task).close()
    from metaworld.policies import ENV_POLICY_MAP

    policies: dict[str, Any] = ENV_POLICY_MAP
    return policies[f"{task}-v3"]()


def goals(task: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The frozen, disjoint goal lists of a task: `final` (50), `curve` (10), `probe` (10) and `data` (200).

    Raises:
        UsageError: the package has no goals for the task.
    """
    return frozen.goal_lists(GOALS_FILE, task, "Meta-World")


def versions() -> dict[str, str]:
    """Versions of what decides how an episode goes.

    Raises:
        UsageError: Meta-World is not installed.
    """
    return versions_of("metaworld", "mujoco", "numpy", missing=missing)
