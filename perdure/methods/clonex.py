"""clonex: behavioural cloning of the finished policies on stored windows, a penalty on what the policy does, not on its weights.

Paper      Wolczyk et al. 2022, Disentangling Transfer in Continual Reinforcement Learning, NeurIPS 35 (ClonEx-SAC), the cloning
           of the actor
Objective  L_t(theta) + strength * E_memory KL(pi_old(s) || pi_theta(s)), pi_old the policy at the end of the sample's task
Keeps      `memory_share` of each task's training transitions as raw windows with the outputs of the finished policy, or
           `memory_bytes` for both and all tasks together
Needs      a memory of past data
Differs    offline, so nothing is explored (the other half of ClonEx) and there is no critic to clone; `strength` is 1, on the
           scale of the likelihood, where a coefficient of 100 beside the loss of SAC is reported, with 10,000 states per task
           and as many replayed samples as new ones; these, and the direction of the divergence, are from secondary sources
           (one public re-implementation has the other direction; with unit variance, the default, both are half the squared
           distance of the means); heads of earlier tasks are cloned too
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from perdure.continual.replay import MethodWithMemory, ReplayConfig, over_steps
from perdure.core.batch import Windows, average, map_fields
from perdure.core.config import not_negative
from perdure.core.method import Phase, Step
from perdure.core.policy import ActionDist
from perdure.core.task import Task
from perdure.data.memory import with_extra

CHUNK = 4096
"""Windows whose outputs are computed at once when a task ends."""


@dataclass(frozen=True)
class ClonExConfig(ReplayConfig):
    """Behavioural cloning of the finished policies."""

    strength: float = 1.0
    """Weight of the divergence from the stored outputs; 1 is the scale of the likelihood."""
    replay: float = 1.0
    """Replayed samples per new sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength", "replay")


class ClonEx(MethodWithMemory):
    """Behavioural cloning of the finished policies."""

    Config = ClonExConfig
    tuned = "strength"
    grid = (0.1, 1.0, 10.0, 100.0, 1000.0)

    def phases(self, task: Task, access: Any) -> list[Phase]:
        replayed = round(self.config.batch * self.config.replay) if self.config.strength else 0

        def train(step: Step) -> Mapping[str, Tensor]:
            fit = average(self.policy.loss, access.current.windows(self.policy.context, self.config.batch, step))
            if not (replayed and self.memory.tasks()):
                return {"fit": self.descend("policy", fit)}
            clone = average(self._cloning, self.memory.draw(replayed, step))
            self.descend("policy", fit + self.config.strength * clone)
            return {"fit": fit.detach(), "clone": clone.detach()}

        return [Phase("train", self.config.steps, train, begin=lambda: self.open_all(task, access),
                      end=lambda: self.remember(access, self._with_outputs))]

    def _cloning(self, batch: Windows) -> Tensor:
        """(B,) divergence of the policy from the stored outputs, mean over valid steps."""
        now = self.policy.predict(batch)
        output = batch.extra["output"]
        old = ActionDist(logits=output)
        if now.logits is None:
            old = ActionDist(mean=output, log_std=batch.extra.get("log_std", torch.zeros_like(output)))
        return over_steps(now.divergence(old), batch)

    @torch.no_grad()
    def _with_outputs(self, windows: Windows) -> Windows:
        """The windows with the present policy's outputs, without dropout; a unit variance needs no room."""
        training = self.policy.training
        self.policy.eval()
        parts = [map_fields(windows, itemgetter(slice(i, i + CHUNK))) for i in range(0, len(windows), CHUNK)]
        outs = [self.policy.predict(part) for part in parts]
        self.policy.train(training)
        kept = {"output": torch.cat([out.output() for out in outs])}
        log_std = [out.log_std for out in outs if out.log_std is not None]
        if log_std and any(bool(value.any()) for value in log_std):
            kept["log_std"] = torch.cat(log_std)
        return with_extra(windows, **kept)
