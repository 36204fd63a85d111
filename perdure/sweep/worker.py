"""One run of a sweep in a process of its own: what `perdure run` does, with its progress in a small file and its end in words.

A job is plain JSON, and so is what comes back. Torch is imported after the job is known, because its number of threads is
set before that.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perdure.core.errors import GuardError, Held, Interrupted, UsageError
from perdure.core.files import json_bytes
from perdure.core.matrix import Episode
from perdure.core.threads import VARIABLES

FAREWELL = 30.0
"""Seconds that a worker without a driver gets for its last checkpoint."""

STATUS_SECONDS = 1.0
"""Between two writes of the progress."""


def job_of(key: str, config: dict[str, Any], folder: Path, home: Path, mark: str, *, threads: int, device: str) -> dict[str, Any]:
    """All that a worker needs to know, as JSON. `home` is the sweep's own folder, whose file `mark` proves that it is shared."""
    from perdure.data.names import dataset_folder

    return {
        "key": key, "ticket": f"{mark}-{time.time_ns()}", "config": config, "folder": str(folder.absolute()),
        "home": str(home.absolute()), "mark": mark, "cwd": os.getcwd(), "paths": paths(), "threads": threads,
        "device": device,
        "environment": {"PERDURE_DATA": str(dataset_folder("x").parent.absolute())}
        | {name: os.environ[name] for name in ("PERDURE_CACHE",) if name in os.environ},
    }  # fmt: skip


def paths() -> list[str]:
    """Where this process finds modules, for another process to find a user's own methods."""
    return [str(Path(path).absolute()) for path in sys.path]


def work(job: dict[str, Any]) -> dict[str, str]:
    """Do one job; {"state": "done", "held", "stopped" or "failed", "sentence": why}."""
    try:
        _settle(job)
        _run(job)
    except Held as problem:
        return {"state": "held", "sentence": str(problem)}
    except (UsageError, GuardError) as problem:
        return {"state": "failed", "sentence": str(problem)}
    except (Interrupted, KeyboardInterrupt):
        return {"state": "stopped", "sentence": ""}
    except Exception as problem:
        traceback.print_exc()
        sys.stderr.flush()
        words = " ".join(f"{type(problem).__name__}: {problem}".split())
        return {"state": "failed", "sentence": f"{words[:300]} (a fault of the program; traceback in {log_of(job)})"}
    return {"state": "done", "sentence": ""}


def log_of(job: dict[str, Any]) -> Path:
    """Where the output of a job's process goes."""
    return Path(job["home"]) / f"{job['key']}.log"


def _settle(job: dict[str, Any]) -> None:
    """Make this process like the driver's, wherever it is.

    Raises:
        UsageError: this machine does not see the driver's folder.
    """
    os.environ.update({name: str(job["threads"]) for name in VARIABLES} | job["environment"])
    mark = Path(job["home"]) / "mark"
    if not mark.is_file() or mark.read_text() != job["mark"]:
        raise UsageError(f"the machine {socket.gethostname()} does not see the sweep's folder {Path(job['home']).parent}; give an"
                         " --out that all nodes of the cluster share")
    if not os.path.isdir(job["cwd"]):
        raise UsageError(f"the machine {socket.gethostname()} has no folder {job['cwd']}; start the sweep in a folder that all"
                         " nodes of the cluster share")
    os.chdir(job["cwd"])
    sys.path += [path for path in job["paths"] if path not in sys.path]


def _run(job: dict[str, Any]) -> None:
    import torch

    from perdure.api import enough_memory
    from perdure.experiment import Experiment
    from perdure.methods import METHODS
    from perdure.run_config import RunConfig, find
    from perdure.streams import outline

    torch.set_num_threads(job["threads"])
    config = RunConfig(**job["config"])
    tasks = outline(config.stream, config.stream_options)
    if missing := next((task.folder for task in tasks if not task.present), None):
        raise UsageError(f"the machine {socket.gethostname()} sees no dataset at {missing}; set PERDURE_DATA to a folder that all"
                         " nodes of the cluster share")
    joint = find(config.method, METHODS, "method").schedule == "joint"
    progress = Reporter(status_of(Path(job["home"]), job["key"]), job["ticket"], [task.name for task in tasks],
                        int(config.method_config["steps"]), joint)
    with enough_memory(config):
        Experiment(config, Path(job["folder"]), progress, workers=0, device=job["device"]).execute()


# -- progress -----------------------------------------------------------------------------------------------


def status_of(home: Path, key: str) -> Path:
    """Where a run's progress is written."""
    return home / f"{key}.json"


class Reporter:
    """Writes where a run stands into a small file, which is replaced about once a second; nothing depends on it."""

    def __init__(self, path: Path, ticket: str, tasks: list[str], steps: int, joint: bool):
        self.path, self.ticket, self.tasks, self.steps, self.joint = path, ticket, tasks, max(1, steps), joint
        self.began: tuple[float, float] | None = None
        """When learning was first seen, and how much of the run was done then."""
        self.place: tuple[int, str, int] = (-1, "", 0)
        """Task, phase and steps of the phase that runs."""
        self.before = 0
        """Steps of the task before this phase."""
        self.share = 0.0
        self.left: float | None = None
        self.beat = 0
        self.next, self.what = 0.0, ""
        self._write("starting")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._write(text)

    def step(self, task: int, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        last = self.place
        self.before = 0 if last[0] != task else self.before + last[2] * (last[1] != phase)
        self.place = (task, phase, steps)
        self._advance(task, min(1.0, (self.before + step) / (self.steps * (len(self.tasks) if self.joint else 1))))
        self._write(f"{phase} {step}/{steps}")

    def evaluating(self, learned: int, task: int) -> None:
        self._write(f"evaluating {self.tasks[task]}")

    def evaluated(self, learned: int, task: int, episodes: list[Episode]) -> None:
        pass

    def _advance(self, task: int, part: float) -> None:
        """Update the share that is done and the seconds left, evaluations included, at the pace so far."""
        now = time.monotonic()
        self.share = part if self.joint else (task + part) / len(self.tasks)
        self.began = self.began or (now, self.share)
        done = self.share - self.began[1]
        self.left = (now - self.began[0]) * (1 - self.share) / done if done > 0 else None

    def _write(self, doing: str) -> None:
        what = doing.partition(" ")[0]
        if time.monotonic() < self.next and what == self.what:
            return
        self.next, self.what = time.monotonic() + STATUS_SECONDS, what
        self.beat += 1
        status = {"ticket": self.ticket, "beat": self.beat, "host": socket.gethostname(), "pid": os.getpid(), "doing": doing,
                  "task": max(self.place[0], 0) + 1, "tasks": len(self.tasks), "name": self.tasks[max(self.place[0], 0)],
                  "share": self.share, "left": self.left}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(json_bytes(status))
            temporary.replace(self.path)
        except OSError:  # a full disk is the run's affair
            temporary.unlink(missing_ok=True)


def read_status(home: Path, key: str, ticket: str) -> dict[str, Any]:
    """The progress of a job; empty where none has been written by the attempt that has this ticket."""
    try:
        found = json.loads(status_of(home, key).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("ticket") == ticket else {}


# -- as a process of this machine ---------------------------------------------------------------------------


def serve() -> None:
    """Read a job from standard input, do it, write how it ended to standard output. The driver holds the other end of standard
    input open for as long as it lives."""
    line = b""
    while not line.endswith(b"\n"):
        if not (part := os.read(0, 65536)):
            return
        line += part
    answer = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not end up in the answer
    threading.Thread(target=_end_with_driver, daemon=True).start()
    os.write(answer, json.dumps(work(json.loads(line))).encode())


def _end_with_driver() -> None:
    """Stop as if by SIGTERM, which saves first, once the driver has gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(FAREWELL)
    os._exit(1)
