"""Meta-World tasks as sources of data: scripted experts over frozen goals, with measured noise ladders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perdure.benchmarks import frozen, metaworld_env
from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Spec
from perdure.data.roll import Level

NOISE_FILES = {
    200: frozen.FOLDER / "metaworld_v3_noise.json",
    500: frozen.FOLDER / "metaworld_v3_noise_500.json",
}
"""Steps per episode -> the ladders measured with so many. The one of 500 steps holds only the tasks whose ladder
of 200 steps is none at 500, as every level then has the time to succeed."""


@dataclass(frozen=True)
class MetaWorldSource:
    """The scripted expert of one task; `task` is its name without the `-v3`."""

    task: str
    horizon: int = 200
    again: bool = False
    """Data for a second time the task comes: the second half of the goals, and noise of its own."""

    @property
    def name(self) -> str:
        return f"{self.task}-again-v3" if self.again else f"{self.task}-v3"

    @property
    def spec(self) -> Spec:
        return metaworld_env.SPEC

    @property
    def licence(self) -> str:
        return "MIT"

    @property
    def origin(self) -> str:
        return f"Meta-World task {self.task}-v3 (Yu et al. 2019, arXiv 1910.10897)"

    def environment(self) -> metaworld_env.MetaWorldEnv:
        return metaworld_env.MetaWorldFactory(self.task, self.horizon)()

    def expert(self, env: Any = None) -> Callable[[np.ndarray], np.ndarray]:
        policy = metaworld_env.expert(self.task)

        def act(obs: np.ndarray) -> np.ndarray:
            return policy.get_action(obs.astype(np.float64))

        return act

    def goals(self) -> Sequence[tuple[float, ...]]:
        every = metaworld_env.goals(self.task)["data"]
        return every[len(every) // 2 :] if self.again else every

    def ladder(self) -> tuple[Level, ...]:
        """Five levels, best first, as `tools/calibrate_noise.py` chose them for about so many steps.

        Raises:
            UsageError: the task was not calibrated.
        """
        return frozen.ladder(measured(self.task, self.horizon))

    def versions(self) -> dict[str, str]:
        return metaworld_env.versions()


def measured(task: str, horizon: int = 200) -> dict[str, Any]:
    """The ladder of a task as measured: `expert` (success without noise), `levels` with a `success` each.

    Args:
        task: its name without the `-v3`.
        horizon: steps per episode; the ladder measured at the nearer of 200 and 500 steps is taken, where there is one.

    Raises:
        UsageError: the task was not calibrated.
    """
    nearer = min(NOISE_FILES, key=lambda steps: abs(steps - horizon))
    for steps in (nearer, 200):
        tables = frozen.tasks_of(NOISE_FILES[steps])
        if task in tables:
            return tables[task]
    raise UsageError(f"Meta-World task '{task}' has no noise ladder{nearest(task, tables)}; take quality 'expert'")
