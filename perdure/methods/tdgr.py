"""tdgr: trajectory-based deep generative replay; a diffusion model dreams an observation of a task at a time of its episode.

Paper      Yue et al. 2024, "t-DGR: A Trajectory-Based Deep Generative Replay Method for Continual Learning in Decision Making"
           (arXiv 2401.02576)
Objective  as dgr; the generator is a diffusion model that is told the time step too, and dreams cover every time of an episode
           equally
Keeps      the policy, the generator, and the length of every task's longest episode
Needs      the task id at test time if heads are per task
Differs    time is told as a share of the longest episode; the model is the library's denoiser with 15 evaluations of a
           second-order sampler; half of each batch is dreams
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from perdure.continual.dreaming import Dreaming, DreamingConfig
from perdure.continual.state_model import TOLD
from perdure.core.batch import Windows
from perdure.core.method import Step


@dataclass(frozen=True)
class TDGRConfig(DreamingConfig):
    """Trajectory-based deep generative replay."""

    balance: Literal["half", "equal"] = "half"
    generator: Literal["diffusion", "vae", "gan"] = "diffusion"
    state_steps: int = 3000


class TDGR(Dreaming):
    """Trajectory-based deep generative replay."""

    Config = TDGRConfig
    told = TOLD + 1

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.lengths: dict[int, int] = {}
        """Task -> steps of its longest episode."""

    def opened(self, task: int, view: Any) -> None:
        self.lengths[task] = int(view.sampler.timestep.max()) + 1

    def seen(self, batch: Windows) -> Windows:
        time = batch.extra.get("kept")
        return replace(batch, extra={"time": batch.timestep[:, 0] / self.lengths[batch.tasks[0]] if time is None else time})

    def parts(self) -> int:
        return len(self.places())

    def dream(self, step: Step) -> None:
        task, begin, n = self.places()[step.index]
        count, length = len(self.dreams.of(task)[0]), self.lengths[task]
        index = torch.arange(begin, begin + n, device=self.dreams.of(task)[0].device)
        times = index % length if count >= length else index * length // count
        share = times / self.lengths[task]
        obs = self.states.draw(task, n, step.generator("dream", share.device), share.unsqueeze(1))
        self.dreams.put(task, begin, obs=obs, action=self.labelled(task, obs), value=share)

    def train_generator(self, view: Any, step: Step) -> Mapping[str, Tensor]:
        batch = self.mixed(view, step)
        return self.states.learn(self.descend, batch, step, more=batch.extra["time"].unsqueeze(1))

    def dreamed(self, task: int, n: int, g: Generator) -> tuple[Tensor, Tensor] | None:
        share = torch.rand(n, generator=g, device=g.device)
        obs = self.states.draw(task, n, g, share.unsqueeze(1))
        return obs, self.labelled(task, obs)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"lengths": [[task, length] for task, length in self.lengths.items()]}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.lengths = {int(task): int(length) for task, length in architecture["lengths"]}
