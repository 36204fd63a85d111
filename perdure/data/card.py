"""The card of a dataset: all that is not in the arrays, as strict JSON with its own digest."""

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.core.spec import Spec
from perdure.data.names import safe_name

FORMAT = 1
CARD_FILE = "card.json"
ARRAYS_FILE = "arrays.safetensors"
MOST_STEPS = 2**40

FIELDS = {
    "format": int,
    "name": str,
    "spec": dict,
    "episode_lengths": list,
    "returns": list,
    "success": list,
    "goals": list,
    "seeds": list,
    "behaviour": dict,
    "quality": str,
    "split": dict,
    "licence": str,
    "source": str,
    "versions": dict,
    "digest": str,
    "created_by": str,
    "card_digest": str,
}
"""Every field of a card, and its JSON type."""


def card_digest(card: dict[str, Any]) -> str:
    """sha256 over the card without its own digest, as compact JSON with sorted keys and ASCII escapes."""
    rest = {key: value for key, value in card.items() if key != "card_digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _check_episode_fields(card: dict[str, Any]) -> str | None:
    """The first wrong per-episode value as a phrase, or None."""
    tests = {
        "episode_lengths": (
            lambda v: type(v) is int and 1 <= v <= MOST_STEPS,
            "a whole number of at least 1",
        ),
        "returns": (_is_number, "a finite number"),
        "success": (lambda v: v is None or type(v) is bool, "true, false or null"),
        "goals": (
            lambda v: v is None or (isinstance(v, list) and all(map(_is_number, v))),
            "a list of numbers or null",
        ),
        "seeds": (
            lambda v: v is None or (type(v) is int and abs(v) < 2**64),
            "a whole number below 2^64 or null",
        ),
    }
    episodes = len(card["episode_lengths"])
    for field, (valid, wanted) in tests.items():
        if len(card[field]) != episodes:
            return f"{field} has {len(card[field])} entries for {episodes} episodes; give one per episode"
        for episode, value in enumerate(card[field]):
            if not valid(value):
                return f"{field} of episode {episode} is {ascii(value)[:60]}; it must be {wanted}"
    noise = card["behaviour"].get("noise")
    if (
        not isinstance(noise, list)
        or len(noise) != episodes
        or not all(v is None or _is_number(v) for v in noise)
    ):
        return f"behaviour.noise is {ascii(noise)[:60]}; it must list a number or null for each episode"
    return None


def _check_split(card: dict[str, Any]) -> str | None:
    episodes, holdout = len(card["episode_lengths"]), card["split"].get("holdout")
    if not isinstance(holdout, list) or any(type(e) is not int or not 0 <= e < episodes for e in holdout):
        return f"split.holdout is {ascii(holdout)[:60]}; it must list episodes from 0 to {episodes - 1}"
    if len(holdout) >= episodes or any(a >= b for a, b in itertools.pairwise(holdout)):
        return f"split.holdout is {ascii(holdout)[:60]}; it must ascend and leave an episode for training"
    return None


def check_card(card: Any, place: str) -> Spec:
    """The spec of a sound card.

    Raises:
        UsageError: a field is missing, unknown, wrong or contradicts another; field and value named.
    """
    if not isinstance(card, dict):
        raise UsageError(
            f"{place} holds no table of fields; restore it from a copy or make the dataset again"
        )
    version = card.get("format")
    if type(version) is int and version > FORMAT:
        raise UsageError(
            f"{place} has format {str(version)[:20]}; this perdure reads up to {FORMAT}, so install a newer "
            "one"
        )
    if set(card) != set(FIELDS):
        odd = sorted(set(card) ^ set(FIELDS))[0]
        state = "missing" if odd in FIELDS else "unknown"
        raise UsageError(
            f"{place}: the field {ascii(odd)[:60]} is {state}; restore it from a copy or make the dataset "
            "again"
        )
    for field, kind in FIELDS.items():
        if type(card[field]) is not kind:
            raise UsageError(f"{place}: {field} is {ascii(card[field])[:60]}; it must be a {kind.__name__}")
    if version != FORMAT:
        raise UsageError(f"{place} has format {str(version)[:20]}; this perdure reads format {FORMAT}")
    if not card["episode_lengths"]:
        raise UsageError(
            f"{place}: episode_lengths is empty, so there are zero episodes; a dataset needs at least one"
        )
    problem = _check_episode_fields(card) or _check_split(card)
    if problem:
        raise UsageError(f"{place}: {problem}")
    safe_name(card["name"], f"{place}: name")
    safe_name(card["quality"], f"{place}: quality")
    try:
        return Spec.from_json(card["spec"])
    except (UsageError, ArithmeticError) as reason:
        raise UsageError(f"{place}: {reason}") from None


def read_card(folder: Path) -> tuple[dict[str, Any], Spec]:
    """The verified card of a dataset and its spec; UsageError for anything damaged, edited or missing."""
    path = folder / CARD_FILE
    if path.is_symlink():
        raise UsageError(f"{path} is a link; a dataset holds plain files, so copy the card there")
    card = read_json(path)
    spec = check_card(card, str(path))
    try:
        digest = card_digest(card)
    except (RecursionError, ValueError):
        raise UsageError(
            f"{path} is nested too deeply; restore it from a copy or make the dataset again"
        ) from None
    if digest != card["card_digest"]:
        raise UsageError(
            f"{path} was damaged or edited: card_digest is {ascii(card['card_digest'])[:80]} and its content "
            f"has {digest}; "
            "restore it from a copy, or write a new dataset from this one"
        )
    return card, spec
