"""iql: implicit Q-learning, critics that ask for no action outside the data, and an actor that copies the better actions.

Paper      Kostrikov, Nair and Levine 2022 (arXiv 2110.06169), eq. 5 to 7
Objective  V: expectile regression of min Q; Q: reward and the discounted V; actor: log-likelihood weighted by exp(beta (Q - V))
Differs    the critics have a head per task; V, both Q and the actor are updated at once by one optimizer, where the authors' code
           updates V first and the others read the new one; the actor's learning rate is constant, where the paper lowers it along
           a cosine; rewards are multiplied by the steps of the longest episode over the span of the returns and 0, where the code
           takes 1,000 over the largest return minus the smallest (both spans are equal where returns lie on both sides of 0 or
           reach it); observations are normalised and clamped at 10 standard deviations, where the code reads them as they are;
           weights begin as torch's layers do, where the code's are orthogonal, and log deviations at -0.5, where the code has 0;
           with the updates of the cpu profile, a fiftieth of the paper's, targets follow ten times as fast
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.policy import Weights
from perdure.policies.actor_critic import TRAINING, ActorCritic, ActorCriticConfig

LARGEST_WEIGHT = 100.0
"""Of a sample in the actor's loss, as in the paper's code."""


@dataclass(frozen=True)
class IQLConfig(ActorCriticConfig):
    """Implicit Q-learning."""

    std: Literal["fixed", "learned"] = "learned"
    """Of the actor, per head and channel."""
    expectile: float = 0.7
    """tau: above 0.5 the value leans to the better actions of the data (paper: 0.7 for locomotion)."""
    temperature: float = 3.0
    """beta: how much more an action counts that is better than average (paper: 3 for locomotion)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.expectile < 1 and self.temperature >= 0):
            raise UsageError(f"policy.expectile is {self.expectile} and temperature {self.temperature}; give an expectile between"
                             " 0 and 1 and a temperature not below 0")


class IQL(ActorCritic):
    """Implicit Q-learning."""

    Config = IQLConfig
    config: IQLConfig
    PROFILES: dict[str, dict[str, dict[str, Any]]] = {
        "cpu": {"policy": {"target_rate": 0.05}, "training": {"steps": 20_000, **TRAINING}},
        "paper": {"policy": {}, "training": {"steps": 1_000_000, **TRAINING}},
    }

    def critic_names(self) -> tuple[str, ...]:
        return ("q1", "q2", "v")

    def loss(self, batch: Windows, weights: Weights | None = None) -> Tensor:
        """(B,), of V, both Q and the actor; each reads the others without moving them."""
        action = batch.action[:, 0]
        value = self.value("v", batch)
        with torch.no_grad():
            best = self.lowest(batch, action, weights=self.targets.view())
            wanted = self.target(batch, self.value("v", batch, after=True))
            weight = (self.config.temperature * (best - value)).exp().clamp_max(LARGEST_WEIGHT)
        gap = best - value
        lean = torch.where(gap < 0, 1 - self.config.expectile, self.config.expectile)
        critics = sum(((self.value(name, batch, action) - wanted).square() for name in ("q1", "q2")), lean * gap.square())
        return critics + weight * self.predict(batch, weights).negative_log_likelihood(batch.action)[:, 0]
