"""The backend on Ray: every run is one Ray task, which Ray places by its CPUs and its share of a GPU.

Without an address a small Ray starts on this machine and ends with the sweep; with one, the same tasks go to that cluster.
A worker that dies is reported and not retried by Ray, because the driver counts the attempts of both backends.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from perdure.core.errors import UsageError
from perdure.sweep.backends import Ended, Resources
from perdure.sweep.worker import paths

REACH_SECONDS = 7.0
"""A head node that has not answered by then counts as unreachable."""

START_SECONDS = 120.0
"""Until a Ray that should start on this machine, or that answered a moment ago, counts as hanging."""

STORE_BYTES = 80 * 2**20
"""Shared memory of a local Ray: only configs and sentences travel, the data are memory-mapped files."""


def reach(address: str) -> None:
    """Make sure that a head node answers, since Ray itself would wait for minutes.

    Raises:
        UsageError: none does within a few seconds.
    """
    host, _, port = address.rpartition(":")
    remedy = "give HOST:PORT of the head node, as `ray start --head` prints it"
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--address is {address}; {remedy}")
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:  # in a process, because Ray and the looking up of a name know no deadline
        asked = subprocess.run(command, env=os.environ | quiet(), capture_output=True, text=True, check=False,
                               timeout=REACH_SECONDS)
    except subprocess.TimeoutExpired:
        problem = f"nothing came within {REACH_SECONDS:g} s"
    else:
        problem = asked.stderr.strip().rpartition("\n")[2][:160] if asked.returncode else ""
    if problem:
        raise UsageError(f"--address is {address}, where no Ray cluster answers ({problem}); {remedy}")


def quiet() -> dict[str, str]:
    """Environment of Ray's own processes: nothing is reported to anybody."""
    return {"RAY_USAGE_STATS_ENABLED": "0"}


def attempt(job: dict[str, Any]) -> dict[str, str]:
    """The Ray task: one job, in a fresh process."""
    from perdure.sweep.worker import log_of, work

    with contextlib.suppress(OSError):
        log = os.open(log_of(job), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    return work(job)


class OnRay:
    """Runs jobs on a Ray of this machine, or of a cluster."""

    def __init__(self, slots: int | None, resources: Resources, address: str):
        self.slots, self.resources = slots, resources
        self.refs: dict[Any, str] = {}
        self.stopping: set[str] = set()
        with _environment(local=not address), _signals_kept(), _deadline():
            self.ray = self._started(address)
        self.note = self._too_small() if address else ""
        self.task = self.ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0, max_calls=1)(attempt)

    def _started(self, address: str) -> Any:
        """Ray, connected."""
        import ray  # reads its environment here

        cpus = max(1, math.ceil((self.slots or 1) * self.resources.cpus))
        local: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False,
                                 "object_store_memory": STORE_BYTES}
        if not self.resources.gpus:
            local["num_gpus"] = 0
        try:
            ray.init(**({"address": address} if address else local), log_to_driver=False, logging_level=logging.ERROR)
        except Exception as problem:  # Ray has no common class for what goes wrong here
            where = f"--address is {address}, where Ray" if address else "Ray"
            words = " ".join(str(problem).split())[:160].rstrip(". ")
            raise UsageError(f"{where} does not start ({type(problem).__name__}: {words}); try --backend processes") from None
        return ray

    def _too_small(self) -> str:
        """A sentence if no node of the cluster can take a run now; one that grows may do so later."""
        want = self.resources
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= want.cpus and node.get("GPU", 0) >= want.gpus for node in nodes):
            return ""
        most = " and ".join(f"{max((node.get(kind, 0) for node in nodes), default=0):g} {kind}s" for kind in ("CPU", "GPU"))
        return (f"no node of the cluster has {want.cpus:g} CPUs and {want.gpus:g} GPUs (at most {most}); the runs wait until one"
                " comes")

    def start(self, job: dict[str, Any]) -> None:
        self.refs[self.task.options(name=job["key"]).remote(job)] = job["key"]

    def ended(self, seconds: float) -> list[Ended]:
        if not self.refs:
            time.sleep(seconds)
            return []
        try:
            ready, _ = self.ray.wait(list(self.refs), num_returns=1, timeout=seconds)
            if ready:  # take all that ended meanwhile
                ready, _ = self.ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)
            return [(self.refs[ref], self._answer(ref, self.refs.pop(ref))) for ref in ready]
        except SystemError as problem:  # in which Ray packs what a handler of SIGTERM raises
            raise problem.__cause__ or problem from None

    def _answer(self, ref: Any, key: str) -> dict[str, str]:
        try:
            answer: dict[str, str] = self.ray.get(ref, timeout=60)
            return answer
        except self.ray.exceptions.RayTaskError as problem:  # not even `work` could be imported there
            return {"state": "failed", "sentence": f"its worker cannot work ({' '.join(str(problem).split())[-200:]})"}
        except self.ray.exceptions.RayError as problem:
            if key in self.stopping:
                return {"state": "stopped", "sentence": ""}
            words = " ".join(str(problem).split()) or type(problem).__name__
            return {"state": "lost", "sentence": f"its worker was lost ({words.partition('. ')[0][:200]})"}

    def _ref(self, key: str) -> Any:
        return next(ref for ref, mine in self.refs.items() if mine == key)

    def stop(self, key: str) -> None:
        if key not in self.stopping:  # a second signal would end it without a checkpoint
            self.stopping.add(key)
            self.ray.cancel(self._ref(key))

    def kill(self, key: str) -> None:
        ref = self._ref(key)
        self.ray.cancel(ref, force=True)
        del self.refs[ref]

    def close(self) -> None:
        for key in list(self.refs.values()):
            self.kill(key)
        self.ray.shutdown()


@contextlib.contextmanager
def _environment(local: bool) -> Iterator[None]:
    """What Ray's own processes find in theirs. A Ray of this machine gets a key of its own, which Ray would otherwise leave in
    the home folder, and which this process must keep as long as it lives."""
    os.environ.update(quiet())
    if local and not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(paths())
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of SIGTERM in place of ours, which exits; afterwards, and if it does so, ours is asked again."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    exited = False
    try:
        yield
    except SystemExit:
        exited = True
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread, where Ray sets none either
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if exited:
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Ray has none of its own."""

    def give_up() -> None:
        os.write(2, f"perdure: Ray did not start within {START_SECONDS:g} s; try --backend processes\n".encode())
        os._exit(2)

    timer = threading.Timer(START_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
