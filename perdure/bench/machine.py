"""What the machine could do at best, and whether it is free enough for a verdict."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perdure.core.threads import threads
from perdure.experiment import fingerprint

ROWS, INNER, COLUMNS = 640, 256, 768
"""The matrix product whose rate counts as the ceiling: a Decision Transformer's packed projection at paper size."""

PRODUCT_FLOP = 2 * ROWS * INNER * COLUMNS


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def load() -> float:
    """Runnable processes over the last minute."""
    return os.getloadavg()[0]


def product(kind: torch.dtype, device: str) -> Callable[[], object]:
    """The ceiling's matrix product, ready to be called."""
    left = torch.randn(ROWS, INNER, device=device).to(kind)
    right = torch.randn(INNER, COLUMNS, device=device).to(kind)
    out = torch.empty(ROWS, COLUMNS, device=device, dtype=kind)
    return lambda: torch.mm(left, right, out=out)


def rate(kind: torch.dtype, device: str, seconds: float, clock: Callable[[], float]) -> float:
    """GFLOP/s of the best of many short stretches; contention allows the best case only now and then."""
    call, best = product(kind, device), float("inf")
    call()
    finish = time.perf_counter() + seconds
    while time.perf_counter() < finish:
        started = clock()
        for _ in range(20):
            call()
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, (clock() - started) / 20)
    return PRODUCT_FLOP / max(best, 1e-9) / 1e9


def ceiling(device: str, cpu_time: bool, seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of the product in fp32 and bf16, on one thread and on all. All threads are always timed by the wall clock."""
    one = time.process_time if cpu_time else time.perf_counter
    rates = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with threads(1):
            rates[f"{name}_1_thread"] = rate(kind, device, seconds, one)
        with threads(cores()):
            rates[f"{name}_all_threads"] = rate(kind, device, seconds, time.perf_counter)
    return rates


def facts(device: str) -> dict[str, Any]:
    """Machine type, versions, cores, load and memory of this process."""
    return fingerprint(device) | {"cores": cores(), "load": round(load(), 2)}


def reset_peak() -> None:
    """Start counting the peak memory of this process afresh, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> int:
    """Largest resident memory since `reset_peak`, or of the whole process where that is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
