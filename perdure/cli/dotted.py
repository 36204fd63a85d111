"""Options `--group.field VALUE` of `perdure run`: collected here, judged by `perdure.core.config.build`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from perdure.core.config import GROUPS
from perdure.core.errors import UsageError


def split_dotted(argv: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The words without `--group.field VALUE`, and these by group.

    Raises:
        UsageError: unknown group, no value, or a field given twice.
    """
    rest: list[str] = []
    found: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        group, dot, field = name[2:].partition(".")
        if not (name.startswith("--") and dot):
            rest.append(word)
            continue
        if group not in GROUPS:
            raise UsageError(f"unknown option {name}{_meant(group, field)}; the groups are {', '.join(GROUPS)}")
        field = field.replace("-", "_")
        if field in found[group]:
            raise UsageError(f"{name} is given twice; give it once")
        if not has_value:
            if not words or words[0].startswith("--"):
                raise UsageError(f"{name} has no value; give one after it")
            value = words.pop(0)
        found[group][field] = value
    return rest, found


def closest(word: str, options: Iterable[str]) -> str:
    """`; did you mean '--method.steps'?` for the option whose last part is closest to that of `word`, or an empty string."""
    last = {option.lstrip("-").rpartition(".")[2].replace("_", "-"): option for option in reversed(list(options))}
    asked = word.lstrip("-").rpartition(".")[2].replace("_", "-")
    found = difflib.get_close_matches(asked, last, n=1, cutoff=0.5)
    return f"; did you mean '{last[found[0]]}'?" if found else ""


def _meant(group: str, field: str) -> str:
    """`; did you mean '--method.steps'?` for a mistyped group."""
    found = difflib.get_close_matches(group, GROUPS, n=1, cutoff=0.5)
    return f"; did you mean '--{found[0]}.{field}'?" if found else ""
