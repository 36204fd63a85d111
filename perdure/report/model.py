"""The one table behind every rendering: rows, columns, entries with their values, and words for numbers.

Terminal, Markdown, LaTeX, CSV, JSON and HTML all show this table, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perdure.core.intervals import Interval, Summary, summarise, wilson
from perdure.core.matrix import COUNTS, ScoreMatrix
from perdure.core.metrics import DEFINITIONS
from perdure.report import reading
from perdure.report.collect import Collection, Group, RunResult, same_data
from perdure.report.compare import Difference, differences, normalised

UNDEFINED = "not defined"
"""What is printed for a metric without a value; never 0."""


@dataclass(frozen=True)
class Column:
    """`kind` says how numbers are written: score, signed, count, bytes, seconds or text."""

    key: str
    title: str
    short: str
    kind: str
    section: str


@dataclass(frozen=True)
class Entry:
    """One cell of the table: a summary over seeds, or a text, or neither and the reason."""

    summary: Summary | None = None
    interval: Interval | None = None
    words: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    name: str
    seeds: tuple[int, ...]
    entries: dict[str, Entry]


@dataclass(frozen=True)
class Table:
    """Results and footprint of all rows, best average performance first."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    data: tuple[str, ...]
    """Sentences about the data that were learned from."""
    notices: tuple[str, ...]

    def section(self, *names: str) -> tuple[Column, ...]:
        """Columns of the sections "results", "footprint" or "protocol"."""
        return tuple(column for column in self.columns if column.section in names)


SHORT = {
    "average_performance": "Average performance",
    "forgetting": "Forgetting",
    "forgetting_max": "Forgetting (max - end)",
    "backward_transfer": "Backward transfer",
    "forward_transfer": "Forward transfer (area)",
    "forward_transfer_difference": "Area difference",
    "forward_transfer_zero_shot": "Forward transfer (zero-shot)",
    "intransigence": "Intransigence",
}

UNSIGNED = ("average_performance", "forgetting", "forgetting_max")
"""Written without a plus sign: their positive values are the usual ones."""

RESULTS = tuple(
    Column(key, definition.title, SHORT[key], "score" if key in UNSIGNED else "signed", "results")
    for key, definition in DEFINITIONS.items()
)

NORMALISED = Column("normalised", "mean over tasks of (end - untrained) / (independent - untrained)", "Of independent", "score",
                    "results")

RAW_RETURN = Column("raw_return", "raw return at the end, mean over tasks", "Raw return", "score", "results")

NEXT_TASK = Column("next_task", "score on the next task by its description alone, before its data", "Next task, by its words",
                   "score", "results")

DREAMS = (
    Column("dream_distance", "distance of dreams to held-out data at the end, in deviations", "Distance of dreams", "score",
           "results"),
    Column("dream_coverage", "share of held-out data that dreams cover at the end", "Covered by dreams", "score", "results"),
)

ACTION_ERROR = Column("action_error", "held-out action error at the end", "Action error", "score", "results")

TIMES = ("train_seconds", "train_cpu_seconds")
"""Of environment.json."""

OPTIONAL = ("used_parameters", "copies", "modules", "train_cpu_seconds")
"""Columns that are left out where no run has recorded them."""

FOOTPRINT = (
    Column("seeds", "seeds", "Seeds", "text", "footprint"),
    Column("parameters", "parameters, total", "Parameters", "count", "footprint"),
    Column("used_parameters", "parameters that some task acts with", "Parameters used", "count", "footprint"),
    Column("copies", "sets of the policy's weights", "Copies", "count", "footprint"),
    Column("modules", "tasks with a module of their own", "Modules", "count", "footprint"),
    Column("parameters_per_task", "parameters added per task", "Parameters per task", "text", "footprint"),
    Column("memory_bytes", "memory of past data", "Memory kept", "bytes", "footprint"),
    Column("agent_bytes", "agent on disk", "Agent on disk", "bytes", "footprint"),
    Column(
        "environment_steps", "environment steps used outside evaluation", "Env steps", "count", "footprint"
    ),
    Column("train_seconds", "training, wall time", "Training", "seconds", "footprint"),
    Column("train_cpu_seconds", "training, CPU time", "Training, CPU", "seconds", "footprint"),
    Column("policy", "policy, profile", "Policy", "text", "protocol"),
    Column("heads", "heads", "Heads", "text", "protocol"),
    Column("normaliser", "normaliser", "Normaliser", "text", "protocol"),
    Column("task_id", "task id at test", "Task id", "text", "protocol"),
    Column("past_data", "goes back to past data", "Past data", "text", "protocol"),
)


def build(collection: Collection, baseline: str = "") -> Table:
    """The table of a collection of runs.

    Args:
        baseline: the row that the others are compared with; empty: `finetune`, or the lowest.

    Raises:
        UsageError: there is no row of that name.
    """
    first = collection.first
    rows = tuple(_row(group, collection) for group in collection.groups)
    errors = any(run.matrix.action_error for run in collection.runs)
    returns = first.score["kind"] == "success" and any(reading.raw_return(run) is not None for run in collection.runs)
    seen = [column for column in FOOTPRINT if column.key not in OPTIONAL or _known(rows, column.key)]
    worded = any(run.matrix.footprint.get("from_words") for run in collection.runs)
    sometimes = ((NORMALISED, _known(rows, "normalised")), (NEXT_TASK, worded),
                 (RAW_RETURN, returns), *((column, _known(rows, column.key)) for column in DREAMS), (ACTION_ERROR, errors))
    columns = (*RESULTS, *(column for column, wanted in sometimes if wanted), *seen, *returns_columns(collection))
    title = f"{first.stream}, version {first.stream_version}: {len(first.tasks)} tasks, score: {scale(first)}"
    scored = {row.name: row.entries["average_performance"].summary for row in rows}
    return Table(title, columns, rows, differences(scored, baseline), _data(collection), collection.notices)


def _known(rows: Sequence[Row], key: str) -> bool:
    return any(row.entries[key].summary for row in rows)


def _data(collection: Collection) -> tuple[str, ...]:
    """The mean score of the behaviour in the data of every task, where runs say it; of which rows, if their data differ."""
    kinds: list[list[Group]] = []
    for group in collection.groups:
        kind = next((kind for kind in kinds if same_data(kind[0].first, group.first)), [])
        kinds += [] if kind else [kind]
        kind.append(group)
    lines = []
    for kind in kinds:
        whose = f" of {', '.join(group.name for group in kind)}" if len(kinds) > 1 else ""
        means = next((means for group in kind for run in group.runs if (means := _means(run))), "")
        lines += [f"Mean score of the data{whose}: {means}."] if means else []
    return tuple(lines)


def _means(run: RunResult) -> str:
    """Task and mean score of its data, of every task; nothing where one of them is not known."""
    known = [f"{entry['task']} {number(entry['mean_score'], 'score')}" for entry in run.matrix.data if "mean_score" in entry]
    return ", ".join(known) if len(known) == len(run.matrix.data) else ""


def returns_columns(collection: Collection) -> tuple[Column, ...]:
    """Raw return of every task after the last one, where episodes have one, and of games that count points the clipped one."""
    points = _have(collection, True) and _whole(collection)
    kinds = [("raw", "raw return"), ("clipped", "clipped return, the sum of the rewards' signs")][: 1 + points]
    return tuple(
        Column(f"{key}:{task}", f"{words}, {task}", f"{task}, {key}", "score", "returns")
        for task in (collection.first.tasks if _have(collection, False) else ()) for key, words in kinds
    )  # fmt: skip


def _have(collection: Collection, clipped: bool) -> bool:
    """Whether a run has the return of every task; where episodes end with success only failed ones have any."""
    return any(not np.isnan(run.matrix.raw_returns(clipped)[-1]).any() for run in collection.runs)


def _whole(collection: Collection) -> bool:
    """Whether every return after the last task is a whole number; the signs of other rewards say little."""
    cells = [run.matrix.cells[place] for run in collection.runs for place in run.matrix.cells if place[0] == run.matrix.n]
    return all(float(episode.raw_return or 0).is_integer() for cell in cells for episode in cell.episodes)


def scale(matrix: ScoreMatrix) -> str:
    """The score in words, such as "success (latched success), 0 to 1"."""
    score = matrix.score
    kind, low, high = score["kind"], score["low"], score["high"]
    source = f" ({score['source']})" if score["source"] else ""
    if kind == "success":
        return f"success{source}, 0 to 1"
    if kind == "action_error":
        return f"action fit{source}, 1 where actions have no error, 0 where they err as the best constant one does"
    ends = "" if (low, high) == (0, 1) else f" 0 is a raw return of {low:g}, 1 one of {high:g};"
    return f"{kind}{source},{ends} may lie outside 0 to 1"


def _row(group: Group, collection: Collection) -> Row:
    first = group.first
    entries = {key: _metric_entry(group, key) for key in DEFINITIONS}
    entries["action_error"] = _numbers(group, reading.action_error, "no held-out action error was measured")
    values, reason, notes = normalised(group, collection.groups)
    entries["normalised"] = Entry(summarise(values), reason=reason, notes=notes)
    entries["next_task"] = _numbers(group, reading.next_task, "it does not act by descriptions alone")
    entries["raw_return"] = _numbers(group, reading.raw_return, "its episodes end at their first success")
    for key in ("distance", "coverage"):
        entries[f"dream_{key}"] = _numbers(group, reading.dreams(key), "it dreams of no earlier task")
    for task, name in enumerate(first.tasks):
        for key in ("raw", "clipped"):
            entries[f"{key}:{name}"] = _numbers(group, reading.task_return(task, key == "clipped"), "not recorded")
    entries["modules"] = _numbers(group, reading.modules, "not recorded")
    for key in COUNTS:
        entries[key] = _numbers(group, reading.footprint(key), "not recorded")
    for key in TIMES:
        entries[key] = _numbers(group, reading.seconds(key), "not recorded")
    protocol = first.protocol
    texts = {
        "seeds": _seeds([run.seed for run in group.runs]),
        "parameters_per_task": _per_task(first.footprint.get("parameters_per_task", [])),
        "policy": f"{first.policy}, {first.profile}",
        "heads": str(protocol["heads"]),
        "normaliser": str(protocol["normaliser"]),
        "task_id": "given" if protocol["task_id_at_test"] else "not given",
        "past_data": "yes" if protocol["past_data"] else "no",
    }
    entries |= {
        key: Entry(words=words, reason="" if words else "not recorded") for key, words in texts.items()
    }
    if protocol["past_data"]:  # a joint reference keeps no memory, because it keeps everything
        entries["memory_bytes"] = Entry(entries["memory_bytes"].summary, words="all data")
    return Row(group.name, tuple(run.seed for run in group.runs), entries)


def _metric_entry(group: Group, key: str) -> Entry:
    """Mean over the seeds for which the metric is defined; the notes name what is left out."""
    metrics = {run.seed: run.metrics[key] for run in group.runs}
    values = {seed: metric.value for seed, metric in metrics.items() if metric.value is not None}
    reasons = list(dict.fromkeys(metric.reason for metric in metrics.values() if metric.reason))
    summary = summarise(values)
    if summary is None:
        return Entry(reason="; ".join(reasons))
    notes = [f"seed {seed}: {metric.note}" for seed, metric in metrics.items() if metric.note]
    if reasons:
        notes.append(f"defined for {len(values)} of {len(metrics)} seeds; {'; '.join(reasons)}")
    interval = summary.interval
    if key == "average_performance" and len(group.runs) == 1:
        interval = episode_range([group.first], group.first.n, range(group.first.n))
    return Entry(summary, interval, notes=tuple(notes))


def _numbers(group: Group, read: Callable[[RunResult], float | None], missing: str) -> Entry:
    values = {run.seed: float(value) for run in group.runs if (value := read(run)) is not None}
    summary = summarise(values)
    return Entry(summary) if summary else Entry(reason=missing)


def _seeds(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)} ({seeds[0]}-{seeds[-1]})"
    return f"{len(seeds)} ({', '.join(map(str, seeds))})"


def _per_task(counts: list[int]) -> str:
    if not counts:
        return ""
    if len(set(counts)) == 1:
        return f"{counts[0]:,} each"
    return (
        " / ".join(f"{count:,}" for count in counts)
        if len(counts) <= 4
        else f"{min(counts):,} to {max(counts):,}"
    )


def episode_range(matrices: Sequence[ScoreMatrix], learned: int, tasks: Iterable[int]) -> Interval | None:
    """Wilson interval over all episodes of the cells (learned, task); None where the score is no success."""
    cells = [matrix.cells.get((learned, task)) for task in tasks for matrix in matrices]
    episodes = [episode for cell in cells if cell for episode in cell.episodes]
    if not episodes or any(
        episode.success is None or episode.score != episode.success for episode in episodes
    ):
        return None
    return wilson(sum(bool(episode.success) for episode in episodes), len(episodes))


# -- words for numbers --------------------------------------------------------------------------------


def show(entry: Entry, column: Column, *, spread: bool = True) -> str:
    """The entry as text: mean, then the interval (5 seeds or more) or the single values (2 to 4 seeds).

    An "ᵉ" marks an interval over the episodes of a single seed.
    """
    if entry.words:
        return entry.words
    if entry.summary is None:
        return UNDEFINED if column.section == "results" else entry.reason
    text = number(entry.summary.mean, column.kind)
    exact = all(value == 0 for value in entry.summary.values)
    if not spread or exact or column.section != "results":
        return text
    if entry.interval:
        ends = f"[{number(entry.interval.low, column.kind)}, {number(entry.interval.high, column.kind)}]"
        return f"{text} {ends}" + ("ᵉ" if entry.interval.kind == "episodes" else "")
    if len(entry.summary.values) > 1:
        return f"{text} ({', '.join(number(value, column.kind) for value in entry.summary.values)})"
    return text


def number(value: float, kind: str) -> str:
    """A number in the way of its kind; a score that is exactly 0 is "0", one that rounds to 0 is "0.00"."""
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "bytes":
        return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")), "B")
    if kind == "seconds":
        return _scaled(value, ((3600, "h"), (60, "min")), "s")
    if value == 0:
        return "0"
    text = f"{math.fabs(value):.2f}"
    if text == "0.00":
        return text
    plus = "+" if kind == "signed" else ""
    return ("\N{MINUS SIGN}" if value < 0 else plus) + text


def _scaled(value: float, units: tuple[tuple[float, str], ...], base: str) -> str:
    for size, unit in units:
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} {base}" if value else "0"


def remarks(table: Table) -> list[str]:
    """Sentences below the table: what is not defined and why, which means leave tasks or seeds out, how good the data were."""
    lines: list[str] = []
    titles = {column.key: column.title for column in table.section("results")}
    rows_by_gap: dict[tuple[str, str], list[str]] = {}
    rows_by_note: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        by_reason: dict[str, list[str]] = {}
        for key, title in titles.items():
            entry = row.entries[key]
            if entry.summary is None:
                by_reason.setdefault(entry.reason, []).append(title)
            for note in entry.notes:
                rows_by_note.setdefault((title, note), []).append(row.name)
        for reason, names in by_reason.items():
            rows_by_gap.setdefault((", ".join(names), reason), []).append(row.name)
    for (title, note), rows in rows_by_note.items():
        lines.append(f"{', '.join(rows)}, {title}: {note}.")
    for (gaps, reason), rows in rows_by_gap.items():
        lines.append(f"{', '.join(rows)}: {gaps} not defined: {reason}.")
    kinds = {e.interval.kind for row in table.rows for e in row.entries.values() if e.interval}
    if "episodes" in kinds:
        lines.append(
            "ᵉ 95 % Wilson interval over the episodes of one seed; it says nothing about other seeds."
        )
    if "seeds" in kinds:
        lines.append(
            "Square brackets: 95 % bootstrap interval over seeds. A plain 0 is exactly 0 in every seed."
        )
    return [*lines, *table.data, *table.notices]
