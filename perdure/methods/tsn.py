"""tsn: every task learns scores that choose its share of each weight tensor, and the weights in it, which then never change.

Paper      TSN-Core of Zurek et al. 2026 (arXiv 2604.25898), whose body could not be read: the formulas are those of the authors'
           code; it applies TinySubNets (arXiv 2412.10869) to a Decision Transformer
Objective  L_t(W * M), M the `keep_ratio` of each tensor's eligible entries with the largest |scores|, over W and the scores
           together; the gradient of a score is dL/d(W * M) * W * sign(score)
Keeps      the weights that tasks chose (as codes of 1 to 8 bits with `clusters`), one bit per weight and task; a copy of biases,
           norms and time-step embeddings per task
Needs      task id at test; the number of tasks with `schedule equal_remaining`
Differs    biases, norms and time-step embeddings are per task (there: biases masked, the others trained by the first task and
           then frozen: `biases masked`, `norms frozen`); frozen weights are exactly frozen; what no task has chosen starts each
           task at the same initial values; clustered weights are fine-tuned and stored as codes (there: neither); an exhausted
           tensor is an error (there: an empty mask is trained)
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.packing import Packed, save_packed, unused_values
from perdure.continual.sharing import WeightSharing
from perdure.continual.subnetworks import Masks, ScoreMasks
from perdure.continual.task_copies import TaskCopies
from perdure.core.batch import Windows, average
from perdure.core.errors import GuardError, UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.policy import Policy, Weights
from perdure.core.task import Task


@dataclass(frozen=True)
class TSNConfig(MethodConfig):
    """Sparse subnetworks."""

    keep_ratio: float = 0.33
    """Share of each tensor's eligible weights that a task keeps when `schedule` is `constant`."""
    schedule: Literal["constant", "equal_remaining"] = "constant"
    """`constant`: `keep_ratio` of what is eligible; `equal_remaining`: 1/(N-t) of it, so that the last task takes the rest."""
    overlap: bool = False
    """Whether a task may also choose weights of earlier tasks, which stay as they are."""
    biases: Literal["task", "masked"] = "task"
    """A copy per task, or shared out like the weights."""
    norms: Literal["task", "frozen"] = "task"
    """Norms and time-step embeddings: a copy per task, or frozen after the first task."""
    clusters: int = 0
    """Values that the weights which a task adds to a tensor may take (k-means), 2 to 256; 0 leaves them free."""
    cluster_share: float = 0.1
    """Share of the task's steps that fine-tunes these values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"method.keep_ratio is {self.keep_ratio}; give a share above 0 and at most 1")
        if self.clusters and not 2 <= self.clusters <= 256:
            raise UsageError(f"method.clusters is {self.clusters}; give 2 to 256, or 0 for none")
        if not 0 < self.cluster_share < 1:
            raise UsageError(f"method.cluster_share is {self.cluster_share}; give a share between 0 and 1")
        for name, allowed in (("schedule", ("constant", "equal_remaining")), ("biases", ("task", "masked")),
                              ("norms", ("task", "frozen"))):
            if self.__dict__[name] not in allowed:
                raise UsageError(f"method.{name} is {self.__dict__[name]!r}; use one of {', '.join(allowed)}")


class TSN(Method):
    """Sparse subnetworks in one network."""

    Config = TSNConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.masks = ScoreMasks()
        self.books = WeightSharing()
        self.small = TaskCopies()
        save_packed(self, self._layout)

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        counts = config.schedule == "equal_remaining"
        return frozenset({Need.TASK_ID}) | (frozenset({Need.TASK_COUNT}) if counts else frozenset())

    # -- which parameters are what --------------------------------------------------------------------------

    def _used(self, batch: Windows) -> dict[str, Parameter]:
        """The shared parameters that the task's loss depends on: not the encoders of other spaces."""
        shared = self.policy.shared()
        gradients = torch.autograd.grad(self.policy.loss(batch).sum(), list(shared.values()), allow_unused=True)
        return {name: p for (name, p), gradient in zip(shared.items(), gradients, strict=True) if gradient is not None}

    def _masked(self, used: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Weights of linear maps, convolutions and embeddings of actions; their biases where these are masked."""
        kinds, parts = (nn.Linear, nn.Conv2d, nn.Embedding), ("weight", "bias") if self.config.biases == "masked" else ("weight",)
        names = {f"{name}.{part}" for name, m in self.policy.named_modules() if isinstance(m, kinds) and name != "embed_time"
                 for part in parts}
        return {name: p for name, p in used.items() if name in names}

    def _copied(self, used: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Biases, norms and time-step embeddings, where every task has its own."""
        masked = self._masked(used)
        biases = {f"{name}.bias" for name, m in self.policy.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
        return {name: p for name, p in used.items() if name not in masked and (name in biases or self.config.norms == "task")}

    def _open(self, task: int, masked: Mapping[str, Tensor], copied: Mapping[str, Tensor], share: float) -> None:
        """Scores for what is masked, and copies that start as those of the task before."""
        before = self.small.of(task - 1)
        self.small.open(task, {name: before.get(name, p) for name, p in copied.items()})
        try:
            self.masks.open(masked, share, self._taken(), self.generator("scores", task))
        except GuardError as problem:
            raise GuardError(f"task {task + 1}: {problem}") from None

    # -- learning -------------------------------------------------------------------------------------------

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t, equal = task.index, self.config.schedule == "equal_remaining"
        masked: dict[str, Parameter] = {}  # these follow from the policy and from earlier masks, and are made when first needed
        frozen: Masks = {}
        keep: dict[str, Tensor] = {}
        added: Masks = {}
        seen: Masks = {}

        def start() -> None:
            known = set(self.policy.shared()) if t else set()
            self.open_task(task, access)
            used = self._used(access.current.windows(self.policy.context, 2, Step(self.seed, t, "train", 0)))
            chosen, copied = self._masked(used), self._copied(used)
            self._open(t, chosen, copied, share=1 / (access.task_count() - t) if equal else self.config.keep_ratio)
            scores = {f"score of {name}": p for name, p in self.masks.current().items()}
            first = {name: p for name, p in used.items() if name not in known | chosen.keys() | copied.keys()}
            self.optimizer("policy", chosen | scores | self.policy.private(t) | self.small.of(t) | first)

        def train(step: Step) -> Mapping[str, Tensor]:
            if not masked:
                shared = self.policy.shared()
                masked.update({name: shared[name] for name in self.masks.current()})
                frozen.update(self.masks.occupied(self.masks.finished()))
                keep.update({f"policy.{name}": mask.float() for name, mask in frozen.items()})
            chosen = self.masks.choose({} if self.config.overlap else frozen)
            view = self.masks.view(masked, chosen, frozen)
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            loss = average(self.policy.loss, batch, weights={**view, **self.small.of(t)})
            return {"fit": self.descend("policy", loss, keep=keep)}

        def finish() -> None:
            self.masks.close(t, self.masks.choose(self._taken()))
            self._forget_unused()
            self.forget_optimizers()  # the scores that they held are gone

        def cluster() -> None:
            added, shared = self._added(t), self.policy.shared()
            self.books.open({name: shared[name][new] for name, new in added.items() if bool(new.any())}, self.config.clusters)
            centroids = {f"centroids of {name}": p for name, p in self.books.trained().items()}
            self.optimizer("centroids", centroids | self.policy.private(t) | self.small.of(t))

        def tune(step: Step) -> Mapping[str, Tensor]:
            if not added:
                added.update(self._added(t))
                seen.update(self.masks.mask(t))
            shared = self.policy.shared()
            drawn = {name: shared[name].detach().masked_scatter(added[name], self.books.values(name))
                     for name in self.books.codes}
            view = {name: drawn.get(name, shared[name].detach()) * mask for name, mask in seen.items()}
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            loss = self.descend("centroids", average(self.policy.loss, batch, weights={**view, **self.small.of(t)}))
            with torch.no_grad():
                for name in drawn:
                    shared[name][added[name]] = self.books.values(name)
            return {"fit": loss}

        def settle() -> None:
            self.books.close(t)
            self.forget_optimizers()

        tuned = max(1, round(self.config.cluster_share * self.config.steps)) if self.config.clusters else 0
        learning = Phase("train", self.config.steps - tuned, train, begin=start, end=finish)
        return [learning, Phase("cluster", tuned, tune, begin=cluster, end=settle)] if tuned else [learning]

    def _added(self, task: int) -> Masks:
        """Weights that the task was the first to choose."""
        before = self.masks.occupied(t for t in self.masks.finished() if t < task)
        return {name: mask & ~before[name] if name in before else mask for name, mask in self.masks.mask(task).items()}

    def _forget_unused(self) -> None:
        """Let what no task has chosen start anew, so that it need not be saved."""
        used, shared = self.masks.occupied(self.masks.finished()), self.policy.shared()
        with torch.no_grad():
            for name, mask in used.items():
                fresh = unused_values(self.seed, f"policy.{name}", mask.shape).to(mask.device)
                shared[name].copy_(torch.where(mask, shared[name], fresh))

    def _taken(self) -> Masks:
        """Weights that the open task may not choose."""
        return {} if self.config.overlap else self.masks.occupied(self.masks.finished())

    # -- acting ---------------------------------------------------------------------------------------------

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        own = self.small.of(task)
        if task in self.masks.finished():
            masks = self.masks.mask(task)
        elif self.masks.scores:
            masks = self.masks.choose(self._taken())
        else:
            masks = {}  # a task that is not learned yet acts with all weights
        shared = self.policy.shared()
        return self.policy, {name: shared[name].detach() * mask for name, mask in masks.items()} | own

    # -- saving ---------------------------------------------------------------------------------------------

    def _layout(self) -> list[Packed]:
        """All masked weights, between tasks."""
        if self.masks.scores or self.books.codes:
            return []
        return [Packed(f"policy.{name}", name, self.masks.finished()) for name in self.masks.shapes]

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"masks": self.masks.architecture(), "books": self.books.architecture(),
                                         "small": self.small.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.masks.rebuild(architecture["masks"])
        self.books.rebuild(architecture["books"])
        self.small.rebuild(architecture["small"])
