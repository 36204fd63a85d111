"""Configs: frozen dataclasses to and from JSON, with dotted overrides whose mistakes are named."""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from perdure.core.errors import UsageError, nearest

C = TypeVar("C")

GROUPS = ("method", "policy", "stream", "evaluation")
"""Configs whose fields are options `--group.field VALUE` and the axes of a sweep."""


def build(cls: type[C], values: dict[str, Any], prefix: str, given: Iterable[str] = ()) -> C:
    """An instance of the dataclass `cls` with `values`, each converted to its field's type.

    Raises:
        UsageError: unknown field (with the nearest known one), a value of the wrong type, named `prefix.field`, or a `given` one
            that another option replaces.
    """
    kinds = field_types(cls)
    converted = {}
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"unknown option {prefix}.{name}{nearest(name, kinds) or '; known: ' + ', '.join(kinds)}")
        converted[name] = convert(value, kinds[name], f"{prefix}.{name}")
    made = cls(**converted)
    for name in given:
        if (value := made.__dict__[name]) != converted[name]:
            raise UsageError(f"{prefix}.{name} is {converted[name]!r}, and another option (such as compat) replaces it by"
                             f" {value!r}; give that, or leave out one of the two")
    return made


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> resolved type of a dataclass."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def convert(value: Any, kind: Any, where: str) -> Any:
    """`value`, which may be text from the command line, as `kind`."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = [k for k in get_args(kind) if k is not type(None)]
        if value is None or value == "none":
            if len(options) < len(get_args(kind)):
                return None
            raise UsageError(f"{where} is none; give a value")
        return convert(value, options[0], where)
    if origin is Literal:
        if value not in get_args(kind):
            known = ", ".join(map(str, get_args(kind)))
            raise UsageError(f"{where} is {value!r}; use one of {known}{nearest(value, get_args(kind))}")
        return value
    if kind is bool:
        text = str(value).lower()
        if text not in ("true", "false"):
            raise UsageError(f"{where} is {value!r}; use true or false")
        return text == "true"
    if kind is str:
        return str(value)
    if kind in (int, float):
        return _number(value, kind, where)
    raise UsageError(f"{where} has no form that an option can set; set it from Python")


def _number(value: Any, kind: type, where: str) -> int | float:
    what = "a whole number" if kind is int else "a number"
    if kind is int and type(value) is int:  # a detour over float would change a large one
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{where} is {value!r}; give {what}") from None
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
        raise UsageError(f"{where} is {value!r}; give {what}")
    exact = kind is int and isinstance(value, str) and value.lstrip("+-").isdigit()
    return int(value) if exact else kind(number)


def check_choices(config: Any, prefix: str) -> None:
    """Refuse a value that the Literal type of its field does not name; what is made in Python passes no `convert`."""
    for name, kind in field_types(type(config)).items():
        if get_origin(kind) is Literal:
            convert(config.__dict__[name], kind, f"{prefix}.{name}")


def not_negative(config: Any, prefix: str, *names: str) -> None:
    _check(config, prefix, names, lambda value: value >= 0, "0 or a number above 0")


def positive(config: Any, prefix: str, *names: str) -> None:
    _check(config, prefix, names, lambda value: value > 0, "a number above 0")


def at_most(config: Any, prefix: str, most: float, *names: str) -> None:
    _check(config, prefix, names, lambda value: value <= most, f"at most {most}")


def one_or_more(config: Any, prefix: str, *names: str) -> None:
    _check(config, prefix, names, lambda value: value >= 1, "1 or more")


def _check(config: Any, prefix: str, names: Iterable[str], holds: Callable[[Any], bool], right: str) -> None:
    """Also of NaN, for which no comparison holds."""
    for name in names:
        if not holds(config.__dict__[name]):
            raise UsageError(f"{prefix}.{name} is {config.__dict__[name]}; give {right}")


def to_json(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain values."""
    assert is_dataclass(config) and not isinstance(config, type)
    return asdict(config)


def digest(values: Any) -> str:
    """Eight hex digits that change with any value of the JSON given."""
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def first_difference(mine: Any, theirs: Any, prefix: str = "") -> str | None:
    """The dotted name and both values of the first field in which two JSON values differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in [*mine, *(k for k in theirs if k not in mine)]:
            where = f"{prefix}.{name}" if prefix else name
            if name not in mine or name not in theirs:
                return f"{where} is {mine.get(name, 'absent')!r} here and {theirs.get(name, 'absent')!r} there"
            if found := first_difference(mine[name], theirs[name], where):
                return found
        return None
    return None if mine == theirs else f"{prefix} is {mine!r} here and {theirs!r} there"
