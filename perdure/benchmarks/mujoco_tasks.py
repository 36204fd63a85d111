"""The tasks of the MuJoCo families: what the body is asked to do, or how it is built. Imports no torch and no simulator.

Numbers of the tasks: the directions and velocities are entries of the task lists that MACAW (Mitchell et al. 2021, arXiv
2008.06043) published, as CuGRO (Liu et al. 2024, arXiv 2404.10662) and Continual Diffuser (Hu et al. 2024, arXiv 2409.02512)
use them. Those of `walker-params` are drawn here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perdure.core.errors import UsageError, nearest

BODIES = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5", "swimmer": "Swimmer-v5",
          "ant": "Ant-v5"}  # fmt: skip
"""Body -> Gymnasium's environment of it."""

VELOCITIES = (0.075, 0.45, 0.825, 1.2, 1.575)
"""Of cheetah-vel, in m/s."""

SWIMMER_ANGLES = (1.2034, 3.6166, 5.4289, 6.7543, 8.2543)
"""Of swimmer-dir, in rad."""

ANT_ANGLES: dict[int, float] = {
    4: 4.0057, 10: 5.4289, 15: 3.7543, 18: 1.8707, 19: 3.5281, 25: 0.3471, 26: 4.5116, 34: 4.2522, 42: 4.5162, 49: 0.1832,
    **{number: math.radians(degrees) for number, degrees in {6: 14.1, 17: 101.9, 21: 283.9, 33: 57.2, 36: 160.2}.items()},
}  # fmt: skip
"""Of ant-dir, in rad, by the number in the published list; the last five are known to a tenth of a degree."""

SPREAD = (6, 33, 17, 36, 15, 21)
"""Ants whose directions lie far apart, 43 to 90 degrees from the next."""

WALKERS = 5
PROPERTIES: dict[str, tuple[int, float]] = {"body_mass": (7, 1.5), "body_inertia": (7, 1.5), "dof_damping": (6, 1.3),
                                            "geom_friction": (7, 1.5)}  # fmt: skip
"""Property -> how many factors of it a walker draws, one per moving part or joint, and their base: a factor is the base to a
power from -3 to 3, as in the random-parameter environments of Rakelly et al. 2019 (PEARL, arXiv 1903.08254, code)."""


@dataclass(frozen=True)
class MujocoTask:
    """One task of a family."""

    family: str
    name: str
    body: str
    """A key of `BODIES`."""
    horizon: int
    aim: tuple[float, ...] = ()
    """What the behaviour policy is told and the data do not contain: a velocity in m/s, a direction as cosine and sine, or the
    logarithms of the walker's factors."""


def _directions(family: str, body: str, angles: dict[str, float]) -> dict[str, MujocoTask]:
    return {name: MujocoTask(family, name, body, 200, (math.cos(angle), math.sin(angle))) for name, angle in angles.items()}


def _cheetah(velocity: float) -> MujocoTask:
    return MujocoTask("cheetah-vel", f"velocity-{velocity:g}", "halfcheetah", 200, (velocity,))


def walker_factors(number: int) -> dict[str, np.ndarray]:
    """Property -> factors of one walker, the same on every machine."""
    rng = np.random.default_rng(number)
    return {name: base ** rng.uniform(-3.0, 3.0, count) for name, (count, base) in PROPERTIES.items()}


def _walker(number: int) -> MujocoTask:
    logarithms = np.log(np.concatenate(list(walker_factors(number).values())))
    return MujocoTask("walker-params", f"walker-{number}", "walker2d", 200, tuple(logarithms.tolist()))


FAMILIES: dict[str, dict[str, MujocoTask]] = {
    "cheetah-vel": {task.name: task for task in map(_cheetah, VELOCITIES)},
    "swimmer-dir": _directions("swimmer-dir", "swimmer", {f"direction-{math.degrees(a) % 360:.0f}": a for a in SWIMMER_ANGLES}),
    "walker-params": {task.name: task for task in map(_walker, range(1, WALKERS + 1))},
    "ant-dir": _directions("ant-dir", "ant", {f"ant-{number}": angle for number, angle in ANT_ANGLES.items()}),
    "bodies": {body: MujocoTask("bodies", body, body, 1000) for body in ("hopper", "walker2d", "halfcheetah")},
}
"""Family -> its tasks by name."""


def find_task(family: str, name: str) -> MujocoTask:
    """A task of a family.

    Raises:
        UsageError: there is no such family, or no such task in it.
    """
    if family not in FAMILIES:
        raise UsageError(f"there is no MuJoCo family '{family}'{nearest(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    known = FAMILIES[family]
    if name not in known:
        raise UsageError(f"{family} has no task '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return known[name]
