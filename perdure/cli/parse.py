"""Options of one verb: a dataclass, parsed and explained by tyro, with every mistake named in one sentence.

A field without a default is a positional argument, every other one an option. Tyro's own complaints are boxes of many
lines, so the words are looked at here first: unknown options, missing and wrong values get a sentence with the remedy.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin

import tyro

from perdure.cli.dotted import closest
from perdure.core.config import convert, field_types
from perdure.core.errors import UsageError

A = TypeVar("A")

STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs)


def asks_for_help(argv: list[str]) -> bool:
    return "-h" in argv or "--help" in argv


def parse(cls: type[A], argv: list[str], verb: str, example: str, elsewhere: Callable[[], Iterable[str]] = tuple) -> A:
    """The options in `argv`.

    Args:
        cls: frozen dataclass; its docstring and those of its fields become the help.
        verb: what was typed before `argv`, such as "run".
        example: a command, for the sentence about missing arguments.
        elsewhere: options that the verb takes beside those of `cls`, which an unknown one may be meant for.

    Raises:
        UsageError: unknown option, missing or superfluous word, or a value of the wrong type.
    """
    words, options = _sorted(cls, argv, verb, example, elsewhere)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=[*words, *options], prog=f"perdure {verb}", config=STYLE)
    except SystemExit:
        raise UsageError(f"perdure {verb}: {_condensed(said.getvalue())}; example: {example}") from None


def print_help(cls: type, verb: str, *examples: str) -> int:
    """Explain a verb; returns the exit code."""
    about = textwrap.fill(" ".join(str(cls.__doc__).split()), 100)
    shown = "\n".join(f"  {line}" for line in examples)
    with contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"], prog=f"perdure {verb}", description=f"{about}\n\nexamples:\n{shown}", config=STYLE)
    return 0


def flag(name: str) -> str:
    """The option of a field: `dry_run` is --dry-run, and `from_` is --from, which Python has no field for."""
    return "--" + name.rstrip("_").replace("_", "-")


def _sorted(
    cls: Any, argv: list[str], verb: str, example: str, elsewhere: Callable[[], Iterable[str]]
) -> tuple[list[str], list[str]]:
    """The positional words, and the options with their values, all checked."""
    kinds = field_types(cls)
    options = {flag(f.name): kinds[f.name] for f in fields(cls) if f.default is not MISSING}
    positional = {f.name: kinds[f.name] for f in fields(cls) if f.default is MISSING}
    words: list[str] = []
    given: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not _is_option(word):
            if not word:
                raise UsageError(f"perdure {verb} got an empty word; example: {example}")
            words.append(word)
            continue
        name, has_value, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in options:
            hint = closest(name, [*options, *elsewhere()]) or "; known: " + ", ".join(options)
            raise UsageError(f"unknown option {name}{hint}")
        if name in given:
            raise UsageError(f"{name} is given twice; give it once")
        values = [value] if has_value else _values(rest, options[name])
        given += [name, *_checked(name, values, options[name])]
    _count(positional, words, verb, example)
    return words, given


def _is_option(word: str) -> bool:
    """`-2` is a number and `-` a word, everything else that begins with a dash is an option."""
    return word.startswith("-") and not word[1:2].isdigit() and word[1:2] not in ("", ".")


def _values(rest: list[str], kind: Any) -> list[str]:
    """Take the values of an option from the front of `rest`: none for a flag, all up to the next option for a list."""
    taken: list[str] = []
    if kind is bool:
        return taken
    while rest and not _is_option(rest[0]) and (get_origin(kind) is tuple or not taken):
        taken.append(rest.pop(0))
    return taken


def _checked(name: str, values: list[str], kind: Any) -> list[str]:
    """The values as tyro reads them: a whole number such as 1e3 in digits."""
    if kind is bool:
        if values:
            raise UsageError(f"{name} is '{values[0]}', but it takes no value; give {name} alone or leave it out")
        return values
    if not values:
        raise UsageError(f"{name} has no value; give one after it")
    if "" in values:
        raise UsageError(f"{name} is empty; give a value after it, or leave it out")
    item = get_args(kind)[0] if get_origin(kind) is tuple else kind
    read = [convert(value, item, name) for value in values]
    return [str(number) for number in read] if item is int else values


def _count(positional: dict[str, Any], words: list[str], verb: str, example: str) -> None:
    """Refuse missing and superfluous words; a list as the last positional takes any number, which its verb judges."""
    names = [name.upper() for name, kind in positional.items() if get_origin(kind) is not tuple]
    if len(words) < len(names):
        raise UsageError(f"perdure {verb} needs {names[len(words)]}; example: {example}")
    if len(words) > len(names) == len(positional):
        raise UsageError(f"unexpected '{words[len(names)]}' after perdure {verb} {' '.join(words[: len(names)])}".rstrip()
                         + f"; example: {example}")


def _condensed(said: str) -> str:
    """The text of tyro's box, up to its first rule, as one line."""
    lines = [line.strip("│╭╮╰╯─ ") for line in said.splitlines()]
    return " ".join(line for line in lines if line)[:200] or "the options cannot be read"
