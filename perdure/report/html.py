"""The report as one page: self-contained, opens offline, no script, no request; every name is escaped."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape

from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.core.intervals import LEAST_SEEDS, RESAMPLES
from perdure.core.metrics import DEFINITIONS
from perdure.core.task import in_python
from perdure.core.words import duration
from perdure.report.clips import MOMENTS, Clip
from perdure.report.collect import Collection, Group, RunResult
from perdure.report.drawing import Picture
from perdure.report.figures import styles
from perdure.report.model import (
    Column,
    Row,
    Table,
    episode_range,
    number,
    remarks,
    scale,
    show,
)
from perdure.report.style import CSS
from perdure.report.tables import difference_text
from perdure.report.words import is_reference, summary

PICTURES_LIMIT = 3 * 2**20
"""Most bytes of figures in the page (before base64), which keeps it below 5 MB without clips."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: a browser then refuses any request, whatever a name in a run says."""


def page(
    collection: Collection,
    table: Table,
    images: Sequence[tuple[Picture, str, bytes]],
    clips: Sequence[Clip] = (),
    left_out: Sequence[str] = (),
    title: str = "",
) -> str:
    """The HTML text.

    Args:
        images: figure, media type and encoded bytes, in the order of `figures.pictures`.
        clips: clips to embed; `left_out` are sentences about those that were not.
        title: heading; the stream's name if empty.
    """
    heading = title or f"Continual learning on {collection.first.stream}"
    shown = _figures(images)
    matrices = [shown[picture.name] for picture, _, _ in images if picture.name.startswith("matrix-")]
    sections = [
        ("results", "Results", _results(collection, table)),
        ("stream", "Over the stream", shown["curves"] + shown["tasks-seen"]),
        ("tasks", "Task by task", shown["retention"] + _task_table(collection) + _returns(collection, table)),
        ("matrices", "Score matrices", _matrices(collection, matrices)),
        ("leaning", "Which task leans on which", _all(shown, "leaning-")),
        ("dreams", "What is replayed", _all(shown, "dreams-")),
        ("footprint", "Footprint and protocol", _footprint(collection, table)),
        ("cost", "What it costs", shown["cost"] + _phases(collection)),
        ("clips", "Clips", _clips(clips, left_out)),
        ("definitions", "What the numbers mean", _definitions(collection)),
        ("repeat", "To repeat it", _repeat(collection)),
    ]
    kept = [(key, name, body) for key, name, body in sections if body]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in kept)
    bodies = "".join(f'<section id="{key}"><h2>{name}</h2>{body}</section>' for key, name, body in kept)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{CSS}</style></head><body>"
        f'<header><p class="kicker">perdure report</p><h1>{escape(heading)}</h1>'
        f'<p class="meta">{escape(_meta(collection))}</p>'
        f'<p class="lead">{escape(summary(collection, table))}</p>{_warnings(table)}<nav>{links}</nav>'
        f"{_cards(collection, table)}</header><main>{bodies}</main>"
        "<footer>Made by perdure from the score matrices of the runs. This page needs no network.</footer>"
        "</body></html>\n"
    )


def _all(shown: Mapping[str, str], start: str) -> str:
    """The figures whose names begin so."""
    return "".join(figure for name, figure in shown.items() if name.startswith(start))


def _meta(collection: Collection) -> str:
    first = collection.first
    tasks = ", ".join(first.tasks[:6]) + (f" and {first.n - 6} more" if first.n > 6 else "")
    return (
        f"{first.stream}, version {first.stream_version} · {first.n} tasks: {tasks} · score: {scale(first)}"
    )


def _warnings(table: Table) -> str:
    return "".join(f'<p class="warning">{escape(notice)}</p>' for notice in table.notices)


def _tone(collection: Collection, name: str) -> str:
    return f"--tone: {styles(collection)[name][0]}"


def _cards(collection: Collection, table: Table) -> str:
    cards = []
    score = collection.first.score
    for group, row in zip(collection.groups, table.rows, strict=True):
        result, forgetting = row.entries["average_performance"].summary, row.entries["forgetting"].summary
        part = (result.mean - score["low"]) / (score["high"] - score["low"]) if result else 0
        big = f'<div class="big">{number(result.mean, "score")}</div>' if result else _none("not defined")
        lost = f"forgetting {number(forgetting.mean, 'score')}" if forgetting else "forgetting not defined"
        role = "reference · " if is_reference(group) else ""
        cards.append(
            f'<div class="card" style="{_tone(collection, row.name)}">'
            f'<div class="name">{escape(row.name)}</div>{big}'
            f'<div class="bar"><i style="--part: {100 * min(max(part, 0), 1):.1f}%"></i></div>'
            f'<div class="small">{role}{lost}</div></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _none(words: str) -> str:
    return f'<div class="big none">{words}</div>'


# -- tables -------------------------------------------------------------------------------------------


def _results(collection: Collection, table: Table) -> str:
    note = '<p class="note">Best average performance first. Every name is defined below, with its source.</p>'
    differences = ""
    if table.differences:
        lines = [f"{d.row} − {d.baseline}: {difference_text(d.summary)}" for d in table.differences]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        differences = (
            f"<h3>Average performance, differences paired by seed</h3><ul class='notes'>{items}</ul>"
        )
    own = [line for line in remarks(table) if line not in table.notices]
    notes = "".join(f"<li>{escape(line)}</li>" for line in own)
    return note + _table(collection, table, "results") + f"<ul class='notes'>{notes}</ul>" + differences


def _table(collection: Collection, table: Table, section: str) -> str:
    columns = table.section(section)
    head = "".join(f"<th scope='col'>{escape(column.title)}</th>" for column in columns)
    rows = "".join(
        f"<tr>{_name(collection, row.name)}{''.join(_cell(row, column) for column in columns)}</tr>"
        for row in table.rows
    )
    return (
        f"<div class='scroll'><table><thead><tr><th scope='col'>method</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _name(collection: Collection, name: str) -> str:
    return f'<th scope="row"><span class="chip" style="{_tone(collection, name)}"></span>{escape(name)}</th>'


def _cell(row: Row, column: Column) -> str:
    entry = row.entries[column.key]
    text = show(entry, column)
    if entry.summary is None:
        reason = f' title="{escape(entry.reason)}"' if entry.reason else ""
        return f"<td{reason}{'' if entry.words else ' class=none'}>{escape(text)}</td>"
    mean = show(entry, column, spread=False)
    spread = text.removeprefix(mean).strip()
    below = f'<span class="spread">{escape(spread)}</span>' if spread else ""
    singles = "; ".join(f"seed {seed}: {value:.4g}" for seed, value in entry.summary.by_seed)
    mean = f"<b>{escape(mean)}</b>" if column.key == "average_performance" else escape(mean)
    return f'<td title="{escape(singles)}">{mean}{below}</td>'


def _task_table(collection: Collection) -> str:
    """Right after learning and at the end, with the interval over all episodes of all seeds at the end."""
    head = "".join(f"<th scope='col'>{escape(group.name)}</th>" for group in collection.groups)
    rows = []
    for task, name in enumerate(collection.first.tasks):
        cells = "".join(_task_cell(group, task) for group in collection.groups)
        rows.append(f"<tr><th scope='row'>{escape(name)}</th>{cells}</tr>")
    note = (
        "<p class='note'>Right after learning → at the end of the stream, mean over seeds. Below: 95 % "
        "Wilson interval of the end over the episodes of all seeds, where the score is success.</p>"
    )
    return (
        f"<h3>Right after learning and at the end</h3>{note}<div class='scroll'><table><thead><tr>"
        f"<th scope='col'>task</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _returns(collection: Collection, table: Table) -> str:
    return "<h3>Returns after the last task</h3>" + _table(collection, table, "returns") if table.section("returns") else ""


def _task_cell(group: Group, task: int) -> str:
    first = _mean(group, task + 1, task)
    last = _mean(group, group.first.n, task)
    interval = episode_range([run.matrix for run in group.runs], group.first.n, [task])
    below = f'<span class="spread">[{interval.low:.2f}, {interval.high:.2f}]</span>' if interval else ""
    return f"<td>{first} → <b>{last}</b>{below}</td>"


def _mean(group: Group, learned: int, task: int) -> str:
    values = [value for run in group.runs if (value := run.matrix.mean(learned, task)) is not None]
    return f"{sum(values) / len(values):.2f}" if len(values) == len(group.runs) else "–"


def _footprint(collection: Collection, table: Table) -> str:
    return (
        _table(collection, table, "footprint") + "<h3>Protocol</h3>" + _table(collection, table, "protocol")
    )


def _phases(collection: Collection) -> str:
    """Where the training time of the first seed goes, of methods that train in more than one phase."""
    lines = []
    for group in collection.groups:
        spent = group.runs[0].phases
        whole = sum(spent.values())
        if len(spent) > 1 and whole > 0:
            parts = ", ".join(f"{phase} {100 * seconds / whole:.0f} %" for phase, seconds in spent.items())
            lines.append(f"<li>{escape(f'{group.name}: {parts} of {duration(whole)}')}</li>")
    return f"<h3>CPU time of training by phase</h3><ul class='notes'>{''.join(lines)}</ul>" if lines else ""


# -- pictures -----------------------------------------------------------------------------------------


def _figures(images: Sequence[tuple[Picture, str, bytes]]) -> dict[str, str]:
    """Figure name -> HTML; beyond the limit a figure is named instead of shown."""
    shown, used = {}, 0
    for picture, kind, content in images:
        used += len(content)
        caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
        if used > PICTURES_LIMIT:
            used -= len(content)
            left = f"figures/{picture.name}.svg was left out of the page to keep it small."
            shown[picture.name] = f"<p class='note'>{left}</p>"
            continue
        source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        image = f'<img src="{source}" alt="{escape(picture.alt)}">'
        shown[picture.name] = f"<figure>{image}{caption}</figure>"
    return shown


def _matrices(collection: Collection, figures: list[str]) -> str:
    note = (
        "<p class='note'>Row: how much of the stream was learned. Column: the task evaluated. Diagonal and "
        "last row use all final goals (of tasks with data only: all held-out episodes), the other cells the first of them.</p>"
    )
    wide = " wide" if collection.first.n > 6 else ""
    return f"{note}<div class='matrices{wide}'>{''.join(figures)}</div>"


def _clips(clips: Sequence[Clip], left_out: Sequence[str]) -> str:
    """Clips by method and task, in the order before, after learning, end of stream."""
    parts = []
    for row in dict.fromkeys(clip.row for clip in clips):
        strips = []
        for task in dict.fromkeys(clip.task for clip in clips if clip.row == row):
            own = [clip for clip in clips if (clip.row, clip.task) == (row, task)]
            own.sort(key=lambda clip: MOMENTS.index(clip.when) if clip.when in MOMENTS else len(MOMENTS))
            strips.append(
                f"<div><h4>{escape(task)}</h4><div class='strip'>{''.join(map(_clip, own))}</div></div>"
            )
        parts.append(f"<h3>{escape(row)}</h3><div class='clips'>{''.join(strips)}</div>")
    parts += [f"<p class='note'>{escape(sentence)}</p>" for sentence in left_out]
    return "".join(parts)


def _clip(clip: Clip) -> str:
    result = {
        True: ' · <span class="yes">success</span>',
        False: ' · <span class="no">no success</span>',
        None: "",
    }
    alt = escape(f"{clip.row} on {clip.task}, {clip.when}")
    caption = f"<figcaption>{escape(clip.when)}{result[clip.success]}</figcaption>"
    return f'<figure><img src="{clip.source}" alt="{alt}" loading="lazy">{caption}</figure>'


# -- definitions and repetition -----------------------------------------------------------------------


def _definitions(collection: Collection) -> str:
    note = (
        "<p class='note'>a[k, j] is the mean score of task j after k of the N tasks were learned; row 0 is "
        "before any. Differences compare the same goals on both sides. What cannot be computed is “not "
        "defined”, never 0.</p>"
    )
    items = "".join(
        f"<dt>{escape(d.title)}</dt><dd>{escape(d.formula.replace(' - ', ' − '))}"
        f'<span class="source">{escape(d.source)}; '
        f"{'higher' if d.good > 0 else 'lower'} is better</span></dd>"
        for d in DEFINITIONS.values()
    )
    intervals = (
        f"<dt>intervals</dt><dd>Over seeds: percentile bootstrap of the mean, {RESAMPLES:,} resamples, 95 %, "
        f"with at least {LEAST_SEEDS} seeds; with fewer the single values are shown. Over episodes: Wilson."
        '<span class="source">Wilson 1927, doi 10.2307/2276774</span></dd>'
    )
    return f"{note}<dl><dt>score</dt><dd>{escape(scale(collection.first))}</dd>{items}{intervals}</dl>"


def _repeat(collection: Collection) -> str:
    rows = "".join(
        f"<tr>{_name(collection, group.name)}<td>{run.seed}</td>"
        f"<td><code>{escape(run.matrix.config_hash)}</code></td>"
        f"<td class='text'>{escape(_versions(run.environment))}</td><td class='text'>"
        f"<code>{escape(_command(run))}</code></td></tr>"
        for group in collection.groups
        for run in group.runs
    )
    data = "".join(
        f"<tr><th scope='row'>{escape(entry['task'])}</th><td>{escape(entry['quality'])}</td>"
        f"<td class='text'><code>{escape(entry['digest'])}</code></td></tr>"
        for entry in collection.first.data
    )
    datasets = (
        "<h3>Data</h3><div class='scroll'><table><thead><tr><th>task</th><th>quality</th>"
        f"<th class='text'>digest</th></tr></thead><tbody>{data}</tbody></table></div>"
    )
    return (
        "<p class='note'>The same configuration, versions, machine type and thread count give the same "
        "scores, bit for bit.</p><div class='scroll'><table><thead><tr><th>method</th><th>seed</th>"
        "<th>config</th><th class='text'>versions</th><th class='text'>command</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>" + (datasets if data else "")
    )


def _command(run: RunResult) -> str:
    path = run.folder / "config.json"
    with suppress(UsageError, OSError):
        config = read_json(path)
        if isinstance(config, dict) and in_python(str(config.get("stream")), config.get("stream_options")):
            return "the same call of perdure.run"
    return f"perdure run --from {shlex.quote(str(path))}"


def _versions(environment: dict[str, object]) -> str:
    versions = environment.get("versions")
    if not isinstance(versions, dict):
        return "not recorded"
    first = [name for name in ("perdure", "python", "torch", "numpy") if name in versions]
    return ", ".join(f"{name} {versions[name]}" for name in first)
