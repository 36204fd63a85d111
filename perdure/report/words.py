"""The first paragraph of a report: what was learned, who kept it and who forgot, said from the numbers."""

from __future__ import annotations

from perdure.report.collect import Collection, Group
from perdure.report.model import Row, Table, number, show

REFERENCES = ("independent", "joint", "incremental_joint")
"""Methods that do not learn in sequence with one model from present data: yardsticks, no competitors."""


def is_reference(group: Group) -> bool:
    """Whether the row is a yardstick: separate models, or training that goes back to past data."""
    return group.first.method in REFERENCES or bool(group.first.protocol["past_data"])


def summary(collection: Collection, table: Table) -> str:
    """One paragraph of plain text."""
    references = {group.name for group in collection.groups if is_reference(group)}
    scored = [row for row in table.rows if row.entries["average_performance"].summary]
    contenders = [row for row in scored if row.name not in references]
    sentences = [_setting(collection)]
    if contenders:
        sentences += _contest(table, contenders)
    sentences.append(_yardsticks(table, [row for row in scored if row.name in references]))
    sentences.append(_steps(table))
    return " ".join(sentence for sentence in sentences if sentence)


def _setting(collection: Collection) -> str:
    first = collection.first
    names = [group.name for group in collection.groups]
    qualities = sorted({entry["quality"] for run in collection.runs for entry in run.matrix.data})
    data = f" of {' and '.join(qualities)} quality" if qualities else ""
    counts = sorted({len(group.runs) for group in collection.groups})
    seeds = f"{_word(counts[0])} seed{'' if counts == [1] else 's'}"
    if len(counts) > 1:
        seeds = f"{counts[0]} to {counts[-1]} seeds"
    subject = f"{_word(len(names)).capitalize()} methods" if len(names) > 1 else f"The method {names[0]}"
    tasks = f"{_word(first.n)} tasks" if first.n > 1 else "one task"
    each = " each" if len(names) > 1 else ""
    return f"{subject} learned the {tasks} of {first.stream} from fixed datasets{data}, with {seeds}{each}."


def _word(count: int) -> str:
    small = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return small[count] if count < len(small) else str(count)


def _contest(table: Table, rows: list[Row]) -> list[str]:
    """Best and worst at the end of the stream, and how much each had before it forgot."""
    best, worst = rows[0], rows[-1]
    sentences = [f"At the end of the stream {best.name} scores {_score(table, best)}{_forgets(best)}."]
    if worst is not best:
        sentences.append(f"{worst.name} ends at {_score(table, worst)}{_forgets(worst)}.")
    for difference in table.differences:
        if difference.row == best.name and difference.baseline == worst.name and difference.summary.interval:
            low, high = difference.summary.interval.low, difference.summary.interval.high
            gap = number(difference.summary.mean, "score")
            span = f"{number(low, 'score')} to {number(high, 'score')}"
            sentences.append(f"Paired by seed the two lie {gap} apart (95 % interval {span}).")
    return sentences


def _score(table: Table, row: Row) -> str:
    column = next(column for column in table.columns if column.key == "average_performance")
    return f"{show(row.entries[column.key], column, spread=False)} on average"


def _forgets(row: Row) -> str:
    forgetting, score = row.entries["forgetting"].summary, row.entries["average_performance"].summary
    if forgetting is None or score is None:
        return ""
    if all(value == 0 for value in forgetting.values):
        return " and has forgotten exactly nothing"
    learned = number(score.mean + forgetting.mean, "score")
    if forgetting.mean > 0:
        lost = number(forgetting.mean, "score")
        return f", after {learned} right after each task was learned: it forgot {lost}"
    return f", no less than the {learned} right after each task was learned"


def _yardsticks(table: Table, rows: list[Row]) -> str:
    if not rows:
        return ""
    parts = []
    for row in rows:
        parameters = row.entries["parameters"].summary
        size = f" with {number(parameters.mean, 'count')} parameters" if parameters else ""
        parts.append(f"{row.name} reaches {_score(table, row)}{size}")
    return f"For comparison, {', and '.join(parts)}."


def _steps(table: Table) -> str:
    steps = [row.entries["environment_steps"].summary for row in table.rows]
    used = [summary for summary in steps if summary]
    if len(used) < len(table.rows):
        return ""
    if all(summary.mean == 0 for summary in used):
        return "No environment step was used for learning."
    return "Some methods used environment steps for learning; the footprint counts them."
