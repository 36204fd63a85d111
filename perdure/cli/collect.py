"""`perdure collect`: the datasets of a stream, or of one task, from scripted experts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text
from tyro.conf import arg

from perdure.benchmarks import STREAMS
from perdure.benchmarks.continual_world import ORDERS, TASKS, dataset_name, quality_of
from perdure.benchmarks.continual_world import Options as WorldOptions
from perdure.benchmarks.metaworld_source import MetaWorldSource
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.core.errors import UsageError, nearest
from perdure.data.collect import collect
from perdure.data.names import dataset_folder
from perdure.data.progress import collecting, sparsely
from perdure.data.store import Dataset

EXAMPLES = ("perdure collect cw10-v3 --quality expert --episodes 100", "perdure collect hammer --quality mixed --workers 4")


@dataclass(frozen=True)
class Options:
    """Roll scripted experts over frozen goals into datasets, without any download. Interrupted, the same command goes on."""

    what: Annotated[str, arg(metavar="STREAM_OR_TASK", help_behavior_hint="")]
    """A stream of `perdure streams`, or one Meta-World task such as hammer."""
    quality: Literal["default", "expert", "mixed", "suboptimal"] = "default"
    """expert: no noise; mixed: a noise ladder calibrated per task; suboptimal: its lower half. default: the stream's own,
    expert for one task."""
    episodes: int = 100
    """Per task."""
    horizon: int = 200
    """Steps per episode."""
    workers: int = 2
    """Processes that roll; the data do not depend on their number."""
    seed: int = 0
    """Of the noise; streams use 0, another seed gets a folder of its own."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "collect", *EXAMPLES)
    options = parse(Options, argv, "collect", EXAMPLES[0])
    world = WorldOptions(quality=options.quality, episodes=options.episodes, horizon=options.horizon)
    tasks, quality = _tasks(options, world)
    for place, task in enumerate(tasks):
        name = dataset_name(task, quality, options.episodes, options.horizon)
        folder = dataset_folder(name + (f"-seed{options.seed}" if options.seed else ""))
        _collect(task, folder, quality, options, f"{task} ({place + 1} of {len(tasks)})")
        data = Dataset.open(folder)
        rate = sum(map(bool, data.successes)) / len(data)
        print(f"{folder}: {len(data)} {quality} episodes, {data.transitions} transitions, success {rate:.2f}", flush=True)
    return 0


def _tasks(options: Options, world: WorldOptions) -> tuple[list[str], str]:
    """The different tasks to collect, and the quality of their data."""
    if options.what in ORDERS:
        return list(dict.fromkeys(ORDERS[options.what])), quality_of(options.what, world)
    if options.what in STREAMS:
        raise UsageError(f"the stream {options.what} is made in memory; there is nothing to collect")
    task = options.what.removesuffix("-v3")
    if task not in TASKS:
        known = [*ORDERS, *TASKS]
        raise UsageError(f"unknown stream or task '{options.what}'{nearest(options.what, known) or '; see `perdure streams`'}")
    return [task], "expert" if options.quality == "default" else options.quality


def _collect(task: str, folder: Path, quality: str, options: Options, label: str) -> None:
    """One dataset, with live progress."""
    console = Console(file=sys.stderr, highlight=False, markup=False)
    with Live(Text(label), console=console, refresh_per_second=4, transient=True) as live:
        show = (lambda text: live.update(Text(text))) if console.is_terminal else sparsely(console.print)
        collect(MetaWorldSource(task, options.horizon), folder, quality=quality, episodes=options.episodes, seed=options.seed,
                workers=options.workers, progress=collecting(label, show))
