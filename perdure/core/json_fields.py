"""Reading JSON that may come from anywhere: each field is checked for its kind and named if it is wrong."""

from __future__ import annotations

from typing import Any

from perdure.core.errors import UsageError

WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def get_field(entry: dict[str, Any], name: str, kind: type, where: str = "scores") -> Any:
    """Field `name` of `entry`, which must be exactly of `kind` (a whole number also counts as a number)."""
    if name not in entry:
        raise UsageError(f"{where} lacks the field '{name}'; it must be {WORDS[kind]}")
    value = entry[name]
    if not is_kind(value, kind):
        raise UsageError(f"{where}.{name} is {ascii(value)[:60]}; it must be {WORDS[kind]}")
    return value


def is_kind(value: Any, kind: type) -> bool:
    """Whether `value` is of `kind`, of a size that arithmetic bears, and text that can be written again."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        return False
    if kind is float:
        return bool(-1e300 < value < 1e300)
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    # Half of a surrogate pair is valid JSON but cannot be encoded as UTF-8.
    return kind is not str or not any("\ud800" <= letter <= "\udfff" for letter in str(value))


def entries_of(value: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = get_field(value, name, list) if name in value else []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(f"{name} holds {ascii(entry)[:60]}; every entry must be an object")
    return entries
