"""How fast the library is, as ratios against plain reference variants that it contains itself.

First the machine's ceiling and load are printed. Every measure checks equality, then times both sides alternately in this
process. Only ratios are claims; milliseconds are there to explain them.
"""

from __future__ import annotations

import json as json_module
import os
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.core.errors import UsageError, nearest
from perdure.core.files import write_atomic, write_json
from perdure.core.threads import threads

if TYPE_CHECKING:
    from perdure.bench.workload import Scale

MEASURES: dict[str, str] = {
    "sampling": "perdure.bench.sampling:sampling",
    "acting": "perdure.bench.acting:acting",
    "importance": "perdure.bench.weights:importance",
    "penalty": "perdure.bench.weights:penalty",
    "optimizer": "perdure.bench.weights:optimizer",
    "steps": "perdure.bench.steps:steps",
    "growth": "perdure.bench.steps:growth",
    "routing": "perdure.bench.routing:routing",
    "composing": "perdure.bench.composing:composing",
    "generating": "perdure.bench.generating:generating",
    "dreaming": "perdure.bench.dreaming:dreaming",
    "training": "perdure.bench.training:training",
    "saving": "perdure.bench.saving:saving",
    "stream": "perdure.bench.miniature:miniature",
    "sweep": "perdure.bench.sweeping:sweeping",
    "memory": "perdure.bench.remembering:remembering",
}
"""Name on the command line -> `module:function`, in the order of the table."""

FORMAT = 1
"""Version of the JSON."""

LEAST_ROUNDS = 7


def run_bench(
    measures: list[str] | None = None,
    *,
    rounds: int = LEAST_ROUNDS,
    cpu_time: bool = False,
    out: Path | None = None,
    json: bool = False,
    device: str = "cpu",
    scale: Scale | None = None,
) -> dict[str, Any]:
    """Run the measures, print them, and return them as JSON values.

    Args:
        measures: names from `MEASURES`; None runs all (about twenty minutes on a free machine).
        rounds: alternating rounds per measure, 7 or more; step overheads take 15 at least.
        cpu_time: judge by CPU time of this process, which a busy machine disturbs less; otherwise by wall time, and no
            verdict is given when the load exceeds the cores.
        out: a `.json` file to write; the text goes beside it as `.txt`.
        json: print the JSON instead of the text.
        device: `cpu`, or a CUDA device.
        scale: sizes of the work; the default is the reference.

    Raises:
        UsageError: an unknown measure, too few rounds, or an `out` that cannot be written.
        GuardError: library and reference variant do not compute the same.
    """
    chosen = _chosen(measures)
    _check(rounds, cpu_time, out, device)

    from perdure.bench import machine
    from perdure.bench.measure import Bench, Clock
    from perdure.bench.show import heading, table
    from perdure.bench.workload import FULL

    text: list[str] = []

    def say(part: str) -> None:
        text.append(part)
        if not json:
            print(part, flush=True)

    clock: Clock = "cpu" if cpu_time else "wall"
    with threads(1):
        facts, ceiling = machine.facts(device), machine.ceiling(device, cpu_time)
        say(heading(facts, ceiling, clock, rounds, cpu_time or facts["load"] <= facts["cores"]))
        folder = out.parent if out is not None else Path(tempfile.gettempdir())
        bench = Bench(rounds, device, scale or FULL, ceiling["fp32_1_thread"], clock, folder)
        result: dict[str, Any] = {"format": FORMAT, "machine": facts, "ceiling_gflops": ceiling, "clock": clock, "rounds": rounds,
                                  "threads": 1, "measures": {}}
        for name, measure in chosen.items():
            machine.reset_peak()
            started, before = time.perf_counter(), machine.load()
            figures = measure(bench)
            trusted = cpu_time or before <= facts["cores"]
            rows = [figure.to_json(clock, trusted) for figure in figures]
            result["measures"][name] = {"figures": rows, "load": round(before, 2), "peak_memory_mb": machine.peak_megabytes(),
                                        "seconds": round(time.perf_counter() - started, 1)}
            say(f"\n{name} (load {before:.1f}, {result['measures'][name]['seconds']} s)\n{table(rows, clock)}")
    if json:
        print(json_module.dumps(result, indent=1, allow_nan=False))
    if out is not None:
        _write(out, result, "\n".join(text) + "\n")
    return result


def main(measures: list[str] | None = None, *, out: Path | str | None = None, **options: Any) -> int:
    """`run_bench` for the command line: 0 when it ran through, whatever the verdicts, which a busy machine may turn."""
    run_bench(measures or None, out=Path(out) if out else None, **options)
    return 0


def _chosen(measures: list[str] | None) -> dict[str, Callable[[Any], list[Any]]]:
    names = list(MEASURES) if measures is None else measures
    for name in names:
        if name not in MEASURES:
            raise UsageError(f"unknown measure '{name}'{nearest(name, MEASURES) or '; known: ' + ', '.join(MEASURES)}")
    targets = {name: MEASURES[name].split(":") for name in names}
    return {name: import_module(module).__dict__[function] for name, (module, function) in targets.items()}


def _check(rounds: int, cpu_time: bool, out: Path | None, device: str) -> None:
    if rounds < LEAST_ROUNDS:
        raise UsageError(f"rounds is {rounds}; give {LEAST_ROUNDS} or more, fewer say nothing about the spread")
    if cpu_time and device != "cpu":
        raise UsageError(f"device is {device} and CPU time is asked for; a GPU's work is only seen by the wall clock")
    if out is not None and out.suffix != ".json":
        raise UsageError(f"out is {out}; give a path that ends in .json, the text goes beside it")
    if out is not None and not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise UsageError(f"out is {out}, whose folder is missing or not writable; choose another path")


def _write(out: Path, result: dict[str, Any], text: str) -> None:
    try:
        write_json(out, result)
        write_atomic(out.with_suffix(".txt"), text.encode())
    except OSError as problem:
        raise UsageError(f"out is {out}, which cannot be written ({problem.strerror}); choose another path") from None
