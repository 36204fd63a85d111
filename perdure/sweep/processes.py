"""The backend without Ray: every run is a process of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from perdure.core.threads import VARIABLES
from perdure.sweep.backends import Ended, Resources
from perdure.sweep.worker import log_of, paths

BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from perdure.sweep.worker import serve; serve()"

POLL = 0.05
"""Seconds between two looks at the processes."""

GOODBYE_SECONDS = 10.0
"""A killed process is waited for this long."""


@dataclass
class Worker:
    """A process, the place it takes, and whether it was asked to stop."""

    process: subprocess.Popen[bytes]
    slot: int
    stopping: bool = False


class Processes:
    """Runs up to `slots` jobs at a time. A run's share of a GPU is a place on it; the process sees that GPU alone."""

    def __init__(self, slots: int, resources: Resources):
        self.slots: int | None = slots
        self.note = ""
        self.free = list(range(slots))[::-1]
        self.resources = resources
        self.workers: dict[str, Worker] = {}

    def start(self, job: dict[str, Any]) -> None:
        slot = self.free.pop()
        log = log_of(job)
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(paths())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, env=self._environment(slot, job["threads"]),
                start_new_session=True,  # the terminal's Ctrl-C reaches the driver alone, which asks every worker once
            )  # fmt: skip
        self.workers[job["key"]] = Worker(process, slot)
        with contextlib.suppress(BrokenPipeError):  # dead already: `ended` reports it
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()

    def _environment(self, slot: int, threads: int) -> dict[str, str]:
        found = os.environ | dict.fromkeys(VARIABLES, str(threads))
        if self.resources.gpus:
            visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            number = slot // self.resources.per_gpu()
            found["CUDA_VISIBLE_DEVICES"] = visible[number] if number < len(visible) else str(number)
        return found

    def ended(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while True:
            keys = [key for key, worker in self.workers.items() if worker.process.poll() is not None]
            if keys or time.monotonic() >= until:
                return [(key, self._answer(key)) for key in keys]
            time.sleep(POLL)

    def _answer(self, key: str) -> dict[str, str]:
        """What a process that has ended said, or how it was lost."""
        worker = self._forget(key)
        said = worker.process.stdout.read()
        self._shut(worker)
        with contextlib.suppress(ValueError):
            answer: dict[str, str] = json.loads(said)
            return answer
        if worker.stopping:
            return {"state": "stopped", "sentence": ""}
        code = worker.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return {"state": "lost", "sentence": f"its process {how}"}

    def _forget(self, key: str) -> Worker:
        worker = self.workers.pop(key)
        self.free.append(worker.slot)
        return worker

    @staticmethod
    def _shut(worker: Worker) -> None:
        for pipe in (worker.process.stdin, worker.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def stop(self, key: str) -> None:
        worker = self.workers[key]
        if not worker.stopping:  # a second signal would end it without a checkpoint
            worker.stopping = True
            worker.process.terminate()

    def kill(self, key: str) -> None:
        worker = self._forget(key)
        worker.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(GOODBYE_SECONDS)
        self._shut(worker)

    def close(self) -> None:
        for key in list(self.workers):
            self.kill(key)
