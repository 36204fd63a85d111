"""Clips of a finished run: every task before learning, after learning it, and at the end of the stream.

The clips are animated WebP files in the run's folder `clips/`, with `index.json` naming them; `perdure report`
shows them. They are made in a child process, because OpenGL must be chosen before MuJoCo is imported and may
crash. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError, nearest
from perdure.core.files import read_json, sha256, sync_folder, write_json
from perdure.core.lock import claimed
from perdure.core.matrix import ScoreMatrix
from perdure.evaluate.slots import receive, send
from perdure.video.backends import advice, candidates, environment, missing

FORMAT = 1

SMALLEST, LARGEST = 32, 1024
"""Sides of a clip in pixels."""

PATIENCE_SECONDS = 180.0
"""A child that says nothing for so long hangs: a clip takes seconds."""

BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from perdure.video.studio import serve; serve(int(sys.argv[2]))"
)


@dataclass
class _Take:
    """What came out of one child."""

    clips: list[dict[str, Any]] = field(default_factory=list)
    blind: dict[str, str] = field(default_factory=dict)
    """Task -> why it has no pictures."""
    drawing: bool = False
    """Whether a graphics library is a reason, so that another backend may do better."""
    refused: str = ""
    """Why nothing was tried."""
    crash: str = ""

    @property
    def problem(self) -> str:
        """Why there are no clips; each reason once."""
        return self.refused or self.crash or "; ".join(dict.fromkeys(self.blind.values()))


def write_clips(
    folder: Path | str, *, size: int = 240, tasks: Sequence[str] = (), say: Callable[[str], None] = print
) -> Path | None:
    """Make the clips of a finished run, or find them made already.

    Args:
        folder: the run folder; the clips go into its `clips/`, whole or not at all.
        size: longer side in pixels, 32 to 1024.
        tasks: names of the tasks to film; none means all.
        say: called with sentences about what is done, and about clips that could not be made.

    Returns:
        The folder `clips/`, or None where nothing can be filmed here; `say` got the reason and the repair then.

    Raises:
        UsageError: no finished run, a task it does not have, a size out of range, or a folder that is not writable.
    """
    folder = Path(folder)
    matrix = _finished(folder)
    wanted = {"format": FORMAT, "size": _size(size), "tasks": _chosen(matrix, tasks), "scores": sha256(folder / "scores.json")}
    clips = folder / "clips"
    if _made_already(clips, wanted):
        say(f"{clips} has these clips already; nothing to do")
        return clips
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is not writable, so its clips cannot be kept; copy the run to a folder of yours")
    with claimed(folder):
        try:
            return _made(folder, wanted, say)
        except OSError as problem:
            raise UsageError(f"the clips of {folder} cannot be written ({problem.strerror}); make room there, then try"
                             " again") from None


def _made(folder: Path, wanted: dict[str, Any], say: Callable[[str], None]) -> Path | None:
    staging = folder / ".clips.staging"
    reasons: dict[str, str] = {}
    started = time.monotonic()
    say(f"filming {len(wanted['tasks'])} tasks of {folder}, a few seconds each")
    try:
        for backend in candidates():
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            job = {"run": str(folder), "to": str(staging), "size": wanted["size"], "tasks": wanted["tasks"]}
            take = _take(job, backend, say)
            if take.clips and not take.crash and not take.refused:
                return _kept(folder, staging, wanted, take, say, started)
            reasons[backend] = missing(backend) or take.problem
            if take.refused or not (take.crash or take.drawing):
                say(f"no clips of {folder}: {take.problem}")
                return None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    listed = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())
    say(f"no clips of {folder}, as nothing here draws ({listed}); {advice()}")
    return None


def _kept(
    folder: Path, staging: Path, wanted: dict[str, Any], take: _Take, say: Callable[[str], None], started: float
) -> Path:
    for task, reason in take.blind.items():
        say(f"no clips of task {task}: {reason}")
    write_json(staging / "index.json", wanted | {"clips": take.clips})
    clips = folder / "clips"
    if clips.exists():
        shutil.rmtree(clips)
    os.rename(staging, clips)
    sync_folder(folder)
    say(f"{len(take.clips)} clips in {clips} ({time.monotonic() - started:.0f} s)")
    return clips


def _finished(folder: Path) -> ScoreMatrix:
    """Scores of the run in `folder`.

    Raises:
        UsageError: no run, or one that is not finished.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no run folder, as it has no config.json; give a folder that `perdure run` made")
    if not (folder / "scores.json").is_file() or not (matrix := ScoreMatrix.load(folder / "scores.json")).complete:
        raise UsageError(f"the run in {folder} is not finished; finish it with: perdure run --from {folder / 'config.json'}"
                         f" --out {folder}")
    return matrix


def _chosen(matrix: ScoreMatrix, tasks: Sequence[str]) -> list[str]:
    for name in tasks:
        if name not in matrix.tasks:
            known = nearest(name, matrix.tasks) or "; it has " + ", ".join(matrix.tasks)
            raise UsageError(f"tasks names '{name}', which the run's stream {matrix.stream} does not have{known}")
    return [name for name in matrix.tasks if not tasks or name in tasks]


def _size(size: int) -> int:
    if type(size) is not int or not SMALLEST <= size <= LARGEST:
        raise UsageError(f"size is {size!r}; the longer side of a clip has {SMALLEST} to {LARGEST} pixels")
    return size


def _made_already(clips: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder holds clips made as wanted, from the same scores."""
    try:
        index = read_json(clips / "index.json")
        return all(index[name] == value for name, value in wanted.items()) and all(
            (clips / entry["file"]).is_file() for entry in index["clips"]
        )
    except (UsageError, LookupError, TypeError):
        return False  # absent, from another version, or damaged: made again


def _take(job: dict[str, Any], backend: str, say: Callable[[str], None]) -> _Take:
    take = _Take()
    try:
        for message in _messages(job, backend):
            if "say" in message:
                say(message["say"])
            elif "clip" in message:
                take.clips.append(message["clip"])
            elif "blind" in message:
                take.blind[message["task"]] = message["blind"]
                take.drawing |= message["drawing"]
            elif "refused" in message:
                take.refused = message["refused"]
    except EOFError as problem:
        take.crash = f"crashed ({problem})"
    except TimeoutError:
        take.crash = f"said nothing for {PATIENCE_SECONDS:g} s"
    return take


def _messages(job: dict[str, Any], backend: str) -> Iterator[dict[str, Any]]:
    """What a child that films with `backend` tells, until it is done; it never outlives this generator."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps([str(path) for path in sys.path]), str(theirs.fileno())],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()], process_group=0, env=environment(backend),
        )  # fmt: skip
        theirs.close()
        try:
            with contextlib.suppress(OSError):  # dead: `receive` finds out
                send(ours, job)
            while True:
                try:
                    message, _ = receive(ours)
                except (EOFError, ConnectionError):
                    raise EOFError(_how_it_ended(child)) from None
                if "end" in message:
                    return
                yield message
                if "refused" in message:
                    return
        finally:
            child.kill()
            child.wait()


def _how_it_ended(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(5.0)
    except subprocess.TimeoutExpired:
        return "it closed its connection"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
