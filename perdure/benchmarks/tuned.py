"""Hyperparameters that `perdure tune` chose on tasks outside a benchmark, with the evidence: one JSON file per benchmark module.

They are part of the module's SETTINGS; a strength that stands there and in no file has no evidence.
"""

from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError
from perdure.core.files import read_json, write_json

FORMAT = 1
"""Version of the file."""

FOLDER = Path(__file__).parent / "settings"

FIELDS: dict[str, tuple[type, ...]] = {
    "method": (str,), "policy": (str,), "profile": (str,), "field": (str,), "value": (int, float), "stream": (str,),
    "stream_version": (int,), "tasks": (list,), "seed": (int,), "options": (dict,), "candidates": (list,), "perdure": (str,),
}  # fmt: skip
"""Of one choice: what was chosen for whom, where it was tried, with which other options than the profile's, and the result of
every value."""

CANDIDATE: dict[str, tuple[type, ...]] = {
    "value": (int, float), "average_performance": (int, float), "forgetting": (int, float), "config_hash": (str,),
}  # fmt: skip
"""Of one value that was tried."""


def settings_file(benchmark: str) -> Path:
    """The file of a benchmark module, such as `continual_world`."""
    return FOLDER / f"{benchmark}.json"


def tuned(benchmark: str) -> dict[tuple[str, str, str], dict[str, object]]:
    """(method, policy, profile) -> the fields that were chosen, as SETTINGS has them."""
    found: dict[tuple[str, str, str], dict[str, object]] = {}
    for choice in choices(settings_file(benchmark)):
        found.setdefault((choice["method"], choice["policy"], choice["profile"]), {})[choice["field"]] = choice["value"]
    return found


def choices(path: Path) -> list[dict[str, Any]]:
    """Every choice in a file; none if there is no file.

    Raises:
        UsageError: the file is no such file; names what is wrong.
    """
    if not path.exists():
        return []
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("tuned"), list):
        raise UsageError(f"{path} is no file of tuned settings of format {FORMAT}; remove it, or restore it from a copy")
    for choice in content["tuned"]:
        _check(path, choice, FIELDS)
        for candidate in choice["candidates"]:
            _check(path, candidate, CANDIDATE)
    return list(content["tuned"])


def _check(path: Path, entry: Any, kinds: dict[str, tuple[type, ...]]) -> None:
    for name, kind in kinds.items():
        if not isinstance(entry, dict) or type(entry.get(name)) not in kind:
            raise UsageError(f"{path} has an entry whose '{name}' is missing or of the wrong type; restore it from a copy")


def record(path: Path, choice: dict[str, Any]) -> None:
    """Write a choice into a file, in place of an earlier one for the same field of the same method, policy and profile."""

    def place(one: dict[str, Any]) -> tuple[str, ...]:
        return one["method"], one["policy"], one["profile"], one["field"]

    _check(path, choice, FIELDS)
    others = [other for other in choices(path) if place(other) != place(choice)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": FORMAT, "tuned": sorted([*others, choice], key=place)})
    except OSError as problem:
        raise UsageError(f"{path} cannot be written ({problem.strerror}); choose another --out") from None
