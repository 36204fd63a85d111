"""What the value-based policies share: an actor as in behaviour cloning, critics that teach it, and targets that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.policy import Stats, Weights
from perdure.core.spec import Box, Spec
from perdure.nets.moving_average import MovingAverage
from perdure.nets.value import ValueNet
from perdure.policies.bc import BC, BCConfig

TRAINING = {"batch": 256, "learning_rate": 3e-4, "weight_decay": 0.0, "clip": 0.0}
"""Of both papers' code, but for the number of updates."""


@dataclass(frozen=True)
class ActorCriticConfig(BCConfig):
    """Value-based policies."""

    layers: int = 2
    """Hidden layers of actor and critics, the encoder included."""
    discount: float = 0.99
    """Of the next step's value."""
    target_rate: float = 0.005
    """Share of the new weights in each update of the targets."""
    rewards: Literal["scaled", "raw"] = "scaled"
    """scaled: so that the returns of a task's data and 0 span as many units as its longest episode has steps, much as IQL does on
    D4RL's locomotion; raw: as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("discount", "target_rate"):
            if not 0 < self.__dict__[name] <= 1:
                raise UsageError(f"policy.{name} is {self.__dict__[name]}; give a number above 0 and at most 1")


class ActorCritic(BC):
    """An actor with critics. Only the actor acts, so only it is protected against forgetting, as in Continual World (Wolczyk et
    al. 2021, arXiv 2105.10919), where protecting critics too made results worse."""

    context = 1
    staged = True
    config: ActorCriticConfig

    def __init__(self, config: Any):
        super().__init__(config)
        self.critics = nn.ModuleDict({name: ValueNet(config.width, config.layers) for name in self.critic_names()})
        self.targets = MovingAverage(config.target_rate)
        self.updates = 0

    def critic_names(self) -> tuple[str, ...]:
        """`q...` reads observation and action, `v...` the observation alone."""
        return ("q1", "q2")

    def _open(self, task: int, spec: Spec) -> None:
        if not isinstance(spec.action, Box) or spec.obs.dtype == "uint8":
            name = type(self).__name__.lower()
            raise UsageError(f"policy is '{name}', which reads vectors and acts in continuous spaces, but task {task + 1}"
                             f" has {spec.obs_key} and {spec.action_key}; choose bc or dt")
        super()._open(task, spec)
        for name, net in self.critics.items():
            inputs = spec.obs.size + (spec.action.size if name.startswith("q") else 0)
            net.add_task(task, spec.key, inputs)
        self.register_buffer(f"reward_scale_{task}", torch.ones(()))

    def set_statistics(self, task: int, stats: Stats) -> None:
        super().set_statistics(task, stats)
        if self.config.rewards == "scaled":
            self.get_buffer(f"reward_scale_{task}").fill_(stats.reward_scale)

    # -- what teaches ---------------------------------------------------------------------------------------

    def teachers(self) -> dict[str, Parameter]:
        return {f"critics.{name}": p for name, p in self.critics.named_parameters()}

    def shared(self) -> dict[str, Parameter]:
        return {name: p for name, p in super().shared().items() if not name.startswith("critics.")}

    def follow(self, weights: Weights | None = None) -> None:
        if self.moves_targets():
            named = {name: p for name, p in self.named_parameters() if self.follows(name)}
            self.targets.follow({name: (weights or {}).get(name, p) for name, p in named.items()})
        self.updates += 1

    def moves_targets(self) -> bool:
        """Whether the targets follow the present update."""
        return True

    def follows(self, name: str) -> bool:
        """Whether the targets have a copy of this parameter."""
        return name.startswith("critics.q")

    def value(self, critic: str, batch: Windows, action: Tensor | None = None, *, after: bool = False,
              weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B,), what a critic says of the observations and (B, A) actions of windows of one step.

        Args:
            after: of the observations after the step, instead of those before it.
            weights: in place of the critic's own, by the policy's names.
        """
        task, spec = batch.task, self.specs[batch.tasks[0]]
        obs = batch.last_obs.unsqueeze(1) if after else batch.obs
        x = self._normalised(obs, task, batch.tasks).squeeze(1)
        x = x if action is None else torch.cat([x, action], 1)
        prefix = f"critics.{critic}."
        own = {name.removeprefix(prefix): value for name, value in (weights or {}).items() if name.startswith(prefix)}
        arguments = (x, spec.key, task, batch.tasks)
        return functional_call(self.critics[critic], own, arguments) if own else self.critics[critic](*arguments)

    def lowest(self, batch: Windows, action: Tensor, **options: Any) -> Tensor:
        """(B,), the lower one of both critics' values (clipped double Q, Fujimoto et al. 2018, arXiv 1802.09477)."""
        return torch.minimum(self.value("q1", batch, action, **options), self.value("q2", batch, action, **options))

    def target(self, batch: Windows, after: Tensor) -> Tensor:
        """(B,), reward and the discounted value (B,) `after` the step, which an end by time limit keeps and a termination not."""
        scale = torch.stack([self.get_buffer(f"reward_scale_{t}") for t in batch.tasks])
        row = (batch.task.unsqueeze(1) == torch.tensor(batch.tasks, device=batch.task.device)).float()  # (B, K)
        goes_on = (~batch.terminated[:, 0]).float()
        return (row @ scale) * batch.reward[:, 0] + self.config.discount * goes_on * after

    # -- saving ---------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"targets": self.targets.architecture(), "updates": self.updates}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.targets.rebuild(architecture["targets"])
        self.updates = int(architecture["updates"])
