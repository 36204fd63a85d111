"""Names that are safe as folders and in tables: one check for every name from a file or a command line."""

import os
import unicodedata
from pathlib import Path

from perdure.core.errors import UsageError

LONGEST_NAME = 100
LONGEST_PART_BYTES = 200
"""File systems allow 255 bytes per name; the rest is room for what temporary files add."""

UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of control characters, invisible and direction marks, surrogates, line separators."""

REMEDY = "use letters, digits, '.', '_' and '-', with '/' between folders"


def safe_name(text: str, field: str) -> str:
    """`text` itself if it can neither leave its folder nor deceive a reader.

    Args:
        text: a dataset, task or quality name; `/` may separate folders.
        field: what the name is for, as the message shall call it.

    Raises:
        UsageError: empty, over 100 characters, absolute, or with `..`, backslash, colon, control or invisible
            characters.
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{field} is {text!r}; it needs a name: {REMEDY}")
    shown = ascii(text[:LONGEST_NAME])
    if len(text) > LONGEST_NAME:
        raise UsageError(
            f"{field} starts with {shown} and has {len(text)} characters; {LONGEST_NAME} is the most"
        )
    if any(unicodedata.category(letter) in UNSAFE_CATEGORIES for letter in text):
        raise UsageError(f"{field} is {shown}, which holds a control or invisible character; {REMEDY}")
    if unicodedata.normalize("NFC", text) != text:
        raise UsageError(
            f"{field} is {shown}, which some file systems store under another spelling; {REMEDY}"
        )
    if "\\" in text or ":" in text or text.startswith(("/", "~")):
        raise UsageError(f"{field} is {shown}, which could name a place outside its folder; {REMEDY}")
    for part in text.split("/"):
        if part in ("", ".", "..") or part != part.strip() or len(part.encode()) > LONGEST_PART_BYTES:
            raise UsageError(f"{field} is {shown}, whose part {part!a} is no safe folder name; {REMEDY}")
    return text


def dataset_folder(name: str, root: Path | str | None = None) -> Path:
    """Folder of the dataset `name` under `root` (default: `PERDURE_DATA`, else `./data`)."""
    chosen = root if root is not None else os.environ.get("PERDURE_DATA") or "data"
    return Path(chosen) / safe_name(name, "dataset name")
