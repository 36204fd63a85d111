"""Clips of a run folder for the page: read from `clips/index.json`, checked, and turned into data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.report.collect import Collection

TYPES = {".webp": "image/webp", ".gif": "image/gif", ".png": "image/png"}
"""Image types that every browser animates or shows inside an <img>."""

MOMENTS = ("before", "after learning", "end of stream")

LIMIT = 24 * 2**20
"""Most bytes of clips in one page; what is beyond stays in the run folders."""


@dataclass(frozen=True)
class Clip:
    """One clip of row `row`; `source` is a data URI."""

    row: str
    task: str
    when: str
    success: bool | None
    source: str


def clips(collection: Collection) -> tuple[list[Clip], list[str]]:
    """Clips of the first seed of every row that has some, and a sentence for each that was left out."""
    found, left, used = [], [], 0
    for group in collection.groups:
        folders = [
            run.folder / "clips" for run in group.runs if (run.folder / "clips" / "index.json").is_file()
        ]
        for entry in _index(folders[0]) if folders else []:
            path = folders[0] / entry["file"]
            size = path.stat().st_size
            if used + size > LIMIT:
                left.append(
                    f"{group.name}: {entry['file']} is in the run folder only; the page would grow too large."
                )
                continue
            used += size
            kind = TYPES[path.suffix.lower()]
            source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            found.append(Clip(group.name, entry["task"], entry["when"], entry.get("success"), source))
    return found, left


def _index(folder: Path) -> list[dict[str, Any]]:
    """Entries of `index.json`.

    Raises:
        UsageError: malformed, a file outside the folder or missing, or no image type that a page can show.
    """
    index = folder / "index.json"
    content = read_json(index)
    entries = content.get("clips") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UsageError(f"{index} has no list 'clips'; make it again with 'perdure video'")
    for entry in entries:
        fields = [entry.get(name) for name in ("task", "when", "file")] if isinstance(entry, dict) else [None]
        if any(type(value) is not str for value in fields) or entry.get("success") not in (True, False, None):
            raise UsageError(f"{index} has a malformed entry; make it again with 'perdure video'")
        name = entry["file"]
        if Path(name).name != name or Path(name).suffix.lower() not in TYPES:
            raise UsageError(
                f"{index} names the file {name[:60]!r}; a clip is a .webp, .gif or .png beside it"
            )
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise UsageError(f"{path} is missing or no regular file; make it again with 'perdure video'")
    return entries
