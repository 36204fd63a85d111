"""How many threads numerical libraries use, here and in processes that are started. Imports torch only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

ONE_THREAD = dict.fromkeys(VARIABLES, "1")
"""Set before a process imports anything: many workers of many threads each would be in each other's way."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch with `number` threads inside; afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
