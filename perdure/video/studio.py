"""The child process that makes a run's clips: loads its agents, lets each act, films, writes one file per clip.

An agent acts through the evaluator itself, in row 0 of a batch with the run's own number of rows and with the
keys of the matrix cell, so a clip shows the very episode that the cell scored first.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from perdure.core.config import build
from perdure.core.errors import UsageError
from perdure.core.files import read_json, write_atomic
from perdure.core.matrix import Episode, ScoreMatrix
from perdure.core.method import Method
from perdure.core.task import Stream, Task
from perdure.data.access import Access, Views, grant
from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator
from perdure.evaluate.slots import receive, send
from perdure.experiment import make_method, open_agent
from perdure.run_config import load_config
from perdure.video.film import Filmed, FilmedFactory, opened, webp

Tell = Callable[[dict[str, Any]], None]


def serve(descriptor: int) -> None:
    """Do the one job that comes through the socket; every clip and every problem is told through it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    connection = socket.socket(fileno=descriptor)
    job, _ = receive(connection)
    last: dict[str, Any] = {"end": True}
    try:
        Studio(Path(job["run"]), Path(job["to"]), job["size"], lambda message: send(connection, message)).work(job["tasks"])
    except UsageError as problem:
        last = {"refused": str(problem)}
    except Exception as problem:
        place = traceback.extract_tb(problem.__traceback__)[-1]
        last = {"refused": f"{_words(problem)} ({place.filename}:{place.lineno})"}
    send(connection, last)
    os._exit(0)  # graphics libraries may crash when Python takes them down


def _words(problem: Exception) -> str:
    text = " ".join(str(problem).split())[:200]
    return text if isinstance(problem, UsageError) else f"{type(problem).__name__}: {text}"


@dataclass
class Studio:
    """The agents of the finished run `run`; clips of `size` pixels go into the folder `to`."""

    run: Path
    to: Path
    size: int
    tell: Tell
    _methods: dict[int, Method] = field(default_factory=dict)

    def work(self, tasks: list[str]) -> None:
        """Film these tasks. A task without pictures is told about, with the reason, and left out."""
        self.config = load_config(self.run / "config.json")
        self.matrix = ScoreMatrix.load(self.run / "scores.json")
        torch.set_num_threads(_threads(self.run))
        self.stream = self.config.load_stream(lambda text: self.tell({"say": text}))
        for task in self.stream.tasks:
            if task.name in tasks:
                self._task(task)

    def _task(self, task: Task) -> None:
        try:
            camera = self._camera(task)
        except Exception as problem:
            self.tell({"task": task.name, "blind": _words(problem), "drawing": not isinstance(problem, UsageError)})
            return
        evaluator = self._evaluator(task, camera)
        try:
            files: dict[int, dict[str, Any]] = {}
            for when, learned in self._moments(task.index):
                if learned not in files:
                    name = f"task{task.index + 1}-after{learned}.webp"
                    files[learned] = self._clip(evaluator, camera, task, learned, name)
                self.tell({"clip": {"task": task.name, "when": when} | files[learned]})
        finally:
            evaluator.close()

    def _moments(self, task: int) -> list[tuple[str, int]]:
        """(name, number of tasks learned); a joint run has no agent in between."""
        moments = [("before", 0), ("after learning", task + 1), ("end of stream", len(self.stream))]
        joint = self._method(0).schedule == "joint"
        return [(when, learned) for when, learned in moments if not (joint and when == "after learning")]

    def _camera(self, task: Task) -> Filmed:
        """The task's environment with a camera that has taken one picture.

        Raises:
            Exception: whatever keeps environment or graphics library from it.
        """
        if task.env is None:
            raise UsageError("it has data only and no simulator")
        camera = Filmed(opened(task.env), self.size, task.env.horizon, task.stops_at_success)
        camera.reset(seed=0, options={"goal": list(task.goals.final[0]) if task.goals.final else None})
        return camera

    def _evaluator(self, task: Task, camera: Filmed) -> StreamEvaluator:
        assert task.env is not None
        filmed = replace(task, env=FilmedFactory(camera, task.env))
        stream: Stream = replace(self.stream, tasks=tuple(filmed if t.name == task.name else t for t in self.stream.tasks))
        views, method = Views(stream), self._method(0)
        needs = grant(type(method), method.config, stream)
        settings = build(EvaluationConfig, self.config.evaluation, "evaluation")
        return StreamEvaluator(stream, lambda index: Access(views, index, needs), settings, self.config.seed,
                               method.schedule == "joint", workers=0)

    def _method(self, learned: int) -> Method:
        """The run's method after that many tasks; 0: as it was made."""
        if learned not in self._methods:
            self._methods[learned] = open_agent(self.run / "agent" / str(learned))[0] if learned else make_method(self.config)
        return self._methods[learned]

    def _clip(self, evaluator: StreamEvaluator, camera: Filmed, task: Task, learned: int, name: str) -> dict[str, Any]:
        episode = evaluator.cell(self._method(learned), learned, task.index, 1)[0]
        write_atomic(self.to / name, webp(camera.frames, camera.horizon, camera.stride))
        cell = self.matrix.cells.get((learned, task.index))
        if cell is not None and cell.episodes and not _agree(episode, cell.episodes[0]):
            self.tell({"say": f"task {task.name} after {learned} tasks: the clip shows {_told(episode)}, the run recorded"
                       f" {_told(cell.episodes[0])} for the same episode; this machine or its versions compute differently"})
        return {"file": name, "success": episode.success}


def _agree(shown: Episode, recorded: Episode) -> bool:
    return (shown.success, shown.length) == (recorded.success, recorded.length)


def _told(episode: Episode) -> str:
    outcome = {True: "success", False: "no success", None: "an end"}[episode.success]
    return f"{outcome} after {episode.length} steps"


def _threads(run: Path) -> int:
    """Threads of the run's own evaluation, since the last bits of a forward depend on them."""
    path = run / "environment.json"
    found = read_json(path) if path.exists() else {}
    threads = found.get("fingerprint", {}).get("threads") if isinstance(found, dict) else None
    return threads if type(threads) is int and 1 <= threads <= 1024 else torch.get_num_threads()
