"""Fields of config dataclasses with the text written below them in the source, for help."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from perdure.core.config import field_types


def field_docs(cls: type) -> dict[str, str]:
    """Field name -> the string literal below it, of the dataclass and those it extends."""
    found: dict[str, str] = {}
    for layer in reversed(cls.__mro__):
        if is_dataclass(layer):
            found |= _docs_of(layer)
    return {f.name: found.get(f.name, "") for f in fields(cls)}


def _docs_of(cls: type) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):  # no source, as in a notebook
        return {}
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[line.target.id] = " ".join(str(below.value.value).split())
    return docs


def option_rows(cls: type, prefix: str, values: dict[str, Any]) -> list[tuple[str, str]]:
    """(`--prefix.field VALUE`, description) of every field, with the values that would be used."""
    kinds, docs = field_types(cls), field_docs(cls)
    rows = []
    for name, kind in kinds.items():
        choices = f" One of {', '.join(map(str, get_args(kind)))}." if get_origin(kind) is Literal else ""
        rows.append((f"--{prefix}.{name} {_written(values[name])}", docs[name] + choices))
    return rows


def _written(value: Any) -> str:
    """As it would be typed."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'
