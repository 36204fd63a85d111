"""Small sweeps of the toy stream, and a backend whose answers are scripted."""

from __future__ import annotations

import time
from pathlib import Path

from perdure.sweep import worker
from perdure.sweep.driver import Sweep
from perdure.sweep.plan import Planned, Space, plan
from perdure.sweep.show import Silent

SMALL = {
    "method": {"steps": 30, "batch": 8}, "policy": {"width": 16, "layers": 2}, "stream": {"episodes": 6},
    "evaluation": {"episodes": 2, "shared": 1, "curve": 1, "slots": 2},
}  # fmt: skip
"""A run of a second, imports not counted."""


def small(methods="finetune", seeds=(0,), grid=(), root=Path("runs"), **method):
    fixed = SMALL | {"method": SMALL["method"] | method}
    return plan(Space(methods.split(), ["toy"], seeds, grid=grid, fixed=fixed), root)


def job_of(planned: Planned, mark: str = "m", home: Path = Path("runs/.sweep")):
    return worker.job_of(planned.key, planned.config.__dict__, planned.folder, home, mark, threads=1, device="cpu")


class Scripted:
    """A backend in this process: each job ends as the script says, and truly runs when that is `done`."""

    def __init__(self, script=(), slots=1):
        self.script, self.slots, self.note = list(script), slots, ""
        self.jobs, self.began, self.killed, self.stopped = {}, [], [], []

    def start(self, job):
        assert self.slots is None or len(self.jobs) < self.slots
        self.jobs[job["key"]] = job
        self.began.append(job["key"])

    def ended(self, seconds):
        if not self.jobs:
            time.sleep(0.01)
            return []
        key, job = next(iter(self.jobs.items()))
        answer = self.script.pop(0) if self.script else "done"
        if answer in ("silent", "hangs"):
            if answer == "hangs":
                worker.Reporter(worker.status_of(Path(job["home"]), key), job["ticket"], ["a"], 1, joint=False)
            time.sleep(0.1)
            return []
        if isinstance(answer, BaseException):
            raise answer
        del self.jobs[key]
        return [(key, worker.work(job) if answer == "done" else {"state": answer, "sentence": f"it is {answer}"})]

    def stop(self, key):
        self.stopped.append(key)

    def kill(self, key):
        self.killed.append(key)
        del self.jobs[key]

    def close(self):
        self.jobs.clear()


class Heard(Silent):
    def __init__(self):
        self.texts = []

    def say(self, text):
        self.texts.append(text)


def swept(planned, backend, **options):
    heard = Heard()
    sweep = Sweep(planned, Path("runs"), lambda: backend, heard, **options)
    return sweep.execute(), heard.texts
