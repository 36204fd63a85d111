"""A sweep on a terminal: a live table of what runs, waits and is done. In a log file: a line every half minute."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perdure.core.words import duration
from perdure.progress import QUIET_SECONDS
from perdure.sweep.driver import Entry, Sweep

MARGIN = 6
"""Lines of the terminal that the table leaves free."""


class Silent:
    """Says nothing; for tests and for use as a library."""

    def say(self, text: str) -> None:
        pass

    def update(self, sweep: Sweep) -> None:
        pass


class Screen:
    """Sentences as they come, and the live table below them: the totals first, since a full terminal cuts its end."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self.live: Live | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live = Live(Text("preparing"), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def update(self, sweep: Sweep) -> None:
        if self.live is not None:
            self.live.update(Group(Text(totals(sweep)), *self._rows(sweep)))
        elif time.monotonic() - self.last_line >= QUIET_SECONDS:
            self.last_line = time.monotonic()
            first = [f"{entry.run.name}: {', '.join(filter(None, cells(entry)))}" for entry in working(sweep)[:2]]
            self.console.print(" | ".join([totals(sweep), *first]), soft_wrap=True)

    def _rows(self, sweep: Sweep) -> list[Any]:
        found = working(sweep)
        fit = max(1, self.console.height - MARGIN)
        table = Table(box=None, pad_edge=False, show_header=bool(found), header_style="bold")
        table.add_column("runs", overflow="fold")  # where the room is short, a long name takes two lines and nothing is lost
        for title in ("task", "doing", "left"):
            table.add_column(title, overflow="ellipsis", no_wrap=True)
        for entry in found[:fit]:
            task, doing, left = cells(entry)
            table.add_row(entry.run.name, task.removeprefix("task "), doing, left.removesuffix(" left"))
        return [table, *([Text(f"and {len(found) - fit} more")] if len(found) > fit else [])]


def working(sweep: Sweep) -> list[Entry]:
    """The runs whose workers have been seen at work."""
    return [entry for entry in sweep.state("running") if entry.status]


def cells(entry: Entry) -> list[str]:
    """Task, phase and step, and time left of a run."""
    status = entry.status
    left = f"{duration(status['left'])} left" if status["left"] else ""  # 0 while the last task is scored
    return [f"task {status['task']}/{status['tasks']} {status['name']}", str(status["doing"]), left]


def totals(sweep: Sweep) -> str:
    """How many are done, run, wait and failed, and how long still."""
    runs, failed = len(working(sweep)), len(sweep.state("failed"))
    waits = len(sweep.state("waiting", "running")) - runs
    words = [f"{len(sweep.state('done'))} of {len(sweep.entries)} done", f"{runs} running", f"{waits} waiting"]
    words += [f"{failed} failed"] if failed else []
    left = sweep.left()
    return "sweep: " + ", ".join(words) + (f", about {duration(left)} left" if left else "")
