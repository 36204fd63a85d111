"""er: experience replay from a small memory of every earlier task, mixed 1:1 into each update.

Paper      Rolnick et al. 2019 (CLEAR, arXiv 1811.11682) for replay in RL; Chaudhry et al. 2019 (arXiv 1902.10486) for
           tiny memories
Objective  mean of L_t over `batch` new samples and `batch * replay` replayed ones in one optimizer step
Keeps      `memory_share` of each task's training transitions as raw windows, or `memory_bytes` for all tasks together
Needs      a memory of past data
Differs    the behavioural cloning and the reservoir of CLEAR are left out: each task keeps a uniform sample of its data, and
           replay is equal over tasks; every replayed sample goes through its own head and its own task's normaliser (the replay
           baselines released with CompoFormer score old samples with the newest head)
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perdure.continual.replay import MethodWithMemory, ReplayConfig
from perdure.core.batch import average, mix
from perdure.core.config import not_negative
from perdure.core.method import Phase, Step
from perdure.core.task import Task


@dataclass(frozen=True)
class ERConfig(ReplayConfig):
    """Experience replay."""

    replay: float = 1.0
    """Replayed samples per new sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "replay")


class ER(MethodWithMemory):
    """Experience replay."""

    Config = ERConfig
    trains_staged = True

    def phases(self, task: Task, access: Any) -> list[Phase]:
        replayed = round(self.config.batch * self.config.replay)

        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", dict(self.policy.named_parameters()))

        def train(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            new = access.current.windows(self.policy.context, self.config.batch, step)
            old = self.memory.draw(replayed, step) if self.memory.tasks() and replayed else []
            return {"fit": self.descend("policy", average(loss, mix(new, old)))}

        return self.stages(self.policy.stages(), lambda: self.policy, [access.current], start, train,
                           end=lambda: self.remember(access))
