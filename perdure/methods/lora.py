"""lora: the first task trains the shared weights, every later one a low-rank adapter on them, its biases, norms and head.

Paper      Hu et al. 2022, ICLR (arXiv 2106.09685), sec. 4; one adapter per task as in the LoRA baseline of CompoFormer
           (Hu et al. 2024, arXiv 2411.11364)
Objective  L_t at the weights W + alpha / rank * B_t A_t, over A_t, B_t and the task's head; W is what the first task left
Keeps      per task A and B of every adapted weight, and a copy of biases and norms; the first task's weights
Needs      task id at test
Differs    there is no pretrained model: the first task trains the weights (or nobody does: `first adapter`); all linear maps
           and convolutions are adapted, where the paper has attention projections only (`layers query_key_value` on dt);
           biases and norms are per task (the paper freezes them: `norms frozen`); weights that open late, such as the encoder
           of a new observation space, are trained by the task that opens them and frozen for all others; tables of embeddings
           are not adapted. `compat` is the code released with CompoFormer: see the option; left out of it are the fixed random
           task code beside the observation and the 1,000 updates of a new head before the rest
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.compat import set_released
from perdure.continual.lowrank import LowRankBank
from perdure.continual.task_copies import TaskCopies
from perdure.core.batch import average
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.policy import Policy, Weights
from perdure.core.task import Task

RELEASED = {"rank": 8, "alpha": 1.0, "layers": "query_key_value", "first": "trunk", "norms": "frozen"}
"""What `compat` sets: rank, alpha and layers of the code released with CompoFormer."""

PIECES = 5
"""That code makes a new optimizer every 10,000 of 50,000 updates."""

BEFORE_ALL = -1
"""Opener of weights that no task trains."""


@dataclass(frozen=True)
class LoRAConfig(MethodConfig):
    """Low-rank adaptation."""

    rank: int = 16
    """Of every adapter; cut to the smaller side of the weight."""
    alpha: float = 64.0
    """The adapter B A is multiplied by alpha / rank."""
    layers: str = "*"
    """Which linear maps are adapted: patterns, separated by commas, of weight names or of one part of them (`*`, `trunk`,
    `query_key_value,widen,narrow`)."""
    first: Literal["trunk", "adapter"] = "trunk"
    """What the first task trains: the whole trunk, or only an adapter on a trunk that stays at its random initial values."""
    norms: Literal["task", "frozen"] = "task"
    """Biases and norms: a copy per task, or frozen after the first task as in the paper."""
    compat: bool = False
    """As in the code released with CompoFormer: rank 8, alpha 1, `query_key_value` alone, frozen biases and norms, an adapter
    that is trained together with the trunk on the first task, and a new optimizer after every fifth of a task's steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        set_released(self, RELEASED)
        if self.rank < 1 or not self.alpha > 0:
            raise UsageError(f"method.rank is {self.rank} and method.alpha {self.alpha}; give a rank of 1 or more and an alpha"
                             " above 0")
        for name, allowed in (("first", ("trunk", "adapter")), ("norms", ("task", "frozen"))):
            if self.__dict__[name] not in allowed:
                raise UsageError(f"method.{name} is {self.__dict__[name]!r}; use one of {', '.join(allowed)}")
        if not all(self.patterns()):
            raise UsageError(f"method.layers is {self.layers!r}; give patterns of weight names separated by commas")

    def patterns(self) -> list[str]:
        return [pattern.strip() for pattern in self.layers.split(",")]


class LoRA(Method):
    """An adapter per task on the weights of the first."""

    Config = LoRAConfig
    tuned = "alpha"
    grid = (16.0, 32.0, 64.0, 128.0, 256.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.bank = LowRankBank()
        self.small = TaskCopies()  # biases and norms
        self.opener: dict[str, int] = {}
        """Shared weight -> the task that opened it, which alone trains it."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID})

    def open_task(self, task: Task, access: Any) -> None:
        if not self.opener and self.config.first == "adapter":
            self.opener = dict.fromkeys(self.policy.shared(), BEFORE_ALL)
        together = self.config.compat and not self.opener  # the first adapter beside weights that are still trained
        super().open_task(task, access)
        shared = self.policy.shared()
        for name in shared:
            self.opener.setdefault(name, task.index)
        frozen = {name: p for name, p in shared.items() if self.opener[name] != task.index}
        chosen = self._chosen(shared)
        self.bank.open(task.index, {name: p for name, p in chosen.items() if name in frozen or together}, self.config.rank,
                       self.generator("adapter", task.index))
        if self.config.norms == "task":
            self.small.open(task.index, {name: p for name, p in frozen.items() if p.dim() == 1})

    def _chosen(self, shared: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """The shared weights of linear maps and convolutions that `layers` names.

        Raises:
            UsageError: a pattern names none of them; lists them.
        """
        maps = (f"{name}.weight" for name, m in self.policy.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
        known = [name for name in maps if name in shared]
        chosen: set[str] = set()
        for pattern in self.config.patterns():
            found = [name for name in known if any(fnmatchcase(part, pattern) for part in (name, *name.split(".")))]
            if not found:
                why = " as method.compat sets it" if self.config.compat else ""
                raise UsageError(f"method.layers is {self.config.layers!r}{why}, and {pattern!r} names no weight of this policy;"
                                 f" it has {', '.join(known)}")
            chosen.update(found)
        return {name: shared[name] for name in known if name in chosen}

    def _base(self, task: int) -> dict[str, Tensor]:
        """The shared weights that `task` does not train, cut off from gradients, and those under its adapter."""
        adapted = set(self.bank.names(task))
        return {name: p if self.opener[name] == task else p.detach() for name, p in self.policy.shared().items()
                if self.opener[name] != task or name in adapted}

    def _seen(self, task: int, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that `task` sees where they are not the policy's own."""
        return {**base, **self.bank.view(task, base, self.config.alpha / self.config.rank), **self.small.of(task)}

    def _trained(self, task: int) -> dict[str, Parameter]:
        """What the task's optimizer moves."""
        opened = {name: p for name, p in self.policy.shared().items() if self.opener[name] == task}
        return opened | self.policy.private(task) | self.small.of(task) | self.bank.pairs(task)

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t = task.index
        base: list[dict[str, Tensor]] = []  # follows from the openers; made when a process first needs it

        def start() -> None:
            self.open_task(task, access)
            renew()

        def renew() -> None:
            self.optimizer("policy", self._trained(t))

        def train(step: Step) -> Mapping[str, Tensor]:
            if not base:
                base.append(self._base(t))
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch, weights=self._seen(t, base[0])))}

        if not self.config.compat:
            return [Phase("train", self.config.steps, train, begin=start)]
        ends = [self.config.steps * i // PIECES for i in range(PIECES + 1)]
        return [Phase(f"train-{i + 1}", ends[i + 1] - ends[i], train, begin=renew if i else start) for i in range(PIECES)]

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        return self.policy, self._seen(task, {name: p.detach() for name, p in self._base(task).items()})

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"adapters": self.bank.architecture(), "small": self.small.architecture(),
                                         "opener": dict(self.opener)}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.bank.rebuild(architecture["adapters"])
        self.small.rebuild(architecture["small"])
        self.opener = {name: int(task) for name, task in architecture["opener"].items()}
