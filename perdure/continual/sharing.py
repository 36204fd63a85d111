"""WeightSharing: the weights that a task adds take a few values per tensor (k-means), fine-tuned and then kept as codes.

TinySubNets (arXiv 2412.10869) and, as an option, TSN-Affinity (arXiv 2604.25898) share weights so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from perdure.continual.masks import buffer_name
from perdure.continual.subnetworks import pack, unpack

ROUNDS = 50
"""Of Lloyd's algorithm, at most."""


class WeightSharing(nn.Module):
    """Code books of finished tasks, and the centroids and codes of the task that is being learned."""

    def __init__(self) -> None:
        super().__init__()
        self.books: dict[int, dict[str, int]] = {}
        """Task -> size of its code book per parameter."""
        self.centroids = nn.ParameterDict()
        self.codes: dict[str, int] = {}
        """Parameter -> weights that the open task adds to it."""

    def open(self, values: Mapping[str, Tensor], clusters: int) -> None:
        """Cluster the new weights of every parameter.

        Args:
            values: (n,) new weights per parameter, in the order of memory.
            clusters: centroids per parameter, fewer where there are fewer weights.
        """
        for name, new in values.items():
            centroids, codes = kmeans(new, clusters)
            self.centroids[buffer_name(name)] = Parameter(centroids)
            self.register_buffer(f"codes-{buffer_name(name)}", codes)
            self.codes[name] = len(new)

    def trained(self) -> dict[str, Parameter]:
        """Centroids of the open task, by the names of their parameters."""
        return {name.replace("/", "."): p for name, p in self.centroids.items()}

    def values(self, name: str) -> Tensor:
        """(n,) new weights of a parameter of the open task, with gradients for the centroids."""
        return self.centroids[buffer_name(name)][self.get_buffer(f"codes-{buffer_name(name)}").long()]

    def close(self, task: int) -> None:
        """Keep the code books of the open task."""
        self.books[task] = {name: len(p) for name, p in self.trained().items()}
        for name, p in self.centroids.items():
            self.register_buffer(f"book-{task}-{name}", p.detach().clone())
            del self._buffers[f"codes-{name}"]
        self.centroids.clear()
        self.codes.clear()

    def encode(self, task: int, name: str, values: Tensor) -> Tensor:
        """Weights of a finished task as packed codes of log2(size of the book) bits."""
        book, order = self.get_buffer(f"book-{task}-{buffer_name(name)}").sort()
        return pack(to_bits(order[torch.searchsorted(book, values.contiguous())], _width(len(book))))

    def decode(self, task: int, name: str, packed: Tensor, count: int) -> Tensor:
        """(count,) weights from packed codes."""
        book = self.get_buffer(f"book-{task}-{buffer_name(name)}")
        width = _width(len(book))
        return book[from_bits(unpack(packed, count * width), width)]

    def architecture(self) -> dict[str, Any]:
        return {"books": [[task, sizes] for task, sizes in self.books.items()],
                "open": {name: [len(p), self.codes[name]] for name, p in self.trained().items()}}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task, sizes in architecture["books"]:
            self.books[int(task)] = {name: int(size) for name, size in sizes.items()}
            for name, size in sizes.items():
                self.register_buffer(f"book-{task}-{buffer_name(name)}", torch.zeros(size))
        for name, (size, count) in architecture["open"].items():
            self.centroids[buffer_name(name)] = Parameter(torch.zeros(size))
            self.register_buffer(f"codes-{buffer_name(name)}", torch.zeros(count, dtype=torch.uint8))
            self.codes[name] = count


def kmeans(values: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Centroids (k,) in ascending order and codes (n,) uint8 of one-dimensional values, from quantiles on, without randomness."""
    points = values.detach().double().cpu().numpy()
    ordered = np.sort(points)
    places = (np.arange(clusters) + 0.5) / clusters * len(ordered)
    centres = np.unique(ordered[places.astype(int)])
    for _ in range(ROUNDS):
        codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
        counts = np.bincount(codes, minlength=len(centres))
        sums = np.bincount(codes, weights=points, minlength=len(centres))
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
    return (torch.from_numpy(centres).to(values.device, values.dtype),
            torch.from_numpy(codes.astype(np.uint8)).to(values.device))


def _width(size: int) -> int:
    """Bits of a code into a book of this size."""
    return max(1, (size - 1).bit_length())


def to_bits(codes: Tensor, width: int) -> Tensor:
    """(n,) codes -> (n * width,) bool, the highest bit of each first."""
    places = torch.arange(width - 1, -1, -1, device=codes.device)
    return ((codes.long().unsqueeze(1) >> places) & 1).bool().flatten()


def from_bits(bits: Tensor, width: int) -> Tensor:
    """(n * width,) bool -> (n,) codes."""
    places = torch.arange(width - 1, -1, -1, device=bits.device)
    return (bits.view(-1, width).long() << places).sum(1)
