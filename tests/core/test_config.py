"""Configs: text from the command line becomes the field's type, and every mistake is named with its remedy."""

from dataclasses import dataclass
from typing import Literal

import pytest

from perdure.core.config import build, digest, first_difference, to_json
from perdure.core.errors import UsageError


@dataclass(frozen=True)
class Example:
    steps: int = 5
    rate: float = 1.0
    name: str = "x"
    on: bool = False
    share: Literal["equal", "geometric"] = "equal"
    budget: int | None = None
    sizes: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("steps", "12", 12),
        ("steps", "1e3", 1000),
        ("steps", 7, 7),
        ("steps", 7.0, 7),
        ("steps", "-3", -3),
        ("steps", "9007199254740993", 2**53 + 1),
        ("rate", "0.5", 0.5),
        ("rate", "3", 3.0),
        ("rate", 3, 3.0),
        ("rate", "1e-4", 1e-4),
        ("rate", "-2", -2.0),
        ("name", "12", "12"),
        ("name", 12, "12"),
        ("on", "true", True),
        ("on", "False", False),
        ("on", True, True),
        ("share", "geometric", "geometric"),
        ("budget", "none", None),
        ("budget", None, None),
        ("budget", "100", 100),
    ],
)
def test_conversions(field, text, value):
    made = getattr(build(Example, {field: text}, "method"), field)
    assert made == value
    assert type(made) is type(value), "1 and 1.0 are the same run and must have the same hash"


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("step", "1", r"unknown option method\.step; did you mean 'steps'\?"),
        ("zzzzz", "1", r"unknown option method\.zzzzz; known: steps, rate, name, on, share, budget, sizes"),
        ("steps", "many", r"method\.steps is 'many'; give a whole number"),
        ("steps", "1.5", r"method\.steps is '1\.5'; give a whole number"),
        ("steps", 1.5, r"method\.steps is 1\.5; give a whole number"),
        ("steps", True, r"method\.steps is True; give a whole number"),
        ("steps", "inf", r"method\.steps is 'inf'; give a whole number"),
        ("steps", "none", r"method\.steps is 'none'; give a whole number"),
        ("steps", None, r"method\.steps is None; give a whole number"),
        ("rate", "nan", r"method\.rate is 'nan'; give a number"),
        ("rate", "fast", r"method\.rate is 'fast'; give a number"),
        ("rate", [1], r"method\.rate is \[1\]; give a number"),
        ("on", "yes", r"method\.on is 'yes'; use true or false"),
        ("share", "equel", r"method\.share is 'equel'; use one of equal, geometric; did you mean 'equal'\?"),
        ("budget", "some", r"method\.budget is 'some'; give a whole number"),
        ("sizes", "1,2", r"method\.sizes has no form that an option can set"),
    ],
)
def test_mistakes_are_named(field, text, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        build(Example, {field: text}, "method")


def test_digest_follows_every_value_and_no_order():
    one = to_json(Example())
    assert digest(one) == digest(dict(reversed(one.items())))
    assert len({digest(to_json(Example(steps=s, rate=r))) for s in range(5) for r in (0.1, 0.2)}) == 10
    assert len(digest(one)) == 8


@pytest.mark.parametrize(
    ("mine", "theirs", "phrase"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 2}, "a is 1 here and 2 there"),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, r"a\.b is \[1\] here and \[2\] there"),
        ({"a": 1, "b": 2}, {"a": 1}, "b is 2 here and 'absent' there"),
        ({}, {"c": 3}, "c is 'absent' here and 3 there"),
        ({"a": None}, {}, "a is None here and 'absent' there"),
    ],
)
def test_first_difference(mine, theirs, phrase):
    import re

    found = first_difference(mine, theirs)
    assert found is None if phrase is None else re.fullmatch(phrase, found)
