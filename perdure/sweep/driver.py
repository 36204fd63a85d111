"""Hands the runs of a sweep to a backend, watches them, repeats lost ones, and keeps what failed for the end.

It decides nothing that the run folders do not tell: a finished folder is skipped, anything else is handed out and resumes
by itself. So the driver may die at any moment, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from perdure.core.errors import UsageError
from perdure.core.files import write_atomic
from perdure.core.lock import claimed
from perdure.core.words import counted, duration
from perdure.experiment import Experiment
from perdure.progress import Quiet
from perdure.streams import load_stream
from perdure.sweep.backends import Backend, Resources
from perdure.sweep.plan import Planned
from perdure.sweep.worker import job_of, log_of, read_status

LOSSES = 5
"""So often may a run lose its worker in one sweep; then something is wrong with the run itself."""

TICK = 0.5
"""Seconds between two looks at what runs."""

HELD_SECONDS = 90.0
"""A run folder that somebody else holds is tried again for this long: workers of a killed driver end within half of it."""

AGAIN_SECONDS = 3.0
"""Between two such attempts."""

STOP_SECONDS = 60.0
"""The workers' time for a last checkpoint when the sweep is stopped."""

State = Literal["waiting", "running", "done", "failed"]


@dataclass
class Entry:
    """One run and how it stands."""

    run: Planned
    state: State = "waiting"
    sentence: str = ""
    """Why it failed."""
    before: bool = False
    """Whether it was finished when the sweep began."""
    losses: int = 0
    held_since: float | None = None
    not_before: float = 0.0
    ticket: str = ""
    handed: float = 0.0
    status: dict[str, Any] = field(default_factory=dict)
    """Its progress; empty while the backend has it and no worker began."""
    began: float = 0.0
    """When its worker was first seen at work."""
    changed: float = 0.0
    """When its progress last changed."""
    seconds: float = 0.0
    """That its last worker took."""


class Show(Protocol):
    """Shows a sweep to somebody."""

    def say(self, text: str) -> None: ...

    def update(self, sweep: Sweep) -> None: ...


@dataclass
class Sweep:
    """The runs of one sweep below one root folder."""

    planned: Sequence[Planned]
    root: Path
    open_backend: Callable[[], Backend]
    show: Show
    resources: Resources = field(default_factory=Resources)
    patience: float = 3600.0
    """Seconds after which a run without progress is repeated."""
    losses: int = LOSSES

    def __post_init__(self) -> None:
        self.home = self.root / ".sweep"
        self.mark = secrets.token_hex(8)
        self.entries = {planned.key: Entry(planned) for planned in self.planned}
        self.active = time.monotonic()
        """When anything last changed."""

    def log(self, entry: Entry) -> Path:
        """Where the output of a run's worker is."""
        return log_of({"home": str(self.home), "key": entry.run.key})

    def state(self, *states: State) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.state in states]

    def execute(self) -> list[Entry]:
        """Do what is missing; returns all runs, finished or failed.

        Raises:
            UsageError: another sweep works in this root, or a method cannot run on its stream; nothing is written then.
        """
        with self._at_home():
            for entry in self.entries.values():
                if entry.run.finished():
                    entry.state, entry.before = "done", True
            if self.state("waiting"):
                self._prepare()
                self._work()
        return list(self.entries.values())

    @contextmanager
    def _at_home(self) -> Iterator[None]:
        """Hold the root; what is left of the sweep's own folder afterwards are the logs of runs that failed."""
        new = not self.root.exists()
        try:
            with claimed(self.home, "lock"):
                for stale in self.home.iterdir():
                    if stale.name != "lock":
                        stale.unlink(missing_ok=True)
                write_atomic(self.home / "mark", self.mark.encode())
                try:
                    yield
                finally:
                    self._tidy()
        finally:
            with contextlib.suppress(OSError):
                self.home.rmdir()
                if new:
                    self.root.rmdir()

    def _tidy(self) -> None:
        failed = {self.log(entry) for entry in self.state("failed")}
        for path in self.home.iterdir():
            if path.name != "lock" and (path not in failed or not path.stat().st_size):
                path.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Collect the data of every stream once, and make sure that every method can begin on it."""
        streams: dict[str, Any] = {}
        for entry in {entry.run.config.hash: entry for entry in reversed(self.state("waiting"))}.values():
            config = entry.run.config
            name = f"{config.stream} {config.stream_options}"
            if name not in streams:
                streams = {name: load_stream(config.stream, say=self.show.say, **config.stream_options)}  # one at a time
            try:
                Experiment(config, entry.run.folder, Quiet()).check(streams[name])
            except UsageError as problem:
                raise UsageError(f"{entry.run.name} cannot run: {problem}") from None

    # -- the loop -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        self.backend = self.open_backend()
        if self.backend.note:
            self.show.say(self.backend.note)
        waiting = len(self.state("waiting"))
        self._tell(f"begins {counted(waiting, 'run')}, {len(self.entries) - waiting} of {len(self.entries)} are finished already")
        try:
            while self.state("waiting", "running"):
                self._hand_out()
                for key, answer in self.backend.ended(TICK):
                    self._take(self.entries[key], answer)
                self._watch()
                self.show.update(self)
        except BaseException:
            self._stop()
            raise
        finally:
            self.backend.close()
            self._log("ends")

    def _hand_out(self) -> None:
        now = time.monotonic()
        room = (len(self.entries) if self.backend.slots is None else self.backend.slots) - len(self.state("running"))
        for entry in [entry for entry in self.state("waiting") if entry.not_before <= now][: max(0, room)]:
            job = job_of(entry.run.key, asdict(entry.run.config), entry.run.folder, self.home, self.mark,
                         threads=self.resources.threads, device="cuda" if self.resources.gpus else "cpu")
            self.backend.start(job)
            entry.state, entry.ticket, entry.status = "running", job["ticket"], {}
            entry.handed = entry.began = now

    def _take(self, entry: Entry, answer: dict[str, str]) -> None:
        """Note how a job ended."""
        now = time.monotonic()
        self.active, entry.seconds = now, now - entry.began
        state, sentence = answer["state"], answer["sentence"]
        if state == "held":
            entry.held_since = entry.held_since or now
            if now - entry.held_since < HELD_SECONDS:
                entry.state, entry.not_before = "waiting", now + AGAIN_SECONDS
                return
        elif state in ("lost", "stopped"):
            self._lost(entry, sentence or "its worker was told to stop by somebody else")
            return
        elif state == "done" and not entry.run.finished():
            state, sentence = "failed", "its worker reports a result that this machine does not see; is the folder shared?"
        self._end(entry, "done" if state == "done" else "failed", sentence)

    def _end(self, entry: Entry, state: State, sentence: str = "") -> None:
        entry.state, entry.sentence = state, sentence
        self._tell(f"{state}: {entry.run.name}" + (f": {sentence}" if sentence else f" in {duration(entry.seconds)}"))

    def _lost(self, entry: Entry, why: str) -> None:
        """Repeat a run whose worker was lost, a bounded number of times; it resumes from its checkpoint."""
        entry.losses += 1
        if entry.losses < self.losses:
            entry.state = "waiting"
            self._tell(f"lost: {entry.run.name}: {why}; it goes on in a new one (loss {entry.losses})")
            return
        self._end(entry, "failed", f"{why}; that happened {entry.losses} times")

    def _watch(self) -> None:
        """Read the progress; a job without any for too long is ended and counts as lost, and one that no worker began fails."""
        now = time.monotonic()
        for entry in self.state("running"):
            status = read_status(self.home, entry.run.key, entry.ticket)
            if status and status != entry.status:
                entry.began = entry.began if entry.status else now
                entry.status, entry.changed, self.active = status, now, now
            if entry.status and now - entry.changed > self.patience:
                self.backend.kill(entry.run.key)
                self.active = now
                self._lost(entry, f"it showed no progress for {duration(self.patience)}")
            elif not entry.status and now - max(entry.handed, self.active) > self.patience:
                self.backend.kill(entry.run.key)
                self._end(entry, "failed", f"no worker began with it for {duration(self.patience)}; ask for less with --cpus and"
                                           " --gpus, or see whether the machines are up")

    def _stop(self) -> None:
        """Give every worker the time to save; `close` ends those that take longer."""
        running = self.state("running")
        if not running:
            return
        self.show.say(f"stopping: {counted(len(running), 'run')} save and end, at most {duration(STOP_SECONDS)}")
        for entry in running:
            self.backend.stop(entry.run.key)
        until = time.monotonic() + STOP_SECONDS
        while self.state("running") and time.monotonic() < until:
            for key, _ in self.backend.ended(TICK):
                self.entries[key].state = "waiting"

    # -- words --------------------------------------------------------------------------------------------

    def left(self) -> float | None:
        """Seconds until all is done, at the pace so far; None while nothing is known."""
        running = self.state("running")
        known = {entry.run.key: float(entry.status["left"]) for entry in running if entry.status.get("left") is not None}
        whole = [left / max(1e-6, 1 - float(self.entries[key].status["share"])) for key, left in known.items()]
        whole += [entry.seconds for entry in self.state("done") if not entry.before]
        if not whole:
            return None
        mean = sum(whole) / len(whole)
        work = sum(known.values()) + mean * (len(running) - len(known) + len(self.state("waiting")))
        begun = sum(bool(entry.status) for entry in running)
        return max(work / max(1, begun), max(known.values(), default=0.0))

    def _tell(self, text: str) -> None:
        self._log(text)
        self.show.say(text)

    def _log(self, text: str) -> None:
        """One line in the log that a person may read; nothing reads it back."""
        with contextlib.suppress(OSError), open(self.root / "sweep.log", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
