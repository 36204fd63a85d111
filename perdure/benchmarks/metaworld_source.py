"""Meta-World tasks as sources of data: scripted experts over frozen goals, with measured noise ladders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from perdure.benchmarks import metaworld_env
from perdure.core.errors import UsageError, nearest
from perdure.core.files import read_json
from perdure.core.spec import Spec
from perdure.data.roll import Level

NOISE_FILE = Path(__file__).parent / "goals" / "metaworld_v3_noise.json"


@dataclass(frozen=True)
class MetaWorldSource:
    """The scripted expert of one task; `task` is its name without the `-v3`."""

    task: str
    horizon: int = 200

    @property
    def name(self) -> str:
        return f"{self.task}-v3"

    @property
    def spec(self) -> Spec:
        return metaworld_env.SPEC

    @property
    def licence(self) -> str:
        return "MIT"

    @property
    def origin(self) -> str:
        return f"Meta-World task {self.name} (Yu et al. 2019, arXiv 1910.10897)"

    def environment(self) -> metaworld_env.MetaWorldEnv:
        return metaworld_env.MetaWorldFactory(self.task, self.horizon)()

    def expert(self) -> Callable[[np.ndarray], np.ndarray]:
        policy = metaworld_env.expert(self.task)

        def act(obs: np.ndarray) -> np.ndarray:
            return policy.get_action(obs.astype(np.float64))

        return act

    def goals(self) -> Sequence[tuple[float, ...]]:
        return metaworld_env.goals(self.task)["data"]

    def ladder(self) -> tuple[Level, ...]:
        """Five levels, best first, as `tools/calibrate_noise.py` chose them.

        Raises:
            UsageError: the task was not calibrated.
        """
        return tuple(
            Level(row["noise"], row["random"], row["tries"]) for row in measured(self.task)["levels"]
        )

    def versions(self) -> dict[str, str]:
        return metaworld_env.versions()


@cache
def _noise_tables() -> dict[str, Any]:
    return read_json(NOISE_FILE)["tasks"]


def measured(task: str) -> dict[str, Any]:
    """The ladder of a task as measured: `expert` (success without noise), `levels` with a `success` each.

    Raises:
        UsageError: the task was not calibrated.
    """
    tables = _noise_tables()
    if task not in tables:
        raise UsageError(
            f"Meta-World task '{task}' has no noise ladder{nearest(task, tables)}; take quality 'expert'"
        )
    return tables[task]
