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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.compat import set_released
from perdure.continual.masks import MaskSet
from perdure.continual.task_copies import TaskCopies
from perdure.core.batch import average
from perdure.core.errors import GuardError, UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.policy import Policy, Weights
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
        for name, allowed in (("share", ("equal", "geometric")), ("norms", ("task", "frozen", "masked"))):
            if self.__dict__[name] not in allowed:
                raise UsageError(f"method.{name} is {self.__dict__[name]!r}; use one of {', '.join(allowed)}")
        for name in ("keep_ratio", "retrain_share"):
            if not 0 < self.__dict__[name] < 1:
                raise UsageError(f"method.{name} is {self.__dict__[name]}; give a share between 0 and 1")
        if self.steps < 2:
            raise UsageError(f"method.steps is {self.steps}; packnet needs 2 or more, some before and some after pruning")


class PackNet(Method):
    """Prune, freeze, reuse."""

    Config = PackNetConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.masks = MaskSet()
        self.small = TaskCopies()  # biases and norms

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        counts = config.share == "equal" or config.compat
        return frozenset({Need.TASK_ID}) | (frozenset({Need.TASK_COUNT}) if counts else frozenset())

    def _masked(self) -> dict[str, Parameter]:
        """What tasks own shares of: matrices, and all that is shared but embeddings when biases and norms are masked too."""
        everything, fixed = self.config.norms == "masked", self._fixed()
        return {name: p for name, p in self.policy.shared().items() if (everything or p.dim() > 1) and name not in fixed}

    def _vectors(self) -> dict[str, Parameter]:
        """Biases and norms, where they are not masked."""
        return {} if self.config.norms == "masked" else {n: p for n, p in self.policy.shared().items() if p.dim() == 1}

    def _fixed(self) -> dict[str, Tensor]:
        """What nobody trains: embeddings in the released code."""
        modules = self.policy.named_modules() if self.config.compat else ()
        return {f"{name}.weight": m.weight.detach() for name, m in modules if isinstance(m, nn.Embedding)}

    def open_task(self, task: Task, access: Any) -> None:
        super().open_task(task, access)
        self.masks.cover(self._masked())
        if self.config.norms == "task":
            before = self.small.of(task.index - 1)
            self.small.open(task.index, {name: before.get(name, p) for name, p in self._vectors().items()})

    def _trained(self, task: int) -> dict[str, Parameter]:
        """What the task's optimizer moves."""
        small = self.small.of(task) if self.config.norms == "task" else self._vectors()
        return self._masked() | self.policy.private(task) | small

    def _frozen(self, task: int, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`keep` masks by the method's parameter names; with frozen norms, also all vectors after the first task."""
        keep = {f"policy.{name}": mask.float() for name, mask in masks.items()}
        if self.config.norms == "frozen" and task > 0:
            keep |= {f"policy.{name}": torch.ones_like(p.detach()) for name, p in self._vectors().items()}
        return keep

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t = task.index
        retrain_steps = max(1, round(self.config.retrain_share * self.config.steps))
        # both follow from the owner map and are made when a process first needs them
        frozen: dict[str, Tensor] = {}
        seen: list[tuple[Parameter, Tensor]] = []

        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", self._trained(t))

        def dense(step: Step) -> Mapping[str, Tensor]:
            if not frozen:
                frozen.update(self._frozen(t, self.masks.owned(before=t)))
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            loss = average(self.policy.loss, batch, weights={**self.small.of(t), **self._fixed()})
            return {"fit": self.descend("policy", loss, keep=frozen)}

        def prune() -> None:
            count = access.task_count() if Need.TASK_COUNT in self.needs(self.config) else 0
            self.masks.claim(self._masked(), t, self._quota(t, count))
            self.optimizer("policy", self._trained(t))
            frozen.clear()

        def mask_gradients() -> None:
            """Free weights are zero while retraining, so this is training the view, without building it."""
            for p, mask in seen:
                if p.grad is not None:
                    p.grad.mul_(mask)

        def retrain(step: Step) -> Mapping[str, Tensor]:
            if not frozen:
                frozen.update(self._frozen(t, self.masks.all_but(t)))
                masked = self._masked()
                seen.extend((masked[name], mask.float()) for name, mask in self.masks.visible(t).items())
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            loss = average(self.policy.loss, batch, weights={**self.small.of(t), **self._fixed()})
            return {"fit": self.descend("policy", loss, edit=mask_gradients, keep=frozen)}

        return [
            Phase("dense", self.config.steps - retrain_steps, dense, begin=start),
            Phase("retrain", retrain_steps, retrain, begin=prune),
        ]

    def _quota(self, task: int, count: int) -> dict[str, int]:
        """Weights of each tensor for this task. Equal shares are 1/(N-t) of what is free, so the last task leaves none."""
        if self.config.compat:
            return self._together(task, count)
        free = {name: self.masks.counts(name)[0] for name in self.masks.shapes}
        if self.config.share == "equal":
            return {name: n // (count - task) for name, n in free.items()}
        return {name: max(1, round(self.config.keep_ratio * n)) for name, n in free.items()}

    def _together(self, task: int, count: int) -> dict[str, int]:
        """Weights of each tensor where all tensors are pruned together; the last task takes all that is left.

        Raises:
            GuardError: no weight is left.
        """
        free = self.masks.free()
        if not free:
            raise GuardError(f"task {task + 1} finds no free weight: the capacity is exhausted; use a wider policy or fewer"
                             " tasks")
        wanted = free if task == count - 1 else max(1, round(self.config.keep_ratio * free))
        return self.masks.share_out(self._masked(), wanted)

    def _view(self, task: int) -> dict[str, Tensor]:
        """The weights that `task` sees: its own and earlier tasks' shares, zero elsewhere, and its biases and norms."""
        shared = self.policy.shared()
        masked = {name: shared[name] * mask for name, mask in self.masks.visible(task).items()}
        return masked | self.small.of(task)

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        if self.masks.shapes and self.masks.claimed(task):
            return self.policy, self._view(task)
        return self.policy, self.small.of(task)  # before pruning the task acts with all weights, as it trains

    def unused_parameters(self) -> int:
        replaced = sum(p.numel() for p in self._vectors().values()) if self.config.norms == "task" else 0
        return self.masks.free() + replaced

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"masks": self.masks.architecture(), "small": self.small.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.masks.rebuild(architecture["masks"])
        self.small.rebuild(architecture["small"])
