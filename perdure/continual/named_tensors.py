"""NamedTensors: tensors by part and parameter name, kept as buffers, so that a checkpoint at any moment holds them.

`blocks` is how lists of them are worked on: some lists the size of all weights do not fit into a processor's cache together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perdure.continual.masks import buffer_name

BLOCK = 2**16
"""Elements of the lists of tensors that are worked on together, so that intermediate values stay in a processor's cache."""


def blocks(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Stretches of a list of tensors of about `BLOCK` elements each; on a GPU, where calls cost more than memory, all at once."""
    if tensors and tensors[0].device.type != "cpu":
        yield slice(None)
        return
    first, size = 0, 0
    for place, tensor in enumerate(tensors):
        if size and size + tensor.numel() > BLOCK:
            yield slice(first, place)
            first, size = place, 0
        size += tensor.numel()
    if first < len(tensors):
        yield slice(first, None)


class NamedTensors(nn.Module):
    """Parts such as `start` or `fisher`, each with one tensor per parameter; a part that is dropped leaves nothing behind."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, dict[str, list[int]]] = {}
        """Part -> parameter -> shape."""

    def put(self, part: str, values: Mapping[str, Tensor]) -> None:
        """Keep copies of these tensors; those of the same names are replaced, others stay."""
        for name, value in values.items():
            self.shapes.setdefault(part, {})[name] = list(value.shape)
            self.register_buffer(_key(part, name), value.detach().clone())

    def names(self, part: str) -> list[str]:
        """The parameters that have a tensor in this part."""
        return list(self.shapes.get(part, {}))

    def get(self, part: str, names: Iterable[str]) -> list[Tensor]:
        """The tensors of these parameters, which may be changed in place."""
        buffers = self._buffers  # read directly: get_buffer takes a noticeable share of a small network's step
        return [value for name in names if (value := buffers[_key(part, name)]) is not None]

    def drop(self, *parts: str) -> None:
        """Forget whole parts."""
        for part in parts:
            for name in self.shapes.pop(part, {}):
                del self._buffers[_key(part, name)]

    def architecture(self) -> dict[str, Any]:
        return {part: dict(shapes) for part, shapes in self.shapes.items()}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for part, shapes in architecture.items():
            self.put(part, {name: torch.zeros(shape) for name, shape in shapes.items()})


def _key(part: str, name: str) -> str:
    return f"{part}:{buffer_name(name)}"
