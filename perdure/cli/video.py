"""`perdure video`: clips of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from perdure.cli.parse import asks_for_help, parse, print_help

EXAMPLE = "perdure video runs/demo/packnet"


@dataclass(frozen=True)
class Options:
    """Film every task before learning, after learning it, and at the end of the stream, into the run's folder clips/. Needs
    no display; where nothing can render, one sentence says why and what to do."""

    run: Annotated[str, arg(metavar="RUN", help_behavior_hint="")]
    """Folder of a finished run."""
    size: int = 240
    """Longer side in pixels."""
    task: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Only these tasks."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "video", EXAMPLE, "perdure video runs/demo/packnet --task hammer --size 480")
    options = parse(Options, argv, "video", EXAMPLE)
    from perdure.video import write_clips

    clips = write_clips(options.run, size=options.size, tasks=options.task, say=lambda text: print(text, flush=True))
    if clips is not None:
        print(f"clips: {clips}")
    return 0
