"""Dreams: pairs of observations and actions of earlier tasks that are replayed while a task is learned, and then let go of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from perdure.core.batch import Windows, concatenate
from perdure.core.method import Step
from perdure.core.spec import Box, Spec


class Dreams(nn.Module):
    """A set of pairs for every earlier task, and the value that the critic gave each of them before the new task came."""

    def __init__(self) -> None:
        super().__init__()
        self.sets: dict[int, tuple[int, Spec]] = {}
        """Task -> (number of pairs, its spaces)."""

    def open(self, task: int, count: int, spec: Spec) -> None:
        """Make room for `count` pairs of a task."""
        assert isinstance(spec.action, Box)
        self.sets[task] = (count, spec)
        self.register_buffer(f"obs_{task}", torch.zeros(count, spec.obs.size))
        self.register_buffer(f"action_{task}", torch.zeros(count, spec.action.size))
        self.register_buffer(f"value_{task}", torch.zeros(count))

    def put(self, task: int, begin: int, **values: Tensor) -> None:
        """Store `obs` (n, O) raw, `action` (n, A) in [-1, 1] or `value` (n,) from row `begin` on."""
        for name, rows in values.items():
            self.get_buffer(f"{name}_{task}")[begin : begin + len(rows)] = rows

    def of(self, task: int) -> tuple[Tensor, Tensor]:
        """(N, O) raw observations and (N, A) actions of a task."""
        return self.get_buffer(f"obs_{task}"), self.get_buffer(f"action_{task}")

    def tasks(self) -> list[int]:
        return list(self.sets)

    def clear(self) -> None:
        """Let go of all of them."""
        for task in self.sets:
            for name in ("obs", "action", "value"):
                delattr(self, f"{name}_{task}")
        self.sets.clear()

    def draw(self, n: int, g: Generator) -> Windows:
        """n pairs as windows of one step, equally many of every task, with the old critic's values in `extra["kept"]`."""
        tasks = self.tasks()
        count = [len(part) for part in torch.arange(n).tensor_split(len(tasks))]
        rows = [torch.randint(self.sets[task][0], (k,), generator=g, device=g.device)
                for task, k in zip(tasks, count, strict=True)]

        def take(name: str) -> Tensor:
            return torch.cat([self.get_buffer(f"{name}_{task}")[row] for task, row in zip(tasks, rows, strict=True)])

        return as_windows(take("obs"), take("action"), torch.repeat_interleave(torch.tensor(tasks, device=g.device),
                          torch.tensor(count, device=g.device)), tuple(tasks), self.sets[tasks[0]][1], {"kept": take("value")})

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


def mixed(view: Any, dreams: Dreams, batch: int, balance: str, step: Step,
          seen: Callable[[Windows], Windows] | None = None) -> Windows:
    """A batch of new samples and dreams.

    Args:
        balance: "half": half of it is dreams; "equal": as many of every earlier task as of the new one.
        seen: what becomes of new and of dreamed windows before they are joined; `bare` unless given.
    """
    seen = seen or bare
    earlier = len(dreams.tasks())
    if not earlier:
        return seen(view.windows(1, batch, step))
    new = max(1, batch // 2 if balance == "half" else batch // (earlier + 1))
    old = dreams.draw(batch - new, step.generator("dreams", view.device))
    return concatenate([seen(view.windows(1, new, step)), seen(old)])


def bare(batch: Windows) -> Windows:
    """Windows without what was added to them, so that any can be joined."""
    return replace(batch, extra={})


def rows_of(view: Any) -> tuple[Tensor, Tensor]:
    """(N, O) raw observations and (N, A) actions of the training split of a task."""
    sampler = view.sampler
    steps = sampler.starts["train"].step
    return sampler.obs[steps + sampler.episode[steps]], sampler.action[steps]
