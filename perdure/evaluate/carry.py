"""What an actor remembers of running episodes, row by row: a dict of tensors with one row per episode."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.core.errors import UsageError
from perdure.core.policy import Carry


def restart(carry: Carry, fresh: Carry, rows: Tensor) -> Carry:
    """A new carry in which the given rows begin a new episode; its arguments are not changed.

    Args:
        carry: every tensor (n, ...).
        fresh: the actor's `start(n)`, with the same keys and shapes.
        rows: (n,) bool, True where a new episode begins.

    Raises:
        UsageError: an actor's carry changes its keys or shapes while it acts.
    """
    if {k: v.shape for k, v in carry.items()} != {k: v.shape for k, v in fresh.items()}:
        raise UsageError(
            f"carry is {_shapes(carry)} after acting but {_shapes(fresh)} at the start; an actor keeps its "
            "keys and shapes"
        )
    return {k: torch.where(rows.view(-1, *[1] * (old.dim() - 1)), fresh[k], old) for k, old in carry.items()}


def _shapes(carry: Carry) -> str:
    return str({name: list(value.shape) for name, value in carry.items()})
