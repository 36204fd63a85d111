"""Remembers which dataset files this machine verified, so that only the first open reads all of a dataset.

An entry is an empty file whose name is a digest of what identifies the file's content: device, inode, size,
times and the digest of the card. Losing the cache costs time only, so a cache that cannot be written is no
error.
"""

import hashlib
import os
import time
from pathlib import Path

SETTLED_NS = 100_000_000
"""A file changed less than this ago is not remembered: file times are too coarse to show a second change."""


def cache_folder() -> Path:
    """`PERDURE_CACHE`, else `perdure` in the user's cache folder."""
    chosen = os.environ.get("PERDURE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "perdure"


def entry(state: os.stat_result, card_digest: str) -> Path:
    """Where the mark of a file in this state lies."""
    identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, card_digest)
    return cache_folder() / "verified" / hashlib.sha256(repr(identity).encode()).hexdigest()


def is_verified(state: os.stat_result, card_digest: str) -> bool:
    try:
        return entry(state, card_digest).is_file()
    except OSError:
        return False


def remember(before: os.stat_result, after: os.stat_result, card_digest: str) -> None:
    """Mark a file as verified, unless it changed between `before` and `after` or a moment ago."""
    mark = entry(after, card_digest)
    if (
        mark != entry(before, card_digest)
        or time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) < SETTLED_NS
    ):
        return
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        pass
