"""dgr: deep generative replay; a generator dreams observations of earlier tasks, and the policy as it was says what to do there.

Paper      Shin et al. 2017 (arXiv 1705.08690), with a policy in place of a classifier
Objective  r * loss on new data + (1 - r) * loss on dreamed observations with the old policy's actions, r = 1 / number of tasks;
           generator: its own loss on the same mixture
Keeps      the policy and the generator; dreams are made when a task begins and let go of when it ends
Needs      the task id at test time if heads are per task
Differs    the generator is told the task, so that a dream goes through its own task's head; it is the paper's WGAN with gradient
           penalty on vectors, or a variational autoencoder or diffusion model by option, and dreams with averaged weights; dreams
           are made once per task, where the paper draws them anew for every batch
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator, Tensor

from perdure.continual.dreaming import Dreaming, DreamingConfig
from perdure.core.method import Step


class DGR(Dreaming):
    """Deep generative replay."""

    Config = DreamingConfig

    def parts(self) -> int:
        return len(self.places())

    def dream(self, step: Step) -> None:
        task, begin, n = self.places()[step.index]
        obs = self.states.draw(task, n, step.generator("dream", self.dreams.of(task)[0].device))
        self.dreams.put(task, begin, obs=obs, action=self.labelled(task, obs))

    def train_generator(self, view: Any, step: Step) -> Mapping[str, Tensor]:
        return self.states.learn(self.descend, self.mixed(view, step), step)

    def dreamed(self, task: int, n: int, g: Generator) -> tuple[Tensor, Tensor] | None:
        obs = self.states.draw(task, n, g)
        return obs, self.labelled(task, obs)
