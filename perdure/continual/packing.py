"""Packed storage: of a masked weight tensor a saved agent holds the weights that tasks use, as codes where they have code books.

What no task uses is made again from the seed, so between tasks it must stand at `unused_values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perdure.continual.subnetworks import ScoreMasks
from perdure.core.rng import generator


@dataclass(frozen=True)
class Packed:
    """A weight tensor that is saved in packed form."""

    key: str
    """In the state dict of the method."""
    name: str
    """Of the parameter in the masks."""
    tasks: Sequence[int]
    """Those that use it, in the order they came."""


def unused_values(seed: int, key: str, shape: Sequence[int]) -> Tensor:
    """What stands where no task has chosen a weight: uniform in +-1/sqrt(fan in)."""
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
    return (2 * torch.rand(tuple(shape), generator=generator(seed, "unused", key)) - 1) / math.sqrt(fan_in)


def save_packed(method: Any, pool: Any, layout: Callable[[], Sequence[Packed]]) -> None:
    """Make the state dict of a method, whose submodule `pool` has `masks` and `books`, packed where `layout` names tensors."""

    def pack_all(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        entries = layout()
        masks = masks_of(pool.masks, entries)
        for entry in entries:
            full = state.pop(prefix + entry.key)
            for task, new in additions(masks, entry):
                values = full[new]
                coded = task in pool.books.books and len(values)
                state[f"{prefix}packed-{task}:{entry.key}"] = pool.books.encode(task, entry.name, values) if coded else values

    def unpack_all(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if not any(name.startswith(f"{prefix}packed-") for name in state):
            return
        for part in ("masks", "books"):  # the rest follows from these
            start = f"{prefix}pool.{part}."
            tensors = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
            pool.get_submodule(part).load_state_dict(tensors)
        entries = layout()
        masks = masks_of(pool.masks, entries)
        for entry in entries:
            full = unused_values(method.seed, entry.key, pool.masks.shapes[entry.name])
            for task, new in additions(masks, entry):
                value = state.pop(f"{prefix}packed-{task}:{entry.key}").cpu()
                coded = value.dtype == torch.uint8
                full[new] = pool.books.decode(task, entry.name, value, int(new.sum())) if coded else value
            state[prefix + entry.key] = full

    method.register_state_dict_post_hook(pack_all)
    method.register_load_state_dict_pre_hook(unpack_all)


def masks_of(masks: ScoreMasks, entries: Sequence[Packed]) -> dict[int, dict[str, Tensor]]:
    """Task -> parameter -> bool mask, each unpacked once."""
    return {task: masks.mask(task) for task in sorted({task for entry in entries for task in entry.tasks})}


def additions(masks: Mapping[int, Mapping[str, Tensor]], entry: Packed) -> list[tuple[int, Tensor]]:
    """For every task, a bool mask of the weights that it was the first to choose."""
    taken, found = None, []
    for task in entry.tasks:
        mask = masks[task].get(entry.name)
        if mask is None:
            continue
        found.append((task, mask if taken is None else mask & ~taken))
        taken = mask if taken is None else mask | taken
    return found

