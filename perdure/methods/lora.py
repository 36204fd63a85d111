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

from dataclasses import dataclass
from typing import Any, Literal

from perdure.continual.adapters import AdapterOptions, Adapters, AdapterTraining
from perdure.continual.compat import set_released
from perdure.core.batch import Windows
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.policy import Policy, Weights
from perdure.core.task import Task

RELEASED = {"rank": 8, "alpha": 1.0, "layers": "query_key_value", "first": "trunk", "norms": "frozen"}
"""What `compat` sets: rank, alpha and layers of the code released with CompoFormer."""

PIECES = 5
"""That code makes a new optimizer every 10,000 of 50,000 updates."""

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
        self.adapters()

    def adapters(self) -> AdapterOptions:
        """Checked."""
        return AdapterOptions(self.rank, self.alpha, self.layers, self.norms, self.first, self.compat,
                              " as method.compat sets it" if self.compat else "")


class LoRA(Method):
    """An adapter per task on the weights of the first."""

    Config = LoRAConfig
    tuned = "alpha"
    grid = (16.0, 32.0, 64.0, 128.0, 256.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.adapters = Adapters(config.adapters())

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID})

    def open_task(self, task: Task, access: Any) -> None:
        self.adapters.start(self.policy)
        super().open_task(task, access)
        self.adapters.open(task.index, self.policy, self.generator("adapter", task.index))

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def draw(step: Step) -> Windows:
            return access.current.windows(self.policy.context, self.config.batch, step)

        training = AdapterTraining(self, self.adapters, access, self.policy.loss, draw)

        def start() -> None:
            self.open_task(task, access)
            training.begin()

        if not self.config.compat:
            return [Phase("train", self.config.steps, training.update, begin=start)]
        ends = [self.config.steps * i // PIECES for i in range(PIECES + 1)]
        return [Phase(f"train-{i + 1}", ends[i + 1] - ends[i], training.update, begin=training.begin if i else start)
                for i in range(PIECES)]

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        return self.policy, self.adapters.view(task, self.policy)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"adapters": self.adapters.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.adapters.rebuild(architecture["adapters"])
