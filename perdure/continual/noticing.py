"""What a method that dreams notices by sketches: data that come again, and dreams that no longer look like their data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

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

    def real(self, task: int) -> set[int]:
        """Earlier tasks that real pairs stand for while this one is learned."""
        return {k for k, late in [*self.repeated.items(), *self.coresets] if late == task}

    def architecture(self) -> dict[str, Any]:
        return {"sketches": self.sketches.architecture(), "repeated": list(map(list, self.repeated.items())),
                "coresets": self.coresets}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        self.sketches.rebuild(architecture["sketches"])
        self.repeated = {int(earlier): int(task) for earlier, task in architecture["repeated"]}
        self.coresets = [[int(earlier), int(task)] for earlier, task in architecture["coresets"]]
