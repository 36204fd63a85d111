"""pnn: progressive networks. A column per task that reads, layer by layer, what all earlier columns make of its input.

Paper      Rusu et al. 2016 (arXiv 1606.04671), eq. 2
Objective  L_t over column t and its laterals: h_i = s(W_i h_{i-1} + U_i s(V_i [a_1 h_{i-1}^1; ...; a_{t-1} h_{i-1}^{t-1}])),
           s the activation, a_j learned scales that start small; earlier columns are frozen
Keeps      every column (grows by a whole policy and, per task before it, laterals; parameters are quadratic in the tasks)
Needs      task id at test
Differs    earlier columns read the input on the scale of the newest task, as its own column does; laterals reach only columns
           of the same observation and action spaces; the last lateral is added to the features, before the head's linear map,
           and not to its output; on dt laterals read and are added to the tokens after a whole block; V has a bias, which
           starts at zero, U has none; all columns start from the same keyed trunk as the models of `independent`, which so
           differs by the laterals only; later columns are as wide as the first
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.core.batch import average
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step, add_task
from perdure.core.policy import Policy, Weights
from perdure.core.rng import keyed
from perdure.core.task import Task
from perdure.policies.base import Inputs, TrunkPolicy

SMALL = (0.01, 0.1)
"""Range of the random initial scales, which the paper calls small and different (sec. 2), without numbers."""


@dataclass(frozen=True)
class PNNConfig(MethodConfig):
    """Progressive networks."""

    adapter: Literal["nonlinear", "linear"] = "nonlinear"
    """Laterals with a hidden layer (the paper's eq. 2), or one linear map (eq. 1)."""
    bottleneck: int | None = None
    """Units of that hidden layer; none: as many as the layer has, as in the paper. Fewer make laterals cheaper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bottleneck is not None and (self.bottleneck < 1 or self.adapter == "linear"):
            raise UsageError(f"method.bottleneck is {self.bottleneck} and method.adapter {self.adapter!r}; give 1 or more to a"
                             " nonlinear adapter, none to a linear one")


class Lateral(nn.Module):
    """What one layer of a column takes over from the same layer of earlier columns."""

    def __init__(self, columns: int, width: int, hidden: int | None):
        """`hidden` None: one linear map."""
        super().__init__()
        self.columns = columns
        self.scale = Parameter(torch.empty(columns).uniform_(*SMALL))
        self.read = None if hidden is None else nn.Linear(columns * width, hidden)
        if self.read is not None:
            nn.init.zeros_(self.read.bias)  # a lateral starts at the size of its scales
        self.write = nn.Linear(columns * width if hidden is None else hidden, width, bias=False)

    def forward(self, outputs: list[Tensor]) -> Tensor:
        """Outputs (..., D) of the columns -> (..., D)."""
        seen = torch.cat(outputs, -1) if self.columns > 1 else outputs[0]
        if self.read is None:
            return F.linear(seen, self._scaled(self.write.weight))
        return self.write(F.linear(seen, self._scaled(self.read.weight), self.read.bias).relu())

    def _scaled(self, weight: Tensor) -> Tensor:
        """The scales multiply the weight, so that no gradient is needed at the columns."""
        return (weight.unflatten(1, (self.columns, -1)) * self.scale.unsqueeze(1)).flatten(1)


class Side(nn.Module):
    """All laterals of a column: `Inputs` -> what is added to each of its layers."""

    def __init__(self, columns: Sequence[TrunkPolicy], hidden: int | None, linear: bool):
        super().__init__()
        self.columns = tuple(columns)
        """The earlier columns of the same spaces, frozen; a tuple, so that they are not part of this module."""
        widths = columns[0].hidden_widths()
        self.laterals = nn.ModuleList(Lateral(len(columns), width, None if linear else hidden or width) for width in widths)

    def forward(self, inputs: Inputs) -> list[Tensor]:
        outputs: list[list[Tensor]] = []
        with torch.no_grad():
            for column in self.columns:  # each reads those before it in turn
                lateral = column.side.mix(outputs) if isinstance(column.side, Side) else None
                outputs.append(column.hidden(inputs, lateral))
        return self.mix(outputs)

    def mix(self, outputs: list[list[Tensor]]) -> list[Tensor]:
        """Hidden outputs of the columns -> laterals of every layer."""
        return [lateral([layers[i] for layers in outputs]) for i, lateral in enumerate(self.laterals)]


class PNN(Method):
    """A column per task, connected to all before it."""

    Config = PNNConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        if not isinstance(self.policy, TrunkPolicy):
            raise UsageError(f"the policy is {type(self.policy).__name__}, whose layers pnn cannot reach; use bc, dt or another"
                             " TrunkPolicy")
        self.context = self.policy.context
        del self.policy  # every task has a column of its own
        self.columns = nn.ModuleDict()

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID})

    def train(self, mode: bool = True) -> Self:
        """Finished columns rest in evaluation mode: what the newest reads of them is without dropout, as when it acts."""
        super().train(mode)
        for name in list(self.columns)[:-1]:
            self.columns[name].eval()
        return self

    def _column(self, task: int) -> TrunkPolicy:
        return cast(TrunkPolicy, self.columns[str(task)])

    def _grow(self, task: int) -> TrunkPolicy:
        """Every column starts from the same keyed initial trunk that a single policy would have."""
        with keyed(self.seed, "policy"):
            self.columns[str(task)] = self.new_policy()
        self.train(self.training)
        return self._column(task)

    def _connect(self, task: int) -> None:
        """Laterals from all earlier columns of the same spaces."""
        spec = self._column(task).specs[task]
        spaces = (spec.obs_key, spec.action_key)
        before = [self._column(int(name)) for name in self.columns if int(name) != task]
        same = [column for column in before
                if any((s.obs_key, s.action_key) == spaces for s in column.specs.values())]
        if same:
            with keyed(self.seed, "lateral", task):
                self._column(task).side = Side(same, self.config.bottleneck, self.config.adapter == "linear")

    def open_task(self, task: Task, access: Any) -> None:
        add_task(self._grow(task.index), self.seed, task.index, task.spec, access.current)
        self._connect(task.index)

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            self.optimizer("policy", dict(self._column(task.index).named_parameters()))

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self._column(task.index).loss, batch))}

        return [Phase("train", self.config.steps, train, begin=start)]

    def copies(self) -> int:
        return len(self.columns)

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        if str(task) not in self.columns:
            raise UsageError(f"task {task} was not learned; this agent knows the tasks {', '.join(self.columns) or 'none'}")
        return self._column(task), None

    def architecture(self) -> dict[str, Any]:
        return {"columns": {name: self._column(int(name)).architecture() for name in self.columns}}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        for name, inner in sorted(architecture["columns"].items(), key=lambda item: int(item[0])):
            self._grow(int(name)).rebuild(inner)
            self._connect(int(name))
