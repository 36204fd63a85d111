"""Progress of a collection in words: episodes, speed, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from perdure.core.words import duration

QUIET_SECONDS = 10.0
"""Between two lines where each one stays on the screen or in a log."""

Say = Callable[[str], None]


def collecting(label: str, show: Say) -> Callable[[int, int, float], None]:
    """A callback for `perdure.data.collect.collect` that shows how far `label` is."""
    began = time.monotonic()
    first: list[int] = []

    def report(done: int, total: int, steps_per_second: float) -> None:
        first.append(done)
        rolled = done - first[0] + 1
        left = (time.monotonic() - began) / rolled * (total - done)
        show(f"collecting {label}: {done} of {total} episodes | {steps_per_second:.0f} steps/s | {duration(left)} left")

    return report


def sparsely(say: Say, seconds: float = QUIET_SECONDS) -> Say:
    """`say`, but at most once in so many seconds."""
    last = [time.monotonic()]

    def show(text: str) -> None:
        if time.monotonic() - last[0] >= seconds:
            last[0] = time.monotonic()
            say(text)

    return show
