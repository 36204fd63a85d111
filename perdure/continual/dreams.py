"""Dreams: pairs of observations and actions of earlier tasks that are replayed while a task is learned, and then let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Generator, Tensor, nn

from perdure.core.batch import Windows, concatenate
from perdure.core.method import Step
from perdure.core.spec import Box, Spec

TOGETHER = 4
"""Earlier tasks with as many dreams each as are asked for; more tasks share as many as these have together."""

MOST = 10_000_000
"""Pairs of one task at most that can be asked for; they lie in memory."""


def per_task(asked: int, earlier: int) -> int:
    """Pairs of each of `earlier` tasks, so that no task costs much more than the fifth one, however many there were before."""
    return max(1, min(asked, TOGETHER * asked // earlier))


class Dreams(nn.Module):
    """A set of pairs for every earlier task, and the value that the critic gave each of them before the new task came.

    The sets lie one after the other in the same tensors, so that a draw costs one gather whatever the number of tasks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sets: dict[int, tuple[int, Spec]] = {}
        """Task -> (number of pairs, its spaces, which are those of all)."""

    def open(self, task: int, count: int, spec: Spec) -> None:
        """Make room for `count` pairs of a task."""
        assert isinstance(spec.action, Box)
        new = {"obs": torch.zeros(count, spec.obs.size), "action": torch.zeros(count, spec.action.size),
               "timestep": torch.zeros(count, dtype=torch.int64), "value": torch.zeros(count)}
        for name, rows in new.items():
            self.register_buffer(name, torch.cat([self.get_buffer(name), rows]) if self.sets else rows)
        self.sets[task] = (count, spec)

    def put(self, task: int, begin: int, **values: Tensor) -> None:
        """Store `obs` (n, O) raw, `action` (n, A) in [-1, 1], `timestep` (n,) or `value` (n,) from row `begin` of a task on."""
        for name, rows in values.items():
            self._of(name, task)[begin : begin + len(rows)] = rows

    def of(self, task: int) -> tuple[Tensor, Tensor]:
        """(N, O) raw observations and (N, A) actions of a task."""
        return self._of("obs", task), self._of("action", task)

    def _of(self, name: str, task: int) -> Tensor:
        begin = self._begins()[self.tasks().index(task)]
        return self.get_buffer(name)[begin : begin + self.sets[task][0]]

    def _begins(self) -> list[int]:
        """First row of every task."""
        return list(accumulate([0, *(count for count, _ in self.sets.values())]))[:-1]

    def tasks(self) -> list[int]:
        return list(self.sets)

    def parts(self, tasks: Iterable[int], most: int) -> list[tuple[int, int, int]]:
        """(task, first row, rows) of every part in which the pairs of these tasks are made, of at most `most` rows each."""
        return [(task, begin, min(most, self.sets[task][0] - begin)) for task in tasks
                for begin in range(0, self.sets[task][0], most)]

    def clear(self) -> None:
        """Let go of all of them."""
        for name in ("obs", "action", "timestep", "value") if self.sets else ():
            delattr(self, name)
        self.sets.clear()

    def draw(self, n: int, g: Generator) -> Windows:
        """n pairs as windows of one step, equally many of every task, with the old critic's values in `extra["kept"]`.

        Where there are more tasks than pairs, chance says which of them.
        """
        tasks = self.tasks()
        share = [len(part) for part in torch.arange(n).tensor_split(len(tasks))]
        if n < len(tasks):
            share = [share[i] for i in torch.randperm(len(tasks), generator=g, device=g.device)]
        known = torch.tensor([tasks, self._begins(), [count for count, _ in self.sets.values()]], device=g.device)
        task, begin, count = known.repeat_interleave(torch.tensor(share, device=g.device), 1, output_size=n)
        rows = begin + (torch.rand(n, generator=g, dtype=torch.float64, device=g.device) * count).long()
        obs, action, timestep, value = (self.get_buffer(name).index_select(0, rows)
                                        for name in ("obs", "action", "timestep", "value"))
        windows = as_windows(obs, action, task, tuple(tasks), self.sets[tasks[0]][1], {"kept": value})
        return replace(windows, timestep=timestep.unsqueeze(1))

    def architecture(self) -> dict[str, Any]:
        return {"sets": [{"task": task, "count": count, "spec": spec.to_json()} for task, (count, spec) in self.sets.items()]}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for entry in architecture["sets"]:
            self.open(int(entry["task"]), int(entry["count"]), Spec.from_json(entry["spec"]))


def as_windows(obs: Tensor, action: Tensor, task: Tensor, tasks: tuple[int, ...], spec: Spec,
               extra: Mapping[str, Tensor] | None = None) -> Windows:
    """Windows of one step of observations (B, O) and actions (B, A) that no reward or episode belongs to."""
    n, device = len(obs), obs.device
    zeros, no = torch.zeros(n, 1, device=device), torch.zeros(n, 1, dtype=torch.bool, device=device)
    return Windows(obs=obs.unsqueeze(1), action=action.unsqueeze(1), reward=zeros, return_to_go=zeros, timestep=zeros.long(),
                   terminated=no, truncated=no, valid=~no, last_obs=obs, task=task, weight=torch.ones(n, device=device),
                   tasks=tasks, spaces=spec.key, extra=extra or {})


def halves(view: Any, dreams: Dreams, batch: int, balance: str, step: Step) -> list[Windows]:
    """New samples, and dreams where there are any.

    Args:
        balance: "half": half of them are dreams; "equal": as many of every earlier task as of the new one.
    """
    earlier = len(dreams.tasks())
    if not earlier:
        return [view.windows(1, batch, step)]
    new = max(1, batch // 2 if balance == "half" else batch // (earlier + 1))
    return [view.windows(1, new, step), dreams.draw(batch - new, step.generator("dreams", view.device))]


def mixed(view: Any, dreams: Dreams, batch: int, balance: str, step: Step,
          seen: Callable[[Windows], Windows] | None = None) -> Windows:
    """A batch of `halves`, joined; `seen`: what becomes of new and of dreamed windows before; `bare` unless given."""
    return concatenate([(seen or bare)(half) for half in halves(view, dreams, batch, balance, step)])


def apart(parts: list[Windows], real: list[int]) -> list[Windows]:
    """New samples and dreams as batches of their own; dreams say in `extra["taught"]` whether teachers speak of them, which they
    do but of tasks that are `real`."""
    new, old = parts
    untaught = torch.tensor(real, dtype=torch.int64, device=old.task.device)
    return [bare(new), replace(old, extra={"taught": ~torch.isin(old.task, untaught)})]


def bare(batch: Windows) -> Windows:
    """Windows without what was added to them, so that any can be joined."""
    return replace(batch, extra={})


def rows_of(view: Any) -> tuple[Tensor, Tensor]:
    """(N, O) raw observations and (N, A) actions of the training split of a task."""
    sampler = view.sampler
    steps = sampler.starts["train"].step
    return sampler.obs[steps + sampler.episode[steps]], sampler.action[steps]


def times_of(view: Any) -> Tensor:
    """(N,) int64, when in their episodes these are."""
    steps: Tensor = view.sampler.starts["train"].step
    timestep: Tensor = view.sampler.timestep[steps]
    return timestep


def some_of(view: Any, n: int, g: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(n, O) raw observations, (n, A) actions and (n,) steps of random rows of the training split."""
    observations, actions = rows_of(view)
    chosen = torch.randint(len(observations), (n,), generator=g, device=g.device).to(observations.device)
    return observations[chosen], actions[chosen], times_of(view)[chosen]
