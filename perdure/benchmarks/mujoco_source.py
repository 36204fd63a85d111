"""MuJoCo tasks as sources of data: policies of different strength, from the checkpoints of one training. Imports no torch.

Qualities are named as in D4RL (Fu et al. 2020, arXiv 2004.07219); docs/benchmarks/mujoco.md has what each reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perdure.benchmarks import behaviour, mujoco_env
from perdure.benchmarks.mujoco_env import OBSERVED, MujocoEnv, MujocoFactory, Variant
from perdure.benchmarks.numbered import goals_of_data
from perdure.core.spec import Spec
from perdure.data.roll import Expert, Level

EPISODES = 5000
"""Most that data are made of."""

RANDOM = Level(random=1.0)
"""Every action is drawn at random."""


def training_of(family: str, task: str) -> str:
    """The training whose policies act on a task: one for a whole family, and one for each of the three bodies."""
    return task if family == "bodies" else family


@dataclass(frozen=True)
class MujocoSource:
    """One task of a family."""

    family: str
    task: str
    variant: Variant = "v5"

    @property
    def name(self) -> str:
        return f"mujoco-{self.family}-{self.task}-{self.variant}"

    @property
    def factory(self) -> MujocoFactory:
        return MujocoFactory(self.family, self.task, self.variant)

    @property
    def spec(self) -> Spec:
        return self.factory.spec

    @property
    def horizon(self) -> int:
        return self.factory.horizon

    @property
    def licence(self) -> str:
        return "MIT"

    @property
    def origin(self) -> str:
        return f"{self.family} on Gymnasium v5 (Towers et al. 2024, arXiv 2407.17032), trained by tools/train_behaviour.py"

    @property
    def training(self) -> str:
        return training_of(self.family, self.task)

    def environment(self) -> MujocoEnv:
        return self.factory()

    def expert(self, env: Any) -> Expert:
        return self.behaviour(env, list(self._levels.values())[-1])

    def behaviour(self, env: Any, name: str) -> Expert:
        what = self.factory.what
        return behaviour.player(behaviour.network(self.training, name), what.aim, env, OBSERVED[what.body])

    @property
    def _levels(self) -> dict[str, str]:
        """medium and expert, or what they are called where they miss their scores -> the checkpoint that stands for it."""
        return behaviour.facts(self.training)["levels"]

    def qualities(self) -> Mapping[str, Sequence[Level]]:
        every = list(behaviour.facts(self.training)["checkpoints"])
        (middle, its_checkpoint), (top, the_best) = self._levels.items()
        medium, expert = Level(behaviour=its_checkpoint), Level(behaviour=the_best)
        downwards = [Level(behaviour=name) for name in reversed(every)]
        return {"random": [RANDOM], middle: [medium], top: [expert], f"{middle}-replay": downwards[downwards.index(medium):],
                "full-replay": downwards, f"{middle}-{top}": [expert, medium]}

    def goals(self) -> Sequence[tuple[float, ...]]:
        return goals_of_data(EPISODES)

    def ladder(self) -> Sequence[Level]:
        return self.qualities()["full-replay"]

    def versions(self) -> dict[str, str]:
        return mujoco_env.versions()
