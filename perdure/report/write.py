"""Write a report: page, tables and figures of any number of run folders, each file whole or absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.core.errors import UsageError
from perdure.core.files import json_bytes, write_atomic
from perdure.report import figures, tables
from perdure.report.clips import clips
from perdure.report.collect import Collection, collect
from perdure.report.html import page
from perdure.report.model import Table, build

LARGE_SVG = 150_000
"""Bytes from which the page shows a figure as PNG: a matrix of 20 tasks is smaller that way."""


@dataclass(frozen=True)
class Report:
    """What was written: the page, all files, and the table for the terminal."""

    page: Path
    files: tuple[Path, ...]
    table: Table
    collection: Collection


def write_report(
    folders: Sequence[Path | str],
    out: Path | str,
    *,
    unfinished: bool = False,
    labels: Mapping[str, str] | None = None,
    title: str = "",
    baseline: str = "",
) -> Report:
    """Write report.html, table.md|tex|csv|json and figures/*.svg|png into the folder `out`.

    Args:
        folders: run folders or parents of run folders.
        out: made if missing; files of an earlier report are replaced.
        unfinished, labels: as in `collect`.
        title: heading of the page.
        baseline: as in `build`.

    Raises:
        UsageError: from `collect` or `build`, or `out` cannot be written.
    """
    out = Path(out)
    collection = collect(folders, unfinished=unfinished, labels=labels)
    table = build(collection, baseline)
    shown, left_out = clips(collection)
    content: dict[str, bytes] = {}
    images = []
    for picture in figures.pictures(collection):
        svg, png = figures.encode(picture, "svg"), figures.encode(picture, "png")
        content[f"figures/{picture.name}.svg"], content[f"figures/{picture.name}.png"] = svg, png
        large = len(svg) > LARGE_SVG and len(png) < len(svg)
        images.append((picture, "image/png", png) if large else (picture, "image/svg+xml", svg))
    content["table.md"] = tables.markdown(table).encode(errors="replace")
    content["table.tex"] = tables.latex(table).encode(errors="replace")
    content["table.csv"] = tables.csv_text(table).encode(errors="replace")
    content["table.json"] = json_bytes(tables.json_table(table))
    content["report.html"] = page(collection, table, images, shown, left_out, title).encode(errors="replace")
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            write_atomic(out / name, data)
    except OSError as problem:
        raise UsageError(
            f"{out} cannot be written ({problem.strerror}); choose another folder with --out"
        ) from None
    return Report(out / "report.html", tuple(out / name for name in content), table, collection)
