"""`perdure report`: page, tables and figures of runs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import print_json
from perdure.core.errors import UsageError

EXAMPLE = "perdure report runs/toy"


@dataclass(frozen=True)
class Options:
    """Write report.html, tables (Markdown, LaTeX, CSV, JSON) and figures (SVG, PNG) of any number of runs on one stream."""

    runs: Annotated[tuple[str, ...], arg(metavar="RUN ...", help_behavior_hint="")]
    """Run folders, or folders that hold run folders."""
    out: Annotated[str, arg(metavar="DIR", help_behavior_hint="")] = ""
    """Where to write; default: the folder given, or the one that holds all folders given."""
    title: Annotated[str, arg(help_behavior_hint="")] = ""
    """Heading of the page."""
    label: Annotated[tuple[str, ...], arg(metavar="RUN=LABEL ...", help_behavior_hint="")] = ()
    """Rows of their own for one method in several settings; RUN is a folder given, or one below it."""
    baseline: Annotated[str, arg(metavar="ROW", help_behavior_hint="")] = ""
    """The row that all others are compared with, paired by seed; default: finetune, or the lowest."""
    unfinished: bool = False
    """Also take runs that are not finished; what they lack is not defined. Else those found below a folder are left out."""
    json: bool = False
    """Print the table as JSON instead of Markdown."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "report", EXAMPLE, "perdure report runs/demo/er runs/demo/packnet --out reports/two")
    options = parse(Options, argv, "report", EXAMPLE)
    if not options.runs:
        raise UsageError(f"perdure report needs at least one run folder; example: {EXAMPLE}")
    from perdure.report import tables
    from perdure.report.write import write_report

    out = Path(options.out) if options.out else _home(options.runs)
    done = write_report([Path(run) for run in options.runs], out, unfinished=options.unfinished,
                        labels=_labels(options.label), title=options.title, baseline=options.baseline)
    if options.json:
        print_json(tables.json_table(done.table))
        return 0
    Console(width=None if sys.stdout.isatty() else 100).print(tables.terminal(done.table))
    print(f"\nall columns: {done.page.parent / 'table.md'}\npage: {done.page}")
    return 0


def _labels(given: tuple[str, ...]) -> dict[str, str]:
    """Folder -> label; the folders are spelled as paths, as those of the runs are."""
    labels = {}
    for pair in given:
        folder, sign, label = pair.rpartition("=")
        if not (sign and folder and label):
            raise UsageError(f"--label is '{pair}'; give RUN=LABEL, such as {EXAMPLE.split()[-1]}=small")
        labels[str(Path(folder))] = label
    return labels


def _home(runs: tuple[str, ...]) -> Path:
    """The folder given, or the deepest one that holds all of them."""
    missing = [run for run in runs if not Path(run).is_dir()]
    if missing:
        raise UsageError(f"{missing[0]} is no folder; give a run folder or a folder that holds run folders")
    return Path(runs[0]) if len(runs) == 1 else Path(os.path.commonpath([os.path.abspath(run) for run in runs]))
