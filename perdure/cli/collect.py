"""`perdure collect`: the datasets of a stream, or of one task, from experts that are scripted or ship with the package."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text
from tyro.conf import arg

from perdure.benchmarks import STREAMS
from perdure.benchmarks.continual_world import TASKS, Recording, check_recording, outlines
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.core.errors import UsageError, nearest
from perdure.core.task import TaskOutline
from perdure.data.collect import QUALITIES, collect
from perdure.data.progress import collecting, sparsely
from perdure.data.store import Dataset
from perdure.streams import outline

EXAMPLES = ("perdure collect cw10-v3 --quality expert --episodes 100", "perdure collect hammer --quality mixed --workers 4")


@dataclass(frozen=True)
class Options:
    """Roll experts over frozen goals into datasets, without any download. Interrupted, the same command goes on."""

    what: Annotated[str, arg(metavar="STREAM_OR_TASK", help_behavior_hint="")]
    """A stream of `perdure streams`, or one Meta-World task such as hammer."""
    quality: str = "default"
    """expert: no noise; mixed: a noise ladder calibrated per task; suboptimal: its lower half; MuJoCo streams have random,
    medium, expert, medium-replay, full-replay and medium-expert. default: the stream's own, expert for one task."""
    episodes: int = 0
    """Per task; 0: the stream's own, 100 for one task."""
    horizon: int = 0
    """Steps per episode; 0: the stream's own, 200 for one task."""
    workers: int = 2
    """Processes that roll; the data do not depend on their number."""
    seed: int = 0
    """Of the noise; streams use 0, another seed gets a folder of its own."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "collect", *EXAMPLES)
    options = parse(Options, argv, "collect", EXAMPLES[0])
    tasks = _tasks(options)
    for place, task in enumerate(tasks):
        folder = Path(f"{task.folder}-seed{options.seed}" if options.seed else str(task.folder))
        speed = _collect(task, folder, options, f"{task.source.task} ({place + 1} of {len(tasks)})")
        data = Dataset.open(folder)
        known = [success for success in data.successes if success is not None]
        rate = f"success {sum(known) / len(known):.2f}, " if known else ""
        made = f"{len(data)} {task.quality} episodes, {data.transitions} transitions, {rate}return {data.returns.mean():.2f}"
        print(f"{folder}: {made}" + (f", {speed:.0f} steps/s per worker" if speed else ""), flush=True)
    return 0


def _tasks(options: Options) -> list[TaskOutline]:
    """Each different task to collect."""
    if options.what in STREAMS:
        return _of_stream(options)
    task = options.what.removesuffix("-v3")
    if task not in TASKS:
        known = [*(name for name in STREAMS if any(entry.steps for entry in outline(name, {}))), *TASKS]
        raise UsageError(f"unknown stream or task '{options.what}'{nearest(options.what, known) or '; see `perdure streams`'}")
    quality = "expert" if options.quality == "default" else options.quality
    if quality not in QUALITIES:
        raise UsageError(f"--quality is '{quality}'{nearest(quality, QUALITIES)}; a task has {', '.join(QUALITIES)}")
    episodes, horizon = options.episodes or 100, options.horizon or 200
    check_recording(episodes, horizon)
    return outlines((task,), Recording(quality, episodes, horizon))


def _of_stream(options: Options) -> list[TaskOutline]:
    plain = outline(options.what, {})
    if not any(task.steps for task in plain):
        made = "is made in memory" if all(task.folder is None for task in plain) else "reads published episodes"
        raise UsageError(f"the stream {options.what} {made}; there is nothing to collect")
    asked: dict[str, Any] = {"episodes": options.episodes} if options.episodes else {}
    asked |= {"quality": options.quality} if options.quality != "default" else {}
    asked |= {"horizon": options.horizon} if options.horizon else {}
    return list({task.folder: task for task in outline(options.what, asked)}.values())


def _collect(task: TaskOutline, folder: Path, options: Options, label: str) -> float:
    """One dataset, with live progress; steps per second and worker process with its start, 0 if nothing was rolled."""
    speeds: list[float] = []
    console = Console(file=sys.stderr, highlight=False, markup=False)
    with Live(Text(label), console=console, refresh_per_second=4, transient=True) as live:
        show = collecting(label, (lambda text: live.update(Text(text))) if console.is_terminal else sparsely(console.print))

        def report(done: int, total: int, steps_per_second: float) -> None:
            speeds.append(steps_per_second)
            show(done, total, steps_per_second)

        collect(task.source, folder, quality=task.quality, episodes=task.episodes, seed=options.seed, workers=options.workers,
                progress=report)
    return speeds[-1] / max(1, min(options.workers, len(speeds))) if speeds else 0.0
