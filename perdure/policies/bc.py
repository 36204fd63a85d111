"""bc: behaviour cloning on a multilayer perceptron with a Gaussian or categorical head.

Paper      Pomerleau 1989 (ALVINN); the trunk of the `paper` profile is the actor of Continual World
           (Wolczyk et al. 2021, arXiv 2105.10919, code: 4 x 256, LeakyReLU, LayerNorm and tanh after the first layer).
Objective  negative log-likelihood of the logged action
Differs    per-task heads and observation statistics by default; `cpu` profile is 3 x 256 with ReLU; with unit variance the
           loss is half the squared error summed over action channels, where others average over them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.policy import Carry, Weights
from perdure.data.sampler import unscale_action
from perdure.policies.base import Inputs, PolicyConfig, TrunkPolicy

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


@dataclass(frozen=True)
class BCConfig(PolicyConfig):
    """Behaviour cloning on an MLP."""

    width: int = 256
    """Units per hidden layer."""
    layers: int = 3
    """Hidden layers, the encoder included."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """After each hidden layer."""
    layer_norm: bool = False
    """LayerNorm and tanh after the first layer, as in the Continual World actor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.layers < 1:
            raise UsageError(f"policy.width is {self.width} and policy.layers {self.layers}; give 1 or more for both")
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"policy.activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}")


class BC(TrunkPolicy):
    """Behaviour cloning."""

    Config = BCConfig
    context = 1
    once_per_sample = True
    PROFILES: dict[str, dict[str, dict[str, Any]]] = {
        "cpu": {"policy": {}, "training": {"steps": 5000, "batch": 256, "learning_rate": 1e-3, "clip": 1.0}},
        "paper": {
            # Continual World code: trunk, batch and learning rate of the SAC actor; steps as in OCW
            "policy": {"layers": 4, "activation": "leaky_relu", "layer_norm": True},
            "training": {"steps": 50_000, "batch": 128, "learning_rate": 1e-3, "clip": 1.0},
        },
    }

    def __init__(self, config: BCConfig):
        super().__init__(config, config.width)
        activation = ACTIVATIONS[config.activation]
        layers: list[nn.Module] = [nn.LayerNorm(config.width), nn.Tanh()] if config.layer_norm else [activation()]
        for _ in range(config.layers - 1):
            layers += [nn.Linear(config.width, config.width), activation()]
        self.trunk = nn.Sequential(*layers)

    def inputs(self, batch: Windows) -> Inputs:
        return Inputs(self._normalised(batch.obs, batch.task, batch.tasks), self.specs[batch.tasks[0]])

    def hidden(self, inputs: Inputs, lateral: Sequence[Tensor] | None = None) -> list[Tensor]:
        x = self.encoders[inputs.spec.obs_key](inputs.obs)
        outputs: list[Tensor] = []
        for module in self.trunk:
            if isinstance(module, nn.Linear):
                outputs.append(x)  # a linear map begins a new layer
                x = module(x) if lateral is None else module(x) + lateral[len(outputs) - 1]
            else:
                x = module(x)
        return [*outputs, x if lateral is None else x + lateral[-1]]

    def hidden_widths(self) -> list[int]:
        return [self.config.width] * self.config.layers

    def actor(self, task: int | None, weights: Weights | None = None) -> BCActor:
        if task is None:
            task = self.tasks()[-1]
        return BCActor(self.folded(weights), task)


class BCActor:
    """Acts with the mean, or the most likely action; has no memory of the episode."""

    def __init__(self, policy: BC, task: int):
        self.policy, self.task = policy, task

    def start(self, n: int) -> Carry:
        return {}

    @torch.no_grad()
    def act(self, obs: Tensor, carry: Carry, g: Generator, reward: Tensor | None = None) -> tuple[Tensor, Carry]:
        window = SimpleNamespace(obs=obs.unsqueeze(1), task=obs.new_full((len(obs),), self.task, dtype=torch.int64),
                                 tasks=(self.task,))  # the part of Windows that `forward` reads
        out = self.policy(cast(Windows, window))
        return unscale_action(out.best()[:, 0], self.policy.specs[self.task]), carry
