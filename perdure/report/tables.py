"""Renderings of the one table: terminal (rich), Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

from perdure.core.intervals import Interval, Summary
from perdure.report.model import (
    UNDEFINED,
    Column,
    Entry,
    Row,
    Table,
    number,
    remarks,
    show,
)

if TYPE_CHECKING:
    import rich.console

TERMINAL = {
    "average_performance": "Average\nperformance",
    "forgetting": "\nForgetting",
    "forward_transfer": "Forward tr.\n(area)",
    "parameters": "\nParams",
    "memory_bytes": "Memory\nkept",
    "environment_steps": "Env\nsteps",
    "train_seconds": "\nTraining",
}
"""Columns that fit into 100 characters, with their heads; the files hold all columns."""

PROTOCOL = ("heads", "normaliser", "task_id", "past_data")


def terminal(table: Table) -> rich.console.Group:
    """The table and its remarks for `rich.console.Console.print`; fits into 100 characters."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("\nMethod", overflow="fold", min_width=11)
    shown.add_column("\nSeeds", justify="right")
    columns = [column for column in table.columns if column.key in TERMINAL]
    for column in columns:
        shown.add_column(TERMINAL[column.key], justify="right", no_wrap=True)
    for row in table.rows:
        # Single values of 2 to 4 seeds would not fit; they are in the files.
        cells = [_terminal_cell(row, column) for column in columns]
        shown.add_row(Text(row.name), str(len(row.seeds)), *map(Text, cells))
    below = "\n".join([*_return_line(table), *protocol_lines(table), *remarks(table)])
    return Group(Text(table.title, style="bold"), shown, Text(below, style="dim"))


def _return_line(table: Table) -> list[str]:
    """Raw returns in one sentence, where episodes go on after success: they are not a column that would fit."""
    column = next((column for column in table.columns if column.key == "raw_return"), None)
    if column is None:
        return []
    values = ", ".join(f"{row.name} {show(row.entries[column.key], column, spread=False)}" for row in table.rows)
    return [f"{column.title.capitalize()}: {values}."]


def _terminal_cell(row: Row, column: Column) -> str:
    entry = row.entries[column.key]
    difference = row.entries["forward_transfer_difference"].summary
    if column.key == "forward_transfer" and entry.summary is None and difference:
        return f"{UNDEFINED}\n(area {number(difference.mean, 'signed')})"
    return show(entry, column, spread=entry.interval is not None and column.key == "average_performance")


def protocol_lines(table: Table) -> list[str]:
    """The protocol in one sentence if all rows share it, else one for each group of rows that do."""
    titles = {column.key: column.title for column in table.columns}
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        words = ", ".join(f"{titles[key]} {row.entries[key].words}" for key in PROTOCOL)
        rows.setdefault(words, []).append(row.name)
    if len(rows) == 1:
        return [f"Protocol: {words}." for words in rows]
    return [f"Protocol of {', '.join(names)}: {words}." for words, names in rows.items()]


# -- Markdown -----------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """Two GitHub-flavoured tables (results, footprint and protocol) and the remarks."""
    parts = [
        f"**{_md(table.title)}**",
        _md_table(table, "results"),
        _md_table(table, "footprint", "protocol"),
    ]
    if table.section("returns"):
        parts.append("Returns after the last task:\n\n" + _md_table(table, "returns"))
    if table.differences:
        lines = ["Average performance, difference paired by seed:", ""]
        lines += [
            f"- {_md(d.row)} minus {_md(d.baseline)}: {difference_text(d.summary)}" for d in table.differences
        ]
        parts.append("\n".join(lines))
    notes = remarks(table)
    if notes:
        parts.append("\n".join(f"- {_md(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def difference_text(summary: Summary) -> str:
    """A paired difference with its interval over seeds, or its single values."""
    text = number(summary.mean, "signed")
    seeds = f"{len(summary.values)} seed{'s' if len(summary.values) > 1 else ''}"
    if summary.interval:
        low, high = number(summary.interval.low, "signed"), number(summary.interval.high, "signed")
        return f"{text} [{low}, {high}], {seeds}"
    if len(summary.values) > 1:
        return f"{text} ({', '.join(number(value, 'signed') for value in summary.values)}), {seeds}"
    return f"{text}, {seeds}"


def _md_table(table: Table, *sections: str) -> str:
    columns = table.section(*sections)
    lines = ["| Method | " + " | ".join(_md(column.short) for column in columns) + " |"]
    lines.append("|:--|" + "--:|" * len(columns))
    for row in table.rows:
        cells = [_md(show(row.entries[column.key], column)) for column in columns]
        lines.append(f"| {_md(row.name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line, inside a table too."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\|`*_])", r"\\\1", flat)
    return re.sub(r"\](?=[(\[:])|\[(?![+\d\N{MINUS SIGN}])", r"\\\g<0>", flat)


# -- LaTeX --------------------------------------------------------------------------------------------

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",
    "]": "{]}",
    "|": r"\textbar{}",
    "\N{MINUS SIGN}": "$-$",
    "ᵉ": "$^{e}$",
}


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is; square brackets are wrapped, as a row may begin with one."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def latex(table: Table) -> str:
    """A `table*` with results and a second with footprint and protocol; needs the package booktabs."""
    notes = " ".join(latex_escape(note) for note in remarks(table))
    title = latex_escape(table.title)
    results = _latex_table(table, table.section("results"), f"Results. {title}.", notes)
    columns = table.section("footprint", "protocol")
    footprint = _latex_table(table, columns, f"Footprint and protocol. {title}.", "")
    return "% needs \\usepackage{booktabs,graphicx}\n" + results + "\n" + footprint


def _latex_table(table: Table, columns: tuple[Column, ...], caption: str, notes: str) -> str:
    head = " & ".join(["Method", *(latex_escape(column.short) for column in columns)])
    lines = [
        " & ".join([latex_escape(row.name), *(latex_escape(show(row.entries[c.key], c)) for c in columns)])
        + r" \\"
        for row in table.rows
    ]
    body = "\n".join([r"\toprule", head + r" \\", r"\midrule", *lines, r"\bottomrule"])
    return (
        "\\begin{table*}\n\\centering\n\\resizebox{\\textwidth}{!}{%\n"
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}\n{body}\n\\end{{tabular}}}}\n"
        f"\\caption{{{caption}}}\n"
        + (f"\\par\\raggedright\\footnotesize {notes}\n" if notes else "")
        + "\\end{table*}\n"
    )


# -- CSV and JSON -------------------------------------------------------------------------------------


def csv_text(table: Table) -> str:
    """Full precision, one row per method; for each number its mean, interval, single values and reason."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["method"]
    for column in table.columns:
        head.append(column.key)
        if column.kind != "text":
            head += [f"{column.key}_{part}" for part in ("low", "high", "interval_over", "by_seed", "reason")]
    writer.writerow(head)
    for row in table.rows:
        cells: list[str | float] = [_safe(row.name)]
        for column in table.columns:
            cells += _csv_cells(row.entries[column.key], column)
        writer.writerow(cells)
    return out.getvalue()


def _csv_cells(entry: Entry, column: Column) -> list[str | float]:
    if column.kind == "text":
        return [_safe(entry.words)]
    if entry.summary is None:
        return ["", "", "", "", "", _safe(entry.reason)]
    by_seed = "; ".join(f"{seed}: {value!r}" for seed, value in entry.summary.by_seed)
    low, high, over = _ends(entry.interval)
    return [entry.summary.mean, low, high, over, by_seed, ""]


def _ends(interval: Interval | None) -> tuple[float | str, float | str, str]:
    return (interval.low, interval.high, interval.kind) if interval else ("", "", "")


def _safe(text: str) -> str:
    """Text that a spreadsheet does not run as a formula (OWASP, CSV injection): a quote disarms it."""
    flat = " ".join(text.split())
    return "'" + flat if flat.startswith(("=", "+", "-", "@", "\N{MINUS SIGN}")) else flat


def json_table(table: Table) -> dict[str, Any]:
    """The whole table as plain values."""
    return {
        "format": 1,
        "title": table.title,
        "columns": [
            {"key": c.key, "title": c.title, "kind": c.kind, "section": c.section} for c in table.columns
        ],
        "rows": [
            {
                "method": row.name,
                "seeds": list(row.seeds),
                "entries": {
                    column.key: _json_entry(row.entries[column.key], column) for column in table.columns
                },
            }
            for row in table.rows
        ],
        "differences": [
            {"method": d.row, "baseline": d.baseline, **_json_summary(d.summary, d.summary.interval)}
            for d in table.differences
        ],
        "remarks": remarks(table),
    }


def _json_entry(entry: Entry, column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": show(entry, column)}
    if entry.summary:
        shown |= _json_summary(entry.summary, entry.interval)
    if entry.reason:
        shown["reason"] = entry.reason
    if entry.notes:
        shown["notes"] = list(entry.notes)
    return shown


def _json_summary(summary: Summary, interval: Interval | None) -> dict[str, Any]:
    low, high, over = _ends(interval)
    return {
        "mean": summary.mean,
        "interval": {"low": low, "high": high, "over": over} if interval else None,
        "by_seed": {str(seed): value for seed, value in summary.by_seed},
    }
