"""`perdure bench`: the speed of the library against plain reference code. The work is done in `perdure.bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from perdure.cli.parse import asks_for_help, parse, print_help

EXAMPLE = "perdure bench"


@dataclass(frozen=True)
class Options:
    """Measure sampling, evaluation, importance, penalties, optimizers and method overheads against plain reference code, one
    thread, in alternating rounds; equal results are checked first. Takes minutes; close other programs."""

    json: bool = False
    """Print JSON instead of the table."""
    out: Annotated[str, arg(metavar="FILE", help_behavior_hint="")] = ""
    """Also write the JSON here."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "bench", EXAMPLE, "perdure bench --out bench.json")
    options = parse(Options, argv, "bench", EXAMPLE)
    import perdure.bench as bench

    return int(bench.main(json=options.json, out=options.out))
