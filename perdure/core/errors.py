"""The three ways a command ends early, each with the exit code the command line gives it."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Wrong use: one sentence naming the field, the value and what would be right (exit code 2)."""

    exit_code = 2


class Unreadable(UsageError):
    """A file that the system would not read, which says nothing about what is in it."""


class Held(UsageError):
    """Another process holds a folder; it is free again when that process ends."""


class GuardError(Exception):
    """A guard stopped a run before it could write something wrong, such as a NaN (exit code 3)."""

    exit_code = 3


class Interrupted(Exception):
    """A signal asked the run to stop; it did, after a clean checkpoint (exit code 128 + signal)."""

    def __init__(self, sentence: str, signal_number: int):
        super().__init__(sentence)
        self.exit_code = 128 + signal_number


def nearest(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `word`, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(name) for name in names], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
