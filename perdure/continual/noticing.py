"""What a method that dreams notices by sketches: data that come again, and dreams that no longer look like their data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perdure.continual.dreams import Dreams
from perdure.continual.sketch import Sketches


class Noticed(nn.Module):
    """A sketch of every task's data, and for which earlier tasks real pairs stood in, while which later one was learned."""

    def __init__(self, seed: int):
        super().__init__()
        self.sketches = Sketches(seed)
        self.repeated: dict[int, int] = {}
        """Earlier task whose data came again -> the task that they came with, the last one."""
        self.coresets: list[list[int]] = []
        """(earlier task, task while which a few real pairs stood in for its dreams), in the order in which dreams collapsed."""

    def again(self, earlier: Iterable[int], points: Tensor, limit: float, task: int) -> list[int]:
        """Those of the earlier tasks whose data the points (N, D) of a task are, by the distance of sketches; remembered."""
        found = [k for k in earlier if self.sketches.distance(k, points) < limit]
        self.repeated |= dict.fromkeys(found, task)
        return found

    def distances(self, dreams: Dreams, tasks: Iterable[int]) -> dict[int, float]:
        """Task -> how far its dreams are from its data, in standard deviations."""
        return {task: self.sketches.distance(task, torch.cat(dreams.of(task), 1)) for task in tasks}

    def lost(self, dreams: Dreams, tasks: Iterable[int], limit: float) -> list[tuple[int, float, float]]:
        """(task, distance, limit) of those that are too far: further than by `limit` and what so few dreams do by chance."""
        limits = {task: limit + dreams.sets[task][0] ** -0.5 for task in tasks}
        return [(task, far, limits[task]) for task, far in self.distances(dreams, limits).items() if far > limits[task]]

    def came_again(self, task: int) -> list[int]:
        """Earlier tasks for which the data of this one stand."""
        return [k for k, late in self.repeated.items() if late == task]

    def with_coreset(self, task: int) -> list[int]:
        """Earlier tasks for which a few of their own real pairs stand while this one is learned."""
        return [k for k, late in self.coresets if late == task]

    def architecture(self) -> dict[str, Any]:
        return {"sketches": self.sketches.architecture(), "repeated": list(map(list, self.repeated.items())),
                "coresets": self.coresets}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        self.sketches.rebuild(architecture["sketches"])
        self.repeated = {int(earlier): int(task) for earlier, task in architecture["repeated"]}
        self.coresets = [[int(earlier), int(task)] for earlier, task in architecture["coresets"]]
