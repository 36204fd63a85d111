"""Streams by name or from a user's TOML file, with their options."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from perdure.benchmarks import STREAMS
from perdure.core.config import build, to_json
from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Spec
from perdure.core.task import Stream, TaskOutline


def benchmark(name: str) -> ModuleType:
    """The benchmark module of a stream name; `.toml` paths belong to `perdure.benchmarks.custom`.

    Raises:
        UsageError: unknown name, with the nearest known one.
    """
    if name.endswith(".toml"):
        return import_module("perdure.benchmarks.custom")
    if name not in STREAMS:
        raise UsageError(f"unknown stream '{name}'{nearest(name, STREAMS) or '; known: ' + ', '.join(STREAMS)}; a stream of your"
                         " own is the path of a .toml file")
    return import_module(STREAMS[name])


def stream_options(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The stream's options with `values` in place of the defaults, as JSON; a user's file adds a digest of its content."""
    module = benchmark(name)
    options = build(module.Options, values, "stream")
    return to_json(module.with_content(name, options) if name.endswith(".toml") else options)


def outline(name: str, options: dict[str, Any]) -> list[TaskOutline]:
    """The tasks of a stream before its data are opened: names, qualities and where the data lie."""
    module = benchmark(name)
    return module.outline(name, build(module.Options, options, "stream"))


def known_spaces(name: str, options: dict[str, Any]) -> dict[str, Spec]:
    """Task -> spaces, where they are known of all tasks before any data are collected; else nothing."""
    sources = {task.name: task.source for task in outline(name, options)}
    return {task: source.spec for task, source in sources.items() if source} if all(sources.values()) else {}


def load_stream(name: str, *, say: Callable[[str], None] = print, **options: Any) -> Stream:
    """A stream with its data, which is collected first where it is not there yet.

    Args:
        name: a built-in stream (`perdure streams` lists them) or the path of a TOML file.
        say: called with sentences on what is being done.
        options: the stream's options, such as `episodes=20`.

    Raises:
        UsageError: unknown stream or option, or data that cannot be used.
    """
    module = benchmark(name)
    return module.stream(name, build(module.Options, options, "stream"), say)
