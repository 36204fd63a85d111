"""Read run folders and put the runs into rows that may be averaged; runs that must not be are refused.

A row is a method in one setting (named where there are several), its runs are its seeds.
Averaging runs of different protocols or data gives a number that means nothing, so the first difference
ends the report, named.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.core.matrix import ScoreMatrix
from perdure.core.metrics import Metric, measure
from perdure.report.settings import told_apart

DEPTH = 5
"""How deep below a given folder runs are looked for: runs/<stream>/<method>/<run> and two levels more."""

INSIDE = ("agent", "resume", "clips", "figures")
"""Folders inside a run or a report that hold no runs."""

ROUNDING = 1e-9
"""Relative difference of the mean return of data that were collected alike on two processors: 1e-13 was seen."""

COUNTS = 1e-6
"""A sum of returns nearer to a whole number than this is a count, of successes or points, which says nothing of the episodes."""


@dataclass(frozen=True)
class RunResult:
    """One run read from its folder: score matrix, environment.json (empty if missing) and metrics by name."""

    folder: Path
    row: str
    matrix: ScoreMatrix
    environment: dict[str, Any]
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.matrix.seed

    def seconds(self, name: str) -> float | None:
        """A time in environment.json, such as `train_seconds`; None if it is not recorded."""
        return _seconds(self.environment.get(name))

    @property
    def phases(self) -> dict[str, float]:
        """Phase -> CPU seconds of training in it; empty where they are not recorded."""
        recorded = self.environment.get("phase_cpu_seconds")
        values = {name: _seconds(value) for name, value in recorded.items()} if isinstance(recorded, dict) else {}
        return {name: value for name, value in values.items() if value is not None}


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return float(value)


@dataclass(frozen=True)
class Group:
    """One row of the table: runs that differ in nothing but the seed, in the order of their seeds."""

    name: str
    runs: tuple[RunResult, ...]

    @property
    def first(self) -> ScoreMatrix:
        return self.runs[0].matrix


@dataclass(frozen=True)
class Collection:
    """All rows of a report, best average performance first, and sentences that its reader must know."""

    groups: tuple[Group, ...]
    notices: tuple[str, ...]

    @property
    def first(self) -> ScoreMatrix:
        return self.groups[0].first

    @property
    def runs(self) -> tuple[RunResult, ...]:
        return tuple(run for group in self.groups for run in group.runs)


def collect(
    folders: Sequence[Path | str], *, unfinished: bool = False, labels: Mapping[str, str] | None = None
) -> Collection:
    """Read runs from `folders`, each a run folder or a parent of run folders.

    Args:
        folders: where to look; a run found twice counts once.
        unfinished: also take runs that are not finished; what they lack is then "not defined". Else those
            found below a parent are left out with a notice.
        labels: folder -> label, which makes its runs rows of their own: "method (label)"; a given folder, or
            one below it. Runs of a row whose settings still differ get rows named by what differs.

    Raises:
        UsageError: nothing found, an unfinished run named itself, or runs that must not share a row or a report.
    """
    if not folders:
        raise UsageError("no run folder was given; give at least one, such as runs/demo")
    labels = labels or {}
    found = list(dict.fromkeys(folder.resolve() for given in folders for folder in _run_folders(Path(given))))
    label_at = {Path(named).resolve(): label for named, label in labels.items()}
    for named in labels:
        if not any(Path(named).resolve() in (folder, *folder.parents) for folder in found):
            raise UsageError(
                f"the label {labels[named]!r} is for {named}, which is not among the given folders or the runs"
                " below them"
            )
    named_itself = {Path(given).resolve() for given in folders}
    notices: list[str] = []
    runs: list[RunResult] = []
    left_out: list[str] = []
    for folder in found:
        label = next((label_at[place] for place in (folder, *folder.parents) if place in label_at), "")
        problem, run = _read(folder, label)
        if problem and not unfinished and folder in named_itself:
            again = f"finish it with 'perdure run --from {_shown(folder / 'config.json')}' or add --unfinished"
            raise UsageError(f"{folder} {problem}; {again}")
        if problem and not unfinished:
            left_out.append(_shown(folder))
            continue
        if run is None:
            notices.append(f"{folder.name} has no scores yet and was left out.")
            continue
        if problem:
            notices.append(
                f"{run.matrix.method} with seed {run.seed} is not finished: what it lacks is not defined."
            )
        runs.append(run)
    if left_out:
        notices.append(f"Not finished and left out (--unfinished takes them): {', '.join(left_out)}.")
    if not runs:
        remedy = "finish one with 'perdure run' first" + (", or add --unfinished" if left_out else "")
        raise UsageError(f"{folders[0]} holds no {'finished run' if left_out else 'run with scores'}; {remedy}")
    _same_stream(runs)
    runs = told_apart(runs)
    measured = [_measured(run, runs) for run in runs]
    names = sorted({run.row for run in measured})
    command = shlex.join(["perdure", "report", *map(str, folders), *(["--unfinished"] if unfinished else [])])
    groups = [_group(name, [run for run in measured if run.row == name], command, labels) for name in names]
    groups.sort(key=lambda group: (-_performance(group), group.name))
    return Collection(tuple(groups), tuple(notices + _notices(groups)))


def _run_folders(given: Path) -> Iterator[Path]:
    """Run folders at or below `given`, in alphabetical order."""
    if not given.is_dir():
        raise UsageError(f"{given} is no folder; give a run folder or a folder that holds run folders")
    found = list(_below(given, DEPTH))
    if not found:
        raise UsageError(
            f"{given} holds no run (a folder with config.json or scores.json); give a run folder"
        )
    yield from found


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "scores.json").is_file() or (folder / "config.json").is_file():
        yield folder
        return
    if depth == 0:
        return
    for child in sorted(folder.iterdir()):
        hidden = child.name.startswith(".") or child.name in INSIDE
        if child.is_dir() and not child.is_symlink() and not hidden:
            yield from _below(child, depth - 1)


def _read(folder: Path, label: str) -> tuple[str, RunResult | None]:
    """(What an unfinished run lacks, in words, or nothing; the run, if it has scores)."""
    scores = folder / "scores.json"
    if not scores.is_file():
        return "has no scores.json, so the run is not finished", None
    matrix = ScoreMatrix.load(scores)
    problem = "" if matrix.complete else f"is not finished (cells evaluated so far: {len(matrix.cells)})"
    path = folder / "environment.json"
    environment = read_json(path) if path.is_file() else {}
    if not isinstance(environment, dict):
        raise UsageError(f"{path} holds no JSON object; restore it from a copy, or remove it")
    marks = ", ".join(mark for mark in ("compat" if _compat(folder) else "", label) if mark)
    row = f"{matrix.method} ({marks})" if marks else matrix.method
    return problem, RunResult(folder, row, matrix, environment)


def _compat(folder: Path) -> bool:
    """Whether the run reproduces what released code does in place of the method itself; its row must say so."""
    path = folder / "config.json"
    settings = read_json(path) if path.is_file() else {}
    method = settings.get("method_config") if isinstance(settings, dict) else None
    return isinstance(method, dict) and method.get("compat") is True


def _shown(path: Path) -> str:
    """As one would type it here: relative to the current folder, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _same_stream(runs: list[RunResult]) -> None:
    """One report compares runs on one stream with one score; else its columns are different quantities."""
    first = runs[0]
    for run in runs[1:]:
        for name in ("stream", "stream_version", "tasks", "score"):
            here, there = first.matrix.__dict__[name], run.matrix.__dict__[name]
            if here != there:
                raise UsageError(
                    f"{name} is {_short(here)} in {first.folder} and {_short(there)} in {run.folder}; "
                    "one report compares runs on one stream and version, so report them apart"
                )


def digests(matrix: ScoreMatrix) -> dict[tuple[int, str], str]:
    """(Position, task name) -> digest of the dataset it was learned from; a stream may name a task twice."""
    return {(i, entry["task"]): entry["digest"] for i, entry in enumerate(matrix.data)}


def _all_digests(matrices: Sequence[ScoreMatrix]) -> dict[tuple[int, str], set[str]]:
    return {place: {digests(matrix)[place] for matrix in matrices} for place in digests(matrices[0])}


def same_data(one: ScoreMatrix, other: ScoreMatrix) -> bool:
    """Whether both learned from the same data of every task; last bits that another processor rounds otherwise do not count."""
    return digests(one).keys() == digests(other).keys() and all(map(_same_episodes, one.data, other.data))


def _same_episodes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries name one dataset, or one that was collected again and differs in rounding alone.

    Nine digits of the mean return tell datasets of one quality and size apart, unless returns are counts."""
    if one["digest"] == other["digest"]:
        return True
    if not one.get("quality") or any(one.get(name) != other.get(name) for name in ("task", "quality", "episodes")):
        return False
    sums = [entry.get("mean_return", 0.0) * entry.get("episodes", 0) for entry in (one, other)]
    return abs(sums[0] - round(sums[0])) > COUNTS and math.isclose(*sums, rel_tol=ROUNDING)


def _group(name: str, runs: list[RunResult], command: str, labels: Mapping[str, str]) -> Group:
    """The runs of one row; refuses what must not be averaged, naming the field and the command that keeps it apart."""
    runs = sorted(runs, key=lambda run: run.seed)
    first = runs[0]
    for run in runs[1:]:
        for field_name, here, there in _identity(first, run):
            if here != there:
                raise UsageError(
                    f"{field_name} is {_short(here)} in {first.folder} and {_short(there)} in {run.folder}; "
                    f"runs of the row '{name}' must agree in it: leave some out, or give them rows of their own: "
                    f"{command} --label {_labels_apart(runs, labels)}"
                )
    for left, right in pairwise(runs):
        if left.seed == right.seed:
            raise UsageError(
                f"seed {left.seed} of '{name}' appears in {left.folder} and in {right.folder}; leave one out"
            )
    return Group(name, tuple(runs))


def _labels_apart(runs: list[RunResult], labels: Mapping[str, str]) -> str:
    """The values of --label with which every setting among `runs` gets a row of its own; the first one keeps its row."""
    settings: list[RunResult] = []
    given = [f"{folder}={label}" for folder, label in labels.items()]
    unused = (word for i in count(2) if (word := f"setting-{i}") not in labels.values())
    names: list[str] = []
    for run in runs:
        same = [i for i, other in enumerate(settings) if all(a == b for _, a, b in _identity(other, run))]
        if not same:
            names.append(next(unused) if settings else "")
            settings.append(run)
        name = names[same[0] if same else -1]
        given += [f"{_shown(run.folder)}={name}"] if name else []
    return shlex.join(given)


def _identity(one: RunResult, other: RunResult) -> Iterator[tuple[str, Any, Any]]:
    """Every field in which runs of one row must agree, with both values; the readable ones first."""
    a, b = one.matrix, other.matrix
    for name in ("method", "policy", "profile"):
        yield name, a.__dict__[name], b.__dict__[name]
    for name in sorted(a.protocol.keys() | b.protocol.keys()):
        yield f"protocol.{name}", a.protocol.get(name), b.protocol.get(name)
    ours, theirs = digests(a), digests(b)
    if not same_data(a, b):
        for place in sorted(ours.keys() | theirs.keys()):
            yield f"data digest of {place[1]}", ours.get(place), theirs.get(place)
    if a.config_hash != b.config_hash:
        yield "config_hash", _hash_today(one), _hash_today(other)


def _hash_today(run: RunResult) -> str:
    """Of the run's settings with the options that were added since: one that by default does as before changes nothing."""
    try:
        from perdure.run_config import load_config  # needs torch, which a table does not need otherwise

        return load_config(run.folder / "config.json").hash
    except (UsageError, OSError, ImportError):
        return run.matrix.config_hash


def _measured(run: RunResult, runs: list[RunResult]) -> RunResult:
    reference = find_reference(run, runs)
    metrics = measure(run.matrix, reference.matrix if reference else None)
    return RunResult(run.folder, run.row, run.matrix, run.environment, metrics)


def find_reference(run: RunResult, runs: Sequence[RunResult]) -> RunResult | None:
    """The run of `independent` with the policy, profile, data and seed of `run`; the first one, or None."""
    for other in runs:
        same = (
            other.matrix.method == "independent"
            and other.matrix.policy == run.matrix.policy
            and other.matrix.profile == run.matrix.profile
            and other.seed == run.seed
            and same_data(other.matrix, run.matrix)
        )
        if same:
            return other
    return None


def _performance(group: Group) -> float:
    """Mean average performance, for the order of rows; -1e9 where no run has one."""
    values = [v for run in group.runs if (v := run.metrics["average_performance"].value) is not None]
    return sum(values) / len(values) if values else -1e9


def _notices(groups: list[Group]) -> list[str]:
    """What a reader must know before comparing rows."""
    notices = []
    matrices = [run.matrix for group in groups for run in group.runs]
    if not all(same_data(matrix, matrices[0]) for matrix in matrices):
        notices.append("Rows were learned from different data: compare them with care.")
    elif rounded := [task for (_, task), values in _all_digests(matrices).items() if len(values) > 1]:
        notices.append(f"Data of {', '.join(rounded)} were collected on several processors, which round differently.")
    if len({(group.first.policy, group.first.profile) for group in groups}) > 1:
        notices.append("Rows use different policies or profiles: compare them with care.")
    if len({tuple(run.seed for run in group.runs) for group in groups}) > 1:
        notices.append("Rows have different seeds: differences paired by seed use those they share.")
    for group in groups:
        resumed = [str(run.seed) for run in group.runs if not run.matrix.bit_exact]
        if resumed:
            notices.append(
                f"{group.name}, seed {', '.join(resumed)}: resumed on another machine type, versions or "
                "thread count, so a repetition need not give identical bits."
            )
    return notices


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
