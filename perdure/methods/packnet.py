"""packnet: every task prunes the shared weights to a share of its own, which later tasks read and never change.

Paper      Mallya and Lazebnik 2018, CVPR (arXiv 1711.05769); equal shares as in Continual World (Wolczyk et al. 2021)
Objective  L_t on all free weights, then on the task's own share after magnitude pruning within each weight tensor
Keeps      an owner per weight; by default a copy of biases and norms per task
Needs      task id at test; the number of tasks for equal shares
Differs    biases and norms are per task (the paper freezes them after the first task: `norms frozen`, where those of an encoder
           that opens later stay as they are made); frozen weights are restored after every update, so that neither momentum nor
           weight decay moves them; one optimizer step budget: `retrain_share` of the task's steps follow the pruning. `compat`
           is the code released with CompoFormer (Hu et al. 2024, arXiv 2411.11364): see the option; its weight decay and
           momentum on pruned and frozen weights are left out
Status     see docs/reproduction.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from perdure.continual.compat import set_released
from perdure.continual.shares import ShareOptions, Shares, ShareTraining
from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.policy import Policy, Stage, Weights
from perdure.core.task import Task

RELEASED = {"share": "geometric", "keep_ratio": 0.3, "retrain_share": 0.2, "norms": "masked"}
"""What `compat` sets: the quantile 0.7 and the 40,000 + 10,000 updates of the code released with CompoFormer."""


@dataclass(frozen=True)
class PackNetConfig(MethodConfig):
    """PackNet."""

    share: Literal["equal", "geometric"] = "equal"
    """`equal`: 1/N of every tensor per task (Continual World); `geometric`: `keep_ratio` of what is free (the paper)."""
    keep_ratio: float = 0.5
    """Share of the free weights that a task keeps when `share` is `geometric`."""
    retrain_share: float = 0.2
    """Share of the task's steps after pruning (0.2: 40,000 + 10,000 updates as in the authors' code of CompoFormer)."""
    norms: Literal["task", "frozen", "masked"] = "task"
    """Biases and norms: a copy per task, frozen after the first task as in the paper, or shared out like all other weights."""
    compat: bool = False
    """As in the code released with CompoFormer: a task keeps the 30 % of all free weights together that are largest, whatever
    tensor they are in, biases and norms among them; the last task keeps all that is left; embeddings stay at their initial
    values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        set_released(self, RELEASED)
        self.shares()
        if not 0 < self.retrain_share < 1:
            raise UsageError(f"method.retrain_share is {self.retrain_share}; give a share between 0 and 1")
        if self.steps < 2:
            raise UsageError(f"method.steps is {self.steps}; packnet needs 2 or more, some before and some after pruning")

    def shares(self) -> ShareOptions:
        """Checked."""
        return ShareOptions(self.share, self.keep_ratio, self.norms, self.compat)


class PackNet(Method):
    """Prune, freeze, reuse."""

    Config = PackNetConfig
    trains_staged = True

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.shares = Shares(config.shares())

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID}) | (frozenset({Need.TASK_COUNT}) if config.shares().counts else frozenset())

    def open_task(self, task: Task, access: Any) -> None:
        super().open_task(task, access)
        self.shares.open(task.index, self.policy)

    def phases(self, task: Task, access: Any) -> list[Phase]:
        retrain_steps = max(1, round(self.config.retrain_share * self.config.steps))

        def draw(step: Step) -> Windows:
            return access.current.windows(self.policy.context, self.config.batch, step)

        training = ShareTraining(self, self.shares, access, self.policy.loss, draw)

        def start() -> None:
            self.open_task(task, access)
            training.begin()

        shares = {"dense": 1 - retrain_steps / self.config.steps, "retrain": retrain_steps / self.config.steps}
        dense, again = (self._part(name, share) for name, share in shares.items())
        policy, views = lambda: self.policy, [access.current]
        return [
            *self.stages(dense, policy, views, start, training.update, weights=training.weights, closes=False),
            *self.stages([stage for stage in again if not stage.sweep], policy, views, training.prune, training.retrain,
                         weights=training.weights),
        ]

    def _part(self, name: str, share: float) -> list[Stage]:
        """The policy's stages before or after the pruning, with a share of the updates."""
        stages = self.policy.stages()
        return [replace(stage, name=name if len(stages) == 1 else f"{name} {stage.name}", share=share * stage.share)
                for stage in stages]

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        return self.policy, self.shares.view(task, self.policy)

    def unused_parameters(self) -> int:
        return super().unused_parameters() + self.shares.unused(self.policy)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"shares": self.shares.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.shares.rebuild(architecture["shares"])
