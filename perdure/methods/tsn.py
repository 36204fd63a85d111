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

from dataclasses import dataclass
from typing import Any, Literal

from perdure.continual.pool import SubnetworkPool
from perdure.continual.subnetwork_phases import SubnetworkConfig, open_subnetwork, subnetwork_phases
from perdure.continual.subnetworks import Masks
from perdure.core.errors import UsageError
from perdure.core.method import Method, Need, Phase
from perdure.core.policy import Policy, Weights
from perdure.core.task import Task


@dataclass(frozen=True)
class TSNConfig(SubnetworkConfig):
    """Sparse subnetworks in one network."""

    schedule: Literal["constant", "equal_remaining"] = "constant"
    """`constant`: `keep_ratio` of what is eligible; `equal_remaining`: 1/(N-t) of it, so that the last task takes the rest."""
    overlap: bool = False
    """Whether a task may also choose weights of earlier tasks, which stay as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap and self.schedule == "equal_remaining":
            raise UsageError("method.overlap is true and method.schedule 'equal_remaining'; with overlap nothing is used up, so"
                             " give schedule 'constant'")


class TSN(Method):
    """Sparse subnetworks in one network."""

    Config = TSNConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.pool = SubnetworkPool(self)

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        counts = config.schedule == "equal_remaining"
        return frozenset({Need.TASK_ID}) | (frozenset({Need.TASK_COUNT}) if counts else frozenset())

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            equal = self.config.schedule == "equal_remaining"
            share = 1 / (access.task_count() - task.index) if equal else self.config.keep_ratio
            open_subnetwork(self, access, 0, share, self._taken())

        return subnetwork_phases(self, access, start, self._taken)

    def _taken(self) -> Masks:
        """Weights that the task may not choose."""
        return {} if self.config.overlap else self.pool.occupied(0)

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        return self.policy, self.pool.view(self.policy, task, self._taken())

    def unused_parameters(self) -> int:
        return self.pool.unused(self.policy)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"pool": self.pool.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.pool.rebuild(architecture["pool"])
