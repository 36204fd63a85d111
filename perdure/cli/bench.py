"""`perdure bench`: the speed of the library against plain reference code. The work is done in `perdure.bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from perdure.bench import LEAST_ROUNDS, MEASURES, run_bench
from perdure.cli.parse import asks_for_help, parse, print_help

EXAMPLE = "perdure bench"


@dataclass(frozen=True)
class Options:
    """Measure the library against plain reference code in alternating rounds, with one thread; equal results are checked
    first. All measures take about twenty minutes; close other programs."""

    measures: Annotated[tuple[str, ...], arg(metavar="[MEASURE ...]", help_behavior_hint="")]
    """Only these: sampling, acting, importance, penalty, optimizer, steps, growth, routing, composing, generating, dreaming,
    training, saving, stream, sweep, memory."""
    rounds: int = LEAST_ROUNDS
    """Alternating rounds of each measure."""
    cpu_time: bool = False
    """Judge by the process's CPU time, which a busy machine disturbs less."""
    out: Annotated[str, arg(metavar="FILE.json", help_behavior_hint="")] = ""
    """Write the JSON here, and the text beside it."""
    json: bool = False
    """Print JSON instead of the text."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What is measured."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "bench", EXAMPLE, "perdure bench sampling penalty --out bench.json")
    options = parse(Options, argv, "bench", EXAMPLE)
    run_bench(list(options.measures or MEASURES), rounds=options.rounds, cpu_time=options.cpu_time,
              out=Path(options.out) if options.out else None, json=options.json, device=options.device)
    return 0
