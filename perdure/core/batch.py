"""The two batch types that losses see, with the shape of every field.

Letters: B batch, L window length, O observation shape, A action size. One observation and action space per
batch; tasks with different spaces arrive as several batches and `average` combines their losses.

Observations are raw: the policy normalises them with the statistics of each sample's own task, which is what
lets replayed and new samples share a batch and an actor take raw observations from a robot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", "Windows", "Transitions")


@dataclass(frozen=True)
class Windows:
    """B windows of L consecutive steps, right-padded, so that causal attention needs no mask."""

    obs: Tensor
    """(B, L, *O) float32 raw, or uint8 images."""
    action: Tensor
    """(B, L, A) float32 scaled to [-1, 1] by the bounds; (B, L) int64 when discrete."""
    reward: Tensor
    """(B, L) float32, environment units."""
    return_to_go: Tensor
    """(B, L) float32, undiscounted sum of the rewards from this step on, environment units."""
    timestep: Tensor
    """(B, L) int64, 0 at the start of the episode."""
    terminated: Tensor
    """(B, L) bool; a time limit is not a termination."""
    truncated: Tensor
    """(B, L) bool."""
    valid: Tensor
    """(B, L) bool, False on padding."""
    last_obs: Tensor
    """(B, *O) observation after the last valid step."""
    task: Tensor
    """(B,) int64, position in the stream, per sample."""
    weight: Tensor
    """(B,) float32, default 1."""
    tasks: tuple[int, ...]
    """The tasks that may occur in `task`, known without reading the tensor (a read would stall a GPU)."""
    spaces: str = ""
    """Observation and action space; batches are joined only if it is the same."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What a method keeps with its windows, leading axis B, such as the outputs of an earlier policy."""

    def __len__(self) -> int:
        return self.task.shape[0]


@dataclass(frozen=True)
class Transitions:
    """B single transitions."""

    obs: Tensor
    """(B, *O)."""
    action: Tensor
    """(B, A) float32 scaled to [-1, 1]; (B,) int64 when discrete."""
    reward: Tensor
    """(B,) float32, environment units."""
    next_obs: Tensor
    """(B, *O)."""
    terminated: Tensor
    """(B,) bool."""
    task: Tensor
    """(B,) int64."""
    weight: Tensor
    """(B,) float32."""
    tasks: tuple[int, ...]
    """The tasks that may occur in `task`."""
    spaces: str = ""
    """Observation and action space; batches are joined only if it is the same."""

    def __len__(self) -> int:
        return self.task.shape[0]


def map_fields(batch: B, change: Callable[[Tensor], Tensor]) -> B:
    """A batch of the same type with `change` applied to every tensor."""
    changed: dict[str, Any] = {name: change(batch.__dict__[name]) for name in tensor_fields(batch)}
    if isinstance(batch, Windows):
        changed["extra"] = {name: change(value) for name, value in batch.extra.items()}
    return replace(batch, **changed)


def tensor_fields(batch: Windows | Transitions) -> list[str]:
    """Names of the tensor fields of a batch, in order."""
    return [f.name for f in fields(batch) if f.name not in ("tasks", "spaces", "extra")]


def concatenate(batches: Sequence[B]) -> B:
    """One batch from several with the same spaces."""
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, Any] = {name: torch.cat([b.__dict__[name] for b in batches]) for name in tensor_fields(batches[0])}
    parts = [b.extra for b in batches if isinstance(b, Windows)]
    if parts and parts[0]:
        joined["extra"] = {name: torch.cat([extra[name] for extra in parts]) for name in parts[0]}
    return replace(batches[0], **joined, tasks=tuple(sorted({t for b in batches for t in b.tasks})))


def places(task: Tensor, tasks: tuple[int, ...]) -> Tensor:
    """(B,) int64, where in `tasks` each sample's task stands."""
    return (task.unsqueeze(1) == torch.tensor(tasks, device=task.device)).int().argmax(1)


def mix(*batches: B | list[B]) -> list[B]:
    """All batches, with those of equal spaces and length joined, so that each group costs one forward pass."""
    groups: dict[tuple, list[B]] = {}
    for item in batches:
        for batch in item if isinstance(item, list) else [item]:
            groups.setdefault((batch.spaces, batch.obs.shape[1:], batch.action.shape[1:]), []).append(batch)
    return [concatenate(group) for group in groups.values()]


def average(
    loss: Callable[..., Tensor], batches: Windows | Transitions | Sequence[Windows | Transitions], **arguments: Any
) -> Tensor:
    """sum(weight * loss) / sum(weight) over one batch or several; `loss` returns (B,) per sample."""
    parts = [batches] if isinstance(batches, Windows | Transitions) else batches
    if len(parts) == 1:
        return (parts[0].weight * loss(parts[0], **arguments)).sum() / parts[0].weight.sum()
    total = torch.stack([(part.weight * loss(part, **arguments)).sum() for part in parts]).sum()
    return total / torch.stack([part.weight.sum() for part in parts]).sum()
