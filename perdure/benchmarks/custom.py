"""A user's own stream: a TOML file that names datasets and, optionally, Gymnasium environments.

    [stream]
    name = "kitchen"            # default: the file's name; also version, citation, and what a method may know:
    past_data_allowed = false   # task_id_at_test, past_data_allowed, rollouts_allowed, task_count_known

    [[task]]
    name = "swing"
    data = "data/swing"         # a dataset folder relative to this file, or a name in the data folder
    env = "Pendulum-v1"         # leave out: the task is scored by held-out action error
    env_kwargs = { g = 9.81 }
    horizon = 200               # default: the longest episode of the dataset
    score = "return"            # or "success"; `low` and `high` are the raw returns reported as 0 and 1
    low = -1600.0
    high = -150.0
    text = "Swing the pendulum up."
    vector = [0.1, -0.7]        # the same as an encoder of your own reads it, for methods that compare tasks by their meaning

Imports no torch.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure.benchmarks.gym_env import GymFactory, spec_of
from perdure.core.config import digest
from perdure.core.errors import UsageError, nearest
from perdure.core.task import Protocol, ScoreScale, Stream, Task, TaskOutline
from perdure.data.card import read_card
from perdure.data.names import dataset_folder, safe_name
from perdure.data.store import Dataset

LARGEST_FILE = 2**20
"""Bytes of a stream file; more is no stream file."""

SETTINGS: dict[tuple[str, str, str], dict[str, object]] = {}
POLICY: dict[tuple[str, str], dict[str, object]] = {}

PERMISSIONS = tuple(Protocol.__dataclass_fields__)

STREAM_FIELDS: dict[str, type] = {"name": str, "version": int, "citation": str} | dict.fromkeys(PERMISSIONS, bool)
"""Of the table `[stream]`, each with its TOML type."""

TASK_FIELDS: dict[str, type] = {
    "name": str, "data": str, "env": str, "env_kwargs": dict, "horizon": int, "score": str, "low": float, "high": float,
    "text": str, "vector": list,
}  # fmt: skip
"""Of a table `[[task]]`."""

WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}

ENV_ONLY = ("env_kwargs", "horizon", "score", "low", "high")
"""Fields that mean nothing without an environment."""


@dataclass(frozen=True)
class Options:
    """Of a stream file."""

    content: str = ""
    """Digest of the file and its datasets, so that a changed one is another run; it is found, not set."""


@dataclass(frozen=True)
class StreamFile:
    """What a stream file says, checked, before any data are opened."""

    path: Path
    head: dict[str, Any]
    tasks: tuple[dict[str, Any], ...]

    def folder(self, task: dict[str, Any]) -> Path:
        """The dataset folder of a task.

        Raises:
            UsageError: neither relative to the file nor in the data folder.
        """
        beside = self.path.parent / Path(task["data"]).expanduser()
        if (beside / "card.json").is_file():
            return beside
        try:
            named = dataset_folder(task["data"])
        except UsageError:
            named = beside
        if (named / "card.json").is_file():
            return named
        places = str(beside) if named == beside else f"{beside} nor at {named}"
        raise UsageError(f"{self.path}: task '{task['name']}' has data '{task['data']}', but there is no dataset at {places};"
                         " correct `data`, or collect or import it first")

    @property
    def name(self) -> str:
        return str(self.head["name"])


def read(path: Path) -> StreamFile:
    """The checked content of a stream file.

    Raises:
        UsageError: missing or malformed; names file, table and field.
    """
    try:
        if not path.is_file():
            raise UsageError(f"stream file {path} is missing or is no regular file; give the path of a .toml file")
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"stream file {path} has {path.stat().st_size} bytes; one has at most {LARGEST_FILE}")
        value = tomllib.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"stream file {path} is no valid TOML ({ascii(str(problem))[1:-1][:120]}); correct it") from None
    except OSError as problem:
        raise UsageError(f"stream file {path} cannot be read ({problem.strerror}); check its permissions") from None
    _check_fields(value, {"stream": dict, "task": list}, f"{path}")
    head = {"name": path.stem} | value.get("stream", {})
    _check_fields(head, STREAM_FIELDS, f"{path}: [stream]")
    safe_name(head["name"], f"{path}: [stream] name")
    tasks = value.get("task", [])
    if not tasks:
        raise UsageError(f"{path} has no tasks; add a [[task]] table with name and data for each")
    for place, task in enumerate(tasks):
        _check_task(task, f"{path}: [[task]] {place + 1}")
    sizes = {len(task["vector"]) if "vector" in task else 0 for task in tasks}
    if len(sizes) > 1:
        raise UsageError(f"{path}: the tasks' vectors have {', '.join(map(str, sorted(sizes)))} numbers; give every task one of"
                         " the same size, or none")
    return StreamFile(path, head, tuple(tasks))


def _check_fields(table: Any, fields: dict[str, type], where: str) -> None:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is {ascii(table)[:60]}; it must be a table")
    for name, value in table.items():
        if name not in fields:
            hint = nearest(name, fields) or "; known: " + ", ".join(fields)
            raise UsageError(f"{where} has the unknown key {ascii(name)[:60]}{hint}")
        kind = fields[name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UsageError(f"{where}: {name} is {ascii(value)[:60]}; it must be {WORDS[kind]}")


def _check_task(task: Any, where: str) -> None:
    _check_fields(task, TASK_FIELDS, where)
    for name in ("name", "data"):
        if not task.get(name):
            raise UsageError(f"{where} has no {name}; every task needs a name and its data")
    safe_name(task["name"], f"{where} name")
    numbers = task.get("vector", [0.0])
    if not numbers or not all(type(x) in (int, float) and -1e30 < x < 1e30 for x in numbers):
        raise UsageError(f"{where}: vector is {ascii(numbers)[:60]}; give a list of numbers")
    if "\0" in task["data"]:
        raise UsageError(f"{where}: data is {ascii(task['data'])[:60]}; give a folder or the name of a dataset")
    if "env" not in task:
        given = next((name for name in ENV_ONLY if name in task), None)
        if given:
            raise UsageError(f"{where} ('{task['name']}') has {given} but no env; add env, or remove {given}: a task with data"
                             " only is scored by held-out action error")
        return
    if not _plain(task.get("env_kwargs", {})):
        raise UsageError(f"{where}: env_kwargs holds a value that is neither text, number, true or false; remove it")
    _check_score(task, where)


def _check_score(task: dict[str, Any], where: str) -> None:
    kind = task.get("score", "success")
    if kind not in ("success", "return"):
        raise UsageError(f"{where}: score is {ascii(kind)[:60]}; use 'success' or 'return'{nearest(kind, ('success', 'return'))}")
    ends = [name for name in ("low", "high") if name in task]
    if kind == "success" and ends:
        raise UsageError(f"{where}: {ends[0]} is given but score is 'success'; set score = \"return\" or remove {ends[0]}")
    if kind == "return" and not (len(ends) == 2 and -1e300 < task["low"] < task["high"] < 1e300):
        raise UsageError(f"{where}: score is 'return' with low {task.get('low')} and high {task.get('high')}; give the raw"
                         " returns reported as 0 and 1, low below high")


def _plain(value: Any) -> bool:
    """Whether JSON can carry the value to an environment's worker process."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, list):
        return all(map(_plain, value))
    return isinstance(value, str | bool | int) or (isinstance(value, float) and abs(value) < 1e300)


def with_content(name: str, options: Options) -> Options:
    """The options with the digest of the file's content and of its datasets.

    Raises:
        UsageError: `options` carries another digest: the file or a dataset changed since that run began.
    """
    file = read(Path(name))
    data = [read_card(file.folder(task))[0]["digest"] for task in file.tasks]
    found = digest({"file": hashlib.sha256(file.path.read_bytes()).hexdigest(), "data": data})
    if options.content not in ("", found):
        raise UsageError(f"stream.content is {ascii(options.content)[:20]} in the config and {found} in {name}: the file or one"
                         " of its datasets changed since; restore it, or begin a new run with METHOD and STREAM")
    return replace(options, content=found)


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the file; their datasets exist."""
    file = read(Path(name))
    folders = [file.folder(task) for task in file.tasks]
    return [TaskOutline(task["name"], read_card(folder)[0]["quality"], folder)
            for task, folder in zip(file.tasks, folders, strict=True)]


def check(name: str) -> None:
    """Refuse what `stream` would refuse, as far as that shows without reading values or making an environment.

    Raises:
        UsageError: names file, task and field.
    """
    file = read(Path(name))
    names = [entry["name"] for entry in file.tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{file.path} names the task '{twice}' twice; give each task a name of its own")
    for entry in file.tasks:
        data, where = Dataset.open(file.folder(entry), verify=False), f"{file.path}: task '{entry['name']}'"
        if "env" not in entry:
            _held_out(data, where)
            continue
        _scale(entry, data, where)
        try:
            _configured(entry, data).look_up()
        except UsageError as problem:
            raise UsageError(f"{where}: {problem}") from None


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """The stream of a file, with its data and environments checked against each other."""
    file = read(Path(name))
    with_content(name, options)
    protocol = Protocol(**{key: file.head[key] for key in PERMISSIONS if key in file.head})
    tasks = [_task(file, index, entry) for index, entry in enumerate(file.tasks)]
    return Stream(file.name, tuple(tasks), protocol, file.head.get("version", 1), file.head.get("citation", ""))


def _task(file: StreamFile, index: int, entry: dict[str, Any]) -> Task:
    data = Dataset.open(file.folder(entry))
    where = f"{file.path}: task '{entry['name']}'"
    if "env" not in entry:
        _held_out(data, where)
        scale = ScoreScale("action_error", source="1 - held-out action error / error of the best constant action")
        return Task(index, entry["name"], data.spec, data, score=scale, text=entry.get("text", ""), vector=_vector(entry))
    factory = _factory(entry, data, where)
    return Task(index, entry["name"], data.spec, data, factory, score=_scale(entry, data, where), text=entry.get("text", ""),
                vector=_vector(entry))


def _vector(entry: dict[str, Any]) -> tuple[float, ...] | None:
    return tuple(map(float, entry["vector"])) if "vector" in entry else None


def _held_out(data: Dataset, where: str) -> None:
    if not data.holdout.any():
        raise UsageError(f"{where} has no env, and its dataset {data.name} no held-out episode, so nothing can score it; give"
                         " an env or a dataset of two episodes or more")


def _configured(entry: dict[str, Any], data: Dataset) -> GymFactory:
    return GymFactory(entry["env"], entry.get("env_kwargs", {}), entry.get("horizon", int(data.lengths.max())))


def _factory(entry: dict[str, Any], data: Dataset, where: str) -> GymFactory:
    """The environment of a task, made once to see that its spaces are those of the data."""
    try:
        factory = _configured(entry, data)
        env = factory()
    except UsageError as problem:
        raise UsageError(f"{where}: {problem}") from None
    try:
        difference = spec_of(env, factory.id).difference(data.spec)
    finally:
        env.close()
    if difference:
        raise UsageError(f"{where}: environment {factory.id} (here) and dataset {data.name} (there) have different spaces:"
                         f" {difference}; name the environment that the data come from")
    return factory


def _scale(entry: dict[str, Any], data: Dataset, where: str) -> ScoreScale:
    if entry.get("score") == "return":
        low, high = float(entry["low"]), float(entry["high"])
        return ScoreScale("return", low, high, f"raw return {low:g} as 0 and {high:g} as 1")
    if "score" not in entry and all(success is None for success in data.successes):
        raise UsageError(f"{where} has no score, and its dataset knows no success; set score = \"return\" with low and high, or"
                         ' score = "success" if the environment reports it')
    return ScoreScale()
