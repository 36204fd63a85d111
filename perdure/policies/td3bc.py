"""td3bc: TD3 with behaviour cloning, a deterministic actor that climbs its critic and stays near the data.

Paper      Fujimoto and Gu 2021 (arXiv 2106.06860), eq. 3 to 5; TD3: Fujimoto et al. 2018 (arXiv 1802.09477)
Objective  actor: -lambda Q(s, pi(s)) + (pi(s) - a)^2 with lambda = alpha / mean |Q|; critics: the lower target of two
Differs    lambda is a mean per task, as tasks have different rewards; the critics have a head per task; rewards are scaled
           (`rewards raw` leaves them), and with the updates of the cpu profile, a fiftieth of the paper's, targets follow
           ten times as fast, as they would not get near what they follow, and alpha is 1; actor and critics are updated by one
           optimizer, the actor in every `delay`-th update, and it reads the critic from before that update, where the authors'
           code steps the critics first; normalised observations are clamped at 10 standard deviations, and these are not
           enlarged by 0.001
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.policy import Weights
from perdure.nets.value import mean_per_task
from perdure.policies.actor_critic import TRAINING, ActorCritic, ActorCriticConfig


@dataclass(frozen=True)
class TD3BCConfig(ActorCriticConfig):
    """TD3 with behaviour cloning."""

    alpha: float = 2.5
    """Of the value against the distance from the data (paper: 2.5)."""
    delay: int = 2
    """Updates of the critics per update of the actor and the targets' policy."""
    noise: float = 0.2
    """Standard deviation of the noise on target actions, in half widths of the action's range."""
    noise_limit: float = 0.5
    """Where that noise is clipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha >= 0 and self.noise >= 0 and self.noise_limit >= 0 and self.delay >= 1):
            raise UsageError(f"policy.alpha is {self.alpha}, noise {self.noise}, noise_limit {self.noise_limit} and delay"
                             f" {self.delay}; give none below 0, and a delay of 1 or more")
        if self.std != "fixed":
            raise UsageError("policy.std is 'learned', but the actor of td3bc is deterministic; leave policy.std out")


class TD3BC(ActorCritic):
    """TD3 with behaviour cloning."""

    Config = TD3BCConfig
    config: TD3BCConfig
    PROFILES: dict[str, dict[str, dict[str, Any]]] = {
        "cpu": {"policy": {"target_rate": 0.05, "alpha": 1.0}, "training": {"steps": 20_000, **TRAINING}},
        "paper": {"policy": {"rewards": "raw"}, "training": {"steps": 1_000_000, **TRAINING}},
    }

    def moves_targets(self) -> bool:
        return self.updates % self.config.delay == 0

    def follows(self, name: str) -> bool:
        return not name.startswith("critics.") or super().follows(name)

    def loss(self, batch: Windows, weights: Weights | None = None) -> Tensor:
        """(B,), of the critics, and in every `delay`-th update of the actor."""
        action, wanted = batch.action[:, 0], self._wanted(batch)
        total = sum(((self.value(name, batch, action) - wanted).square() for name in ("q1", "q2")), torch.zeros_like(wanted))
        if not self.moves_targets():
            return total
        chosen = self.predict(batch, weights).output()[:, 0]
        value = self.value("q1", batch, chosen, weights={name: p.detach() for name, p in self.teachers().items()})
        share = self.config.alpha / mean_per_task(value.detach().abs(), batch.task, batch.tasks).clamp_min(1e-6)
        return total - share * value + (chosen - action).square().mean(1)

    @torch.no_grad()
    def _wanted(self, batch: Windows) -> Tensor:
        """(B,), what both critics should say: by the targets, at the target actor's action with clipped noise."""
        targets = self.targets.view()
        later = replace(batch, obs=batch.last_obs.unsqueeze(1))
        actor = {name: value for name, value in targets.items() if not name.startswith("critics.")}
        next_action = self.predict(later, actor).output()[:, 0]
        noise = (self.config.noise * torch.randn_like(next_action)).clamp(-self.config.noise_limit, self.config.noise_limit)
        return self.target(batch, self.lowest(batch, (next_action + noise).clamp(-1, 1), after=True, weights=targets))
