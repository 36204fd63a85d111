"""der: dark experience replay, which repeats what the network answered to old samples while it was learning them.

Paper      Buzzega et al. 2020, NeurIPS 33 (arXiv 2004.07211), eq. 4 (DER); with `labels` above 0 eq. 6 (DER++)
Objective  L_t(theta) + strength * E |h_theta(x) - z|^2 + labels * E L(x, y), over stored (x, y, z); h is the mean of a Gaussian
           or the logits, z what it was when the sample entered the memory
Keeps      a reservoir of the windows that training has seen, with their outputs: room for `memory_share` of the training
           transitions of every task so far, or `memory_bytes` for all tasks together
Needs      a memory of past data
Differs    each update offers its batch to the reservoir, which holds those with the smallest random keys instead of replacing
           rows one by one: the same uniform sample of all that was offered, except that room which grows with a task is first
           filled by that task; up to 1/16 of the rows are free; tasks of other spaces have a reservoir of their own, and
           `memory_bytes` is shared among these by their number of tasks; every sample goes through its own head and its own
           task's normaliser; a learned standard deviation is not matched; one replayed batch serves both terms of DER++,
           where the paper draws two; `strength` 0.5 makes the term half the squared distance, the scale of the likelihood
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perdure.continual.replay import MethodWithMemory, ReplayConfig, over_steps
from perdure.core.batch import Windows, average
from perdure.core.config import not_negative
from perdure.core.method import Phase, Step
from perdure.core.policy import ActionDist
from perdure.core.task import Task
from perdure.data.memory import with_extra
from perdure.data.reservoir import Reservoir


@dataclass(frozen=True)
class DERConfig(ReplayConfig):
    """Dark experience replay."""

    strength: float = 0.5
    """Weight of the squared distance to the stored outputs (the paper's alpha)."""
    labels: float = 0.0
    """Weight of the likelihood of the stored actions (the paper's beta); above 0 it is DER++."""
    replay: float = 1.0
    """Replayed samples per new sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength", "labels", "replay")


class DER(MethodWithMemory):
    """Dark experience replay."""

    Config = DERConfig
    tuned = "strength"
    grid = (0.05, 0.5, 5.0, 50.0, 500.0)

    def new_memory(self) -> Reservoir:
        return Reservoir()

    def phases(self, task: Task, access: Any) -> list[Phase]:
        config = self.config
        replayed = round(config.batch * config.replay) if config.strength or config.labels else 0

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, config.batch, step)
            out = self.policy.predict(batch)
            loss = fit = average(lambda windows: over_steps(out.negative_log_likelihood(windows.action), windows), batch)
            if replayed and self.memory.count():
                loss = fit + average(self._recall, self.memory.draw(replayed, step))
            self.descend("policy", loss)
            answered = with_extra(batch, output=out.output().detach().float())
            access.offer(self.memory, answered, step, share=config.memory_share, budget=config.memory_bytes)
            return {"fit": fit.detach(), "loss": loss.detach()}

        return [Phase("train", config.steps, train, begin=lambda: self.open_all(task, access))]

    def _recall(self, batch: Windows) -> Tensor:
        """(B,) weighted distance from the stored outputs, and weighted likelihood of the stored actions."""
        now: ActionDist = self.policy.predict(batch)
        value = self.config.strength * (now.output() - batch.extra["output"]).square().sum(-1)
        if self.config.labels:
            value = value + self.config.labels * now.negative_log_likelihood(batch.action)
        return over_steps(value, batch)
