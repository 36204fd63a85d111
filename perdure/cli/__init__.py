"""The command line: finds the verb, and turns every way a command can end into one sentence and an exit code.

Exit codes: 0 done, 1 some runs of a sweep failed, 2 wrong use, 3 a guard stopped it, 130 and 143 interrupted after a clean
checkpoint. An exception that nobody foresaw stays a traceback, because it is a fault of this library. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from perdure import __version__
from perdure.core.errors import GuardError, Interrupted, UsageError, nearest

VERBS: dict[str, tuple[str, str]] = {
    "run": ("perdure.cli.run", "learn a stream of tasks and score it; resumes what was interrupted"),
    "sweep": ("perdure.cli.sweep", "many runs at once, on this machine or a cluster; resumes"),
    "tune": ("perdure.cli.tune", "choose a method's strength on tasks outside the benchmark"),
    "collect": ("perdure.cli.collect", "make the datasets of a stream with scripted experts"),
    "data": ("perdure.cli.data", "list, inspect, check, import and export datasets"),
    "eval": ("perdure.cli.evaluate", "score the newest agent of a run again, changing nothing"),
    "report": ("perdure.cli.report", "one HTML page, tables and figures of any number of runs"),
    "video": ("perdure.cli.video", "short clips of a run's agents before and after learning"),
    "methods": ("perdure.cli.methods", "list the methods"),
    "streams": ("perdure.cli.streams", "list the streams, and whether their data are there"),
    "bench": ("perdure.cli.bench", "measure speed against plain reference code"),
    "doctor": ("perdure.cli.doctor", "what is installed, what renders, and how to repair the rest"),
}
"""Verb -> (module with `main(argv) -> exit code`, one line of help)."""

WELCOME = """perdure {version}: continual offline reinforcement learning.
One agent learns a stream of tasks, each from a fixed dataset: no simulator while learning, no going back to
earlier data, nothing forgotten. The package measures how well that works.

Try first:
  perdure run finetune toy      learns three tasks in seconds, and forgets them
  perdure run packnet toy       the same without forgetting
  perdure report runs/toy       one page that compares the two

More: `perdure --help` lists every command, `perdure COMMAND --help` explains one."""

STOPPED = "stopped by Ctrl-C; finished work is kept, the same command again goes on from there"


class _Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt no fault, so that no `except Exception` takes it for one."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code and prints at most one line of complaint."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        with _termination():
            code = _dispatch(given)
            sys.stdout.flush()
            return code
    except (UsageError, GuardError, Interrupted) as problem:
        return _complain(str(problem), problem.exit_code)
    except _Terminated:
        return _complain("stopped by SIGTERM; finished work is kept, the same command again goes on from there", 143)
    except KeyboardInterrupt:
        return _complain(STOPPED, 130)
    except BrokenPipeError:  # the reader has seen enough, as in `perdure methods | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(WELCOME.format(version=__version__))
        return 0
    verb, *rest = argv
    if verb in ("-h", "--help", "help"):
        print("usage: perdure COMMAND ...\n\ncommands:")
        print("\n".join(f"  {name:<8}  {words}" for name, (_, words) in VERBS.items()))
        print("\nexample:\n  perdure run packnet toy --seed 0 1 2\n\n`perdure COMMAND --help` explains one command.")
        return 0
    if verb == "--version":
        print(f"perdure {__version__}")
        return 0
    if verb not in VERBS:
        raise UsageError(f"unknown command '{verb}'{nearest(verb, VERBS) or '; known: ' + ', '.join(VERBS)}")
    return int(import_module(VERBS[verb][0]).main(rest))


def _complain(sentence: str, code: int) -> int:
    line = " ".join(sentence.split())
    print(f"perdure: {line if line.isprintable() else ascii(line)[1:-1]}", file=sys.stderr)
    return code


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C does; a running Run has its own handler, which saves first."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            raise _Terminated
        if _importing(frame):  # an exception inside the import of a C extension would become another one, or an abort
            os.write(2, f"perdure: {STOPPED}\n".encode())
            os._exit(130)
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or a caller's own
        numbers.append(signal.SIGINT)
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not in the main thread: the caller handles its own signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    """Whether the signal came while a module was being imported."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
