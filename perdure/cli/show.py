"""How listings look: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Strict JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False))


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of equal length as lines with aligned columns; the last column is left ragged."""
    if not rows:
        return ""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows]
    return "\n".join(indent + line for line in lines)


def described(rows: Sequence[tuple[str, str]], width: int = 110) -> str:
    """Names with their descriptions beside them, wrapped."""
    left = min(38, max((len(name) for name, _ in rows), default=0))
    lines = []
    for name, words in rows:
        parts = textwrap.wrap(words, max(30, width - left - 4)) or [""]
        head = f"  {name.ljust(left)}  " if len(name) <= left else f"  {name}\n  {' ' * left}  "
        lines.append(head + f"\n  {' ' * left}  ".join(parts))
    return "\n".join(line.rstrip() for line in lines)
