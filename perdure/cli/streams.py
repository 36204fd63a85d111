"""`perdure streams`: every stream with its tasks, the quality of its data, and whether they are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from perdure.benchmarks import STREAMS
from perdure.benchmarks.custom import check
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import columns, print_json
from perdure.core.task import TaskOutline
from perdure.streams import outline, stream_options

EXAMPLE = "perdure streams kitchen.toml"


@dataclass(frozen=True)
class Options:
    """List the streams, their tasks in order, the quality of their data, and whether these are on this machine."""

    names: Annotated[tuple[str, ...], arg(metavar="[STREAM ...]", help_behavior_hint="")]
    """Only these; the path of a .toml file is checked and listed too."""
    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "streams", "perdure streams", EXAMPLE, "perdure streams cw3-v3 --json")
    options = parse(Options, argv, "streams", EXAMPLE)
    listed = [_facts(name) for name in options.names or STREAMS]
    if options.json:
        print_json(listed)
        return 0
    rows = [[s["name"], s["quality"], _state(s), ", ".join(t["name"] for t in s["tasks"])] for s in listed]
    print(columns([["stream", "quality", "data", "tasks"], *rows]))
    print("\nexample: perdure collect cw3-v3; a stream of your own is a .toml file, see docs/adding_a_stream.md")
    return 0


def _facts(name: str) -> dict[str, Any]:
    options = stream_options(name, {})
    if name.endswith(".toml"):
        check(name)
    tasks = outline(name, options)
    return {"name": name, "quality": ", ".join(dict.fromkeys(task.quality for task in tasks)),
            "tasks": [_task(task) for task in tasks], "options": options}


def _task(task: TaskOutline) -> dict[str, Any]:
    return {"name": task.name, "quality": task.quality, "present": task.present,
            "data": None if task.folder is None else str(task.folder)}


def _state(facts: dict[str, Any]) -> str:
    """Whether the data are there, in words."""
    tasks = facts["tasks"]
    if all(task["data"] is None for task in tasks):
        return "made in memory"
    folders = {task["data"]: task["present"] for task in tasks}
    return "here" if all(folders.values()) else f"{sum(folders.values())} of {len(folders)} here"
