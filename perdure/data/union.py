"""UnionView: the data of several tasks drawn from as one dataset, by one gather per pair of spaces whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from perdure.core.batch import Transitions, Windows
from perdure.core.method import Step
from perdure.data.sampler import Draw, Sampler, Split, Starts

PER_STEP = ("action", "reward", "return_to_go", "timestep", "terminated", "truncated")


class Joined(Sampler):
    """The arrays of several samplers of equal spaces, one behind the other.

    The parts then read views of the joined arrays, so that nothing is held twice.
    """

    def __init__(self, parts: Sequence[Sampler]):
        self.task, self.device, self.spec, self.spaces = parts[0].task, parts[0].device, parts[0].spec, parts[0].spaces
        self.stack, self.derived = parts[0].stack, {}
        self.tasks = tuple(part.task for part in parts)
        steps = [0, *accumulate(len(part.reward) for part in parts)]
        episodes = [0, *accumulate(len(part.obs) - len(part.reward) for part in parts)]  # one observation more in each
        self._join(parts, "obs", [a + b for a, b in zip(steps, episodes, strict=True)])
        for name in PER_STEP:
            self._join(parts, name, steps)
        self.end = torch.cat([part.end + before for part, before in zip(parts, steps, strict=False)])
        self.episode = torch.cat([part.episode + before for part, before in zip(parts, episodes, strict=False)])
        splits: tuple[Split, ...] = ("train", "holdout", "all")
        self.starts = {split: self._joined_starts(parts, split, steps) for split in splits}
        self.ends = torch.tensor(steps[1:], device=self.device)
        """(K,) flat index one past the last step of each part."""
        self.task_of = torch.tensor(self.tasks, device=self.device)

    def _join(self, parts: Sequence[Sampler], name: str, edges: list[int]) -> None:
        whole = torch.cat([part.__dict__[name] for part in parts])
        self.__dict__[name] = whole
        for part, begin, end in zip(parts, edges, edges[1:], strict=False):
            part.__dict__[name] = whole[begin:end]

    @staticmethod
    def _joined_starts(parts: Sequence[Sampler], split: Split, steps: list[int]) -> Starts:
        pairs = [(part.starts[split], before) for part, before in zip(parts, steps, strict=False)]
        return Starts(torch.cat([s.step + before for s, before in pairs]), torch.cat([s.first + before for s, before in pairs]),
                      torch.cat([s.length for s, _ in pairs]))

    def windows_at(self, start: Tensor, length: int) -> Windows:
        task = self.task_of[torch.bucketize(start, self.ends, right=True)]
        return replace(super().windows_at(start, length), task=task, tasks=self.tasks)

    def transitions_at(self, step: Tensor) -> Transitions:
        task = self.task_of[torch.bucketize(step, self.ends, right=True)]
        return replace(super().transitions_at(step), task=task, tasks=self.tasks)


class UnionView:
    """All data of some tasks; tasks of equal spaces lie in one sampler."""

    def __init__(self, parts: Sequence[Sampler], draw: Draw = "steps"):
        self.count, self.draw = len(parts), draw
        self.groups = [Joined([part for part in parts if part.spaces == spaces])
                       for spaces in dict.fromkeys(part.spaces for part in parts)]

    def windows(self, length: int, n: int, step: Step, split: Split = "train", purpose: str = "union") -> list[Windows]:
        """n windows of `length` steps, uniform over all steps (or episodes) of all tasks; one batch per pair of spaces."""
        sizes = [self._size(group, split) for group in self.groups]
        drawn = torch.randint(sum(sizes), (n,), generator=step.generator(f"{purpose}-spaces"))  # on the CPU: no read of a GPU
        edges = list(accumulate(sizes))
        batches = []
        for place, (group, end, size) in enumerate(zip(self.groups, edges, sizes, strict=True)):
            mine = n if len(self.groups) == 1 else int(((drawn >= end - size) & (drawn < end)).sum())
            if mine:
                g = step.generator(f"{purpose}-{place}", group.device)
                batches.append(group.windows(length, mine, g, split, self.draw))
        return batches

    def _size(self, group: Sampler, split: Split) -> int:
        starts = group.starts[split]
        return len(starts.step if self.draw == "steps" else starts.first)
