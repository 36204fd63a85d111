"""A pool of environment slots, stepped in lockstep, in this process or in worker processes.

A worker that dies or goes silent is killed and replaced, and its running episodes are repeated in the new one
from their recorded commands. Since reset and actions determine an episode, the caller sees the very results
it would have seen, and nothing but time is lost; an environment that repeats itself differently is named.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from perdure.core.environment import EnvFactory
from perdure.core.errors import GuardError, UsageError
from perdure.core.threads import ONE_THREAD
from perdure.evaluate.slots import (
    Command,
    EnvFault,
    Reset,
    Result,
    Slots,
    describe,
    receive,
    received_results,
    send,
    send_commands,
)

START_SECONDS = 120.0
"""A new worker may take this long to import what its environment needs."""

TICK = 0.25
"""Seconds between two calls of the heartbeat while the pool waits."""

LOSSES = 3
"""So often may one episode lose its worker; then something is wrong with the environment itself."""

GOODBYE_SECONDS = 2.0
"""A worker that is told to end is killed after this long."""

BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from perdure.evaluate.slots import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)

Heartbeat = Callable[[], None]


class _Lost(Exception):
    """A worker died or went silent."""


class _Worker:
    """One process and the socket to it."""

    def __init__(self, deadline: float):
        self._deadline = deadline
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(min(TICK, deadline))
        paths = json.dumps([str(path) for path in sys.path])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, paths, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a library's banner must not end up in `--json` output
                pass_fds=[theirs.fileno()],
                process_group=0,  # the terminal's Ctrl-C must not reach it while it starts
                env={**os.environ, **ONE_THREAD},
            )

    def serve(self, description: dict[str, Any]) -> None:
        """From here on with environments of this factory."""
        self._built: set[int] = set()
        self._greeted = False
        self._send(lambda: send(self._socket, description))

    def send(self, commands: dict[int, Reset | np.ndarray]) -> None:
        new = {slot for slot, command in commands.items() if isinstance(command, Reset)} - self._built
        self._built |= new
        self._allowed = self._deadline * (1 + len(new))
        self._send(lambda: send_commands(self._socket, commands))

    def _send(self, message: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):  # dead: `results` finds out how
            message()

    def results(self, heartbeat: Heartbeat) -> dict[int, Result]:
        try:
            if not self._greeted:
                header, arrays = receive(self._socket, self._patience(START_SECONDS, heartbeat))
                if "ready" not in header:
                    received_results(header, arrays)  # raises what it met
                self._greeted = True
            return received_results(*receive(self._socket, self._patience(self._allowed, heartbeat)))
        except (EOFError, ConnectionError):
            raise _Lost(self._how_it_ended()) from None

    def _patience(self, seconds: float, heartbeat: Heartbeat) -> Heartbeat:
        end = time.monotonic() + seconds

        def wait() -> None:
            heartbeat()
            if time.monotonic() > end:
                raise _Lost(f"its worker process said nothing for {seconds:g} s")

        return wait

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            return "its worker process closed the connection"
        if code < 0:
            return f"its worker process was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"its worker process ended with exit code {code}"

    def ask_to_end(self) -> None:
        """Close the connection, upon which a worker that listens ends."""
        self._socket.close()

    def end(self, seconds: float) -> None:
        """Wait for the end that many seconds at most, then kill the process."""
        self._socket.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(GOODBYE_SECONDS)


class EnvPool:
    """`slots` environments of one factory; slot s lives in worker s % workers, or here if workers is 0.

    Args:
        deadline: seconds that a worker may take for one call, and again for every environment it has to make.
        spare: workers of closed pools, which are taken before new ones are started.

    Worker processes start with the first call, are reused by later ones, and end with `close` or with this
    process.
    """

    def __init__(
        self, factory: EnvFactory, slots: int, workers: int, deadline: float = 30.0, spare: list[_Worker] | None = None
    ):
        for field, value, least in (("slots", slots, 1), ("workers", workers, 0)):
            if type(value) is not int or value < least:
                raise UsageError(f"{field} is {value!r}; it is a whole number of at least {least}")
        if not deadline > 0:
            raise UsageError(f"deadline is {deadline!r}; it is a number of seconds above 0")
        self.factory = factory
        self.slots = slots
        self.replaced = 0
        """Workers that died or hung and were replaced so far."""
        self._deadline = deadline
        self._description = describe(factory) if workers else {}
        self._here = Slots(factory)
        self._spare = [] if spare is None else spare
        self._workers: list[_Worker | None] = [None] * min(workers, slots)
        self._forget()

    def _forget(self) -> None:
        self._history: list[list[Reset | np.ndarray]] = [[] for _ in range(self.slots)]
        self._seen: list[Result | None] = [None] * self.slots
        self._losses = [0] * self.slots

    def step(self, commands: Sequence[Command], heartbeat: Heartbeat = lambda: None) -> list[Result | None]:
        """Carry out one command per slot; a command None gives None and ends that slot's episode.

        `heartbeat` is called before and, at least every quarter second, while workers are waited for; it may
        raise, such as `Interrupted`. After any exception all running episodes are forgotten; the next calls
        begin with Reset.

        Raises:
            GuardError: an environment raised, returned NaN or a wrong shape, lost its worker more than 3
                times in one episode, or differed when its episode was repeated.
            UsageError: an environment cannot be made or reset as asked (a missing package, a wrong goal).
        """
        try:
            heartbeat()
            work = self._recorded(commands)
            if not self._workers:
                results = {slot: self._here.run(slot, command) for slot, command in work.items()}
            else:
                results = self._from_workers(work, heartbeat)
        except EnvFault as fault:
            where = self._where([fault.slot])
            self.close()
            raise GuardError(f"environment {self._name()} {fault.problem} in {where}") from None
        except BaseException:
            self.close()  # replies may still be on their way
            raise
        self._seen = [results.get(slot) for slot in range(self.slots)]
        return list(self._seen)

    def _recorded(self, commands: Sequence[Command]) -> dict[int, Reset | np.ndarray]:
        """The commands by slot, after noting them in the history of their episodes."""
        if len(commands) != self.slots:
            raise UsageError(
                f"commands has {len(commands)} entries; a pool of {self.slots} slots needs one for each"
            )
        for slot, command in enumerate(commands):
            if command is None or isinstance(command, Reset):
                self._history[slot], self._losses[slot] = [], 0
            elif not self._history[slot]:
                raise UsageError(f"slot {slot} got an action but runs no episode; send it a Reset first")
            if command is not None:
                self._history[slot].append(command)
        return {slot: command for slot, command in enumerate(commands) if command is not None}

    def _from_workers(self, work: dict[int, Reset | np.ndarray], heartbeat: Heartbeat) -> dict[int, Result]:
        shares: dict[int, dict[int, Reset | np.ndarray]] = {}
        for slot, command in work.items():
            shares.setdefault(slot % len(self._workers), {})[slot] = command
        for worker, share in shares.items():
            self._open(worker).send(share)
        results: dict[int, Result] = {}
        for worker, share in shares.items():
            try:
                results.update(self._open(worker).results(heartbeat))
            except _Lost as fault:
                results.update(self._repeated(worker, list(share), str(fault), heartbeat))
        return results

    def _open(self, worker: int) -> _Worker:
        process = self._workers[worker]
        if process is None:
            process = self._workers[worker] = self._spare.pop() if self._spare else _Worker(self._deadline)
            process.serve(self._description)
        return process

    def _repeated(self, worker: int, slots: list[int], fault: str, heartbeat: Heartbeat) -> dict[int, Result]:
        """Replace a lost worker until its episodes have come as far as before, and one command further."""
        while True:
            self._open(worker).end(0)
            self._workers[worker] = None
            self.replaced += 1
            for slot in slots:
                self._losses[slot] += 1
                if self._losses[slot] > LOSSES:
                    raise GuardError(
                        f"environment {self._name()} failed {LOSSES + 1} times in {self._where(slots)}; "
                        f"the last time {fault}"
                    )
            try:
                return self._repeat(worker, slots, heartbeat)
            except _Lost as again:
                fault = str(again)

    def _repeat(self, worker: int, slots: list[int], heartbeat: Heartbeat) -> dict[int, Result]:
        """Give a new worker the commands so far, one at a time so that each keeps to the deadline."""
        results: dict[int, Result] = {}
        for k in range(max(len(self._history[slot]) for slot in slots)):
            share = {slot: self._history[slot][k] for slot in slots if k < len(self._history[slot])}
            self._open(worker).send(share)
            results.update(self._open(worker).results(heartbeat))
            for slot in share:
                reached = k == len(self._history[slot]) - 2  # where the episode was before this call
                if reached and not _same(self._seen[slot], results[slot]):
                    raise GuardError(
                        f"environment {self._name()} went another way when {self._where([slot])} was "
                        "repeated after its worker process was lost; reset(seed=, options=) and the actions "
                        "must determine an episode"
                    )
        return results

    def _name(self) -> str:
        return repr(self.factory)[:160]

    def _where(self, slots: list[int]) -> str:
        resets = [self._history[slot][0] for slot in slots if self._history[slot]]
        names = [
            f"episode {r.episode} (seed {r.seed}, goal {r.goal})" for r in resets if isinstance(r, Reset)
        ]
        return " or ".join(names)

    def close(self) -> None:
        """End the workers and forget the running episodes; the next call starts new ones."""
        _end(self.release())

    def release(self) -> list[_Worker]:
        """Forget the running episodes and let go of the workers, which wait for another factory. Not within a call."""
        self._forget()
        self._here.close()
        running = [worker for worker in self._workers if worker is not None]
        self._workers = [None] * len(self._workers)
        return running

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.ask_to_end()
    end = time.monotonic() + GOODBYE_SECONDS
    for worker in workers:
        worker.end(max(0.0, end - time.monotonic()))


def _same(a: Result | None, b: Result) -> bool:
    return a is not None and a[1:] == b[1:] and np.array_equal(a.obs, b.obs)


class PoolCache:
    """Open pools by factory: evaluating a task again starts no processes, and makes no environments while its pool is open. When
    too many are, the least recently used is closed, and its workers go over to the new one.

    Args:
        most: pools open at once; a worker with ten Meta-World environments takes about 500 MB.
    """

    def __init__(self, slots: int, workers: int, most: int = 3, deadline: float = 30.0):
        self._spare: list[_Worker] = []
        self._make = lambda factory: EnvPool(factory, slots, workers, deadline, self._spare)
        self._most = most
        self._pools: OrderedDict[EnvFactory, EnvPool] = OrderedDict()

    def get(self, factory: EnvFactory) -> EnvPool:
        """The open pool of a factory, or a new one."""
        if factory not in self._pools:
            while len(self._pools) >= self._most:
                self._spare.extend(self._pools.popitem(last=False)[1].release())
            self._pools[factory] = self._make(factory)
        self._pools.move_to_end(factory)
        return self._pools[factory]

    def close(self) -> None:
        """Close every pool; `get` opens new ones."""
        while self._pools:
            self._spare.extend(self._pools.popitem()[1].release())
        _end(self._spare)
        self._spare.clear()

    def __enter__(self) -> PoolCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
