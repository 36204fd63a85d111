"""Panda tasks as sources of data: scripted experts over frozen goals, with measured noise ladders. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perdure.benchmarks import frozen, panda_env
from perdure.benchmarks.panda_layout import Layout
from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Spec
from perdure.data.roll import Expert, Level

NOISE_FILE = frozen.FOLDER / "panda_v3_noise.json"

ARRIVED = 0.02
"""Metres between object and goal below which pushing stops; the task asks for 5 cm."""


@dataclass(frozen=True)
class PandaSource:
    """The scripted expert of one task, recorded in the task's own spaces; a stream lays them out as it is asked to."""

    task: str
    variant: panda_env.Variant = "fixed"

    @property
    def name(self) -> str:
        return f"panda-{self.task}-v3" + ("" if self.variant == "fixed" else f"-{self.variant}")

    @property
    def spec(self) -> Spec:
        return Layout(self.task, "separate").spec

    @property
    def horizon(self) -> int:
        return panda_env.HORIZON

    @property
    def licence(self) -> str:
        return "MIT"

    @property
    def origin(self) -> str:
        return f"panda-gym task {self.task}, dense reward, {self.variant} length (Gallouedec et al. 2021, arXiv 2106.13687)"

    def environment(self) -> panda_env.PandaEnv:
        return panda_env.PandaFactory(self.task, self.variant, "separate")()

    def expert(self, env: Any = None) -> Expert:
        places, script = Layout(self.task, "separate").own, SCRIPTS[self.task]

        def act(obs: np.ndarray) -> np.ndarray:
            return np.asarray(script({key: obs[place].astype(np.float64) for key, place in places.items()}))

        return act

    def goals(self) -> Sequence[tuple[float, ...]]:
        return panda_env.goals(self.task)["data"]

    def ladder(self) -> tuple[Level, ...]:
        """Five levels, best first, as `tools/calibrate_noise.py` chose them at fixed length."""
        return frozen.ladder(measured(self.task))

    def versions(self) -> dict[str, str]:
        return panda_env.versions()


def measured(task: str) -> dict[str, Any]:
    """The ladder of a task as measured: `expert` (success without noise), `levels` with a `success` each.

    Raises:
        UsageError: the task was not calibrated.
    """
    tables = frozen.tasks_of(NOISE_FILE)
    if task not in tables:
        raise UsageError(f"Panda task '{task}' has no noise ladder{nearest(task, tables)}; take quality 'expert'")
    return tables[task]


# -- the experts: no memory, so that what they do can be learned from the observation ----------------------------------

Seen = dict[str, np.ndarray]
"""Key -> its numbers, in metres and metres per second."""


def moved(
    seen: Seen, target: Sequence[float] | np.ndarray, *, gain: float = 14.0, most: float = 1.0, lag: float = 0.03
) -> np.ndarray:
    """The displacement (3,), at most `most` on each axis, towards a target (3,) in metres from where the hand will be after
    `lag` seconds; a gain of 20 asks for the whole way in one step.
    """
    ahead = seen["ee_position"] + lag * seen["ee_velocity"]
    return np.clip(gain * (np.asarray(target) - ahead), -most, most)


def reach(seen: Seen) -> np.ndarray:
    """A tenth of the way with each step: an episode's success takes about 14 steps, where full speed takes 5."""
    return moved(seen, seen["desired_goal"], gain=2.0, lag=0.0)


def push(seen: Seen) -> np.ndarray:
    """Behind the cube as seen from the goal, from above if it has to get around; then forward, steering against side slip."""
    hand, cube = seen["ee_position"], seen["object_position"]
    way = (seen["desired_goal"] - cube)[:2]
    distance = float(np.linalg.norm(way))
    if distance < ARRIVED:
        return np.zeros(3)
    forward = way / distance
    offset = (hand - cube)[:2]
    along = float(offset @ forward)
    side = offset - along * forward
    low = hand[2] < 0.06
    if low and along < -0.01 and np.linalg.norm(side) < 0.03:
        return moved(seen, [*(hand[:2] + forward * min(distance, 0.05) - side), 0.02], gain=10.0, lag=0.05)
    behind = cube[:2] - 0.065 * forward
    if (low and along < -0.02) or np.linalg.norm(behind - hand[:2]) < 0.025:
        return moved(seen, [*behind, 0.02])
    return moved(seen, [*hand[:2], 0.12] if low else [*behind, 0.1])


def pick_and_place(seen: Seen) -> np.ndarray:
    """Above the cube with open fingers, down, close, carry."""
    hand, width, cube = seen["ee_position"], float(seen["fingers_width"][0]), seen["object_position"]
    delta = cube - hand
    flat, level = float(np.linalg.norm(delta[:2])), abs(delta[2]) < 0.015
    if level and flat < (0.022 if width < 0.045 else 0.012):
        if width > 0.042:
            return _with_fingers(moved(seen, cube), -1.0)
        return _with_fingers(moved(seen, hand + np.clip(seen["desired_goal"] - cube, -0.06, 0.06), most=0.8), -1.0)
    if level and abs(delta[1]) < 0.015 and flat < 0.03:  # the fingers straddle it: slide along them
        return _with_fingers(moved(seen, cube), 1.0)
    if flat < 0.015 and width > 0.06:
        return _with_fingers(moved(seen, cube, most=0.7), 1.0)
    if flat < 0.015:
        return _with_fingers(moved(seen, [*cube[:2], max(hand[2], cube[2] + 0.06)]), 1.0)
    above = [*hand[:2], cube[2] + 0.09] if hand[2] < cube[2] + 0.055 else [*cube[:2], cube[2] + 0.08]
    return _with_fingers(moved(seen, above), 1.0)


def _with_fingers(move: np.ndarray, opening: float) -> np.ndarray:
    return np.append(move, opening)


SCRIPTS: dict[str, Callable[[Seen], np.ndarray]] = {"reach": reach, "push": push, "pick-and-place": pick_and_place}
"""Task -> its expert, from what is seen to an action, which may leave the bounds."""
