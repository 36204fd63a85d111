"""A method as a user might write it, which uses every part of the contract that the built-in ones leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perdure.core.batch import average
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.task import Task


class Own(Method):
    """Grows a layer per task, draws from the global generators, skips phases, and counts their steps late."""

    Config = MethodConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.notes = nn.ModuleList()
        self.resume = nn.Module()  # only the current task needs it
        self.resume.register_buffer("noise", torch.zeros(3))

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TEXT})

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            self.open_task(task, access)
            self.notes.append(nn.Linear(len(access.text()), 1))  # initialised from the global generator
            self.resume.noise.copy_(torch.rand(3))
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index))
            self.optimizer("note", dict(self.notes[-1].named_parameters()), lr=0.01)

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            loss = average(self.policy.loss, batch) + 0.1 * (torch.rand(3) * self.resume.noise).sum()
            return {"fit": self.descend("policy", loss)}

        def note(step: Step) -> Mapping[str, Tensor]:
            return {
                "note": self.descend("note", self.notes[-1](torch.rand(self.notes[-1].in_features)).square().sum())
            }

        def finish() -> None:
            with torch.no_grad():
                self.notes[-1].bias.add_(torch.rand(1))
            self.resume.noise.zero_()

        return [
            Phase("train", self.config.steps, train, begin=start),
            Phase(
                "note",
                lambda: 2 + int(self.resume.noise[0] * 3),
                note,
                when=lambda: bool(self.resume.noise[1] > 0.2),
                trains=False,
            ),
            Phase("finish", 1, lambda step: {}, end=finish, trains=False),
        ]

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"notes": [layer.in_features for layer in self.notes]}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.notes.extend(nn.Linear(size, 1) for size in architecture["notes"])
