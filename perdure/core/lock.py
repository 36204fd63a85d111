"""A folder belongs to one process at a time: a lock file that says who holds it, and goes with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from perdure.core.errors import Held, UsageError


@contextlib.contextmanager
def claimed(folder: Path, name: str = "run.lock") -> Iterator[None]:
    """Hold a folder by its lock file; a second command on it is refused. The lock goes with the process, however that ends.

    Raises:
        Held: another process holds it; names that process.
        UsageError: the folder cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115 - closed below
    except OSError as problem:
        raise UsageError(f"out is {folder}, which cannot be written ({problem.strerror}); choose another --out") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = path.stat().st_ino == os.fstat(handle.fileno()).st_ino
        except OSError:
            mine = False
        if not mine:  # held, or removed this moment by the one that held it
            handle.seek(0)
            raise Held(f"{folder} is being written by {handle.read().strip() or 'another command'}; wait for it, stop it,"
                       " or choose another --out")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
