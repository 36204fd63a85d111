"""Kill a run with SIGKILL again and again, repeat the same command, and compare what comes out with an undisturbed run.

    python tools/kill_test.py packnet toy --kills 20
    python tools/kill_test.py er cw3-v3 --kills 5 -- --policy dt --method.steps 500

One clean run is measured first. The kills are spread over its duration after imports; every third run is killed
again while it resumes. What the run does at each moment (the phase, an evaluation, a save, ...) is read from a
trace that the killed process writes, and places that the spread missed are aimed at afterwards, so that every phase,
an evaluation and a save are hit at least once. Options after `--` go to `perdure run`. Exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

POLL = 0.001
"""Seconds between two looks at the trace; a save takes tens of milliseconds."""

AIMS = 15
"""Attempts at a place that the spread missed; a save is short."""

PATIENCE = 3600.0
"""Seconds after which a run counts as hung."""


# -- in the killed process: perdure's own command with a trace of where it is ---------------------------------------


def traced(trace: Path, arguments: list[str]) -> int:
    """Run the command line `perdure ARGUMENTS` and append a line to `trace` whenever it enters another place."""
    handle = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    places = ["loading"]

    def tell() -> None:
        os.write(handle, f"{places[-1]}\n".encode())

    def inside(name: Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            places.append(name(*given))
            tell()
            try:
                return call(*given, **named)
            finally:
                places.pop()
                tell()

        return wrapped

    from perdure.core.run import Run
    from perdure.evaluate.evaluator import StreamEvaluator
    from perdure.experiment import Experiment

    Run.execute = inside(lambda run: "between phases", Run.execute)
    Run._phase = inside(lambda run, index, phase, points: f"phase {phase.name}", Run._phase)
    Run._evaluate = inside(lambda run, learned: "evaluation", Run._evaluate)
    Run._curve = inside(lambda *_: places[-1], Run._curve)
    Run._save = inside(lambda run: "save", Run._save)
    Run._publish = inside(lambda run, learned: "publishing", Run._publish)
    Run._finish = inside(lambda run: "finishing", Run._finish)
    StreamEvaluator.close = inside(lambda evaluator: "closing", StreamEvaluator.close)
    Experiment.execute = inside(lambda experiment: "loading", Experiment.execute)
    from perdure.cli import main as perdure

    return perdure(arguments)


# -- outside ---------------------------------------------------------------------------------------------------


@dataclass
class Kill:
    """One killed and repeated run."""

    wanted: str
    """`12 %` of the run's duration, or the place that was aimed at."""
    landed: list[str]
    """Where the process was when it died; several if it was killed again while it resumed."""
    differences: list[str]


@dataclass
class Trial:
    """A command, its undisturbed result, and the kills so far."""

    arguments: list[str]
    """Of `perdure`, without --out."""
    work: Path
    clean: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    """In which the undisturbed run was, in their order."""
    seconds: float = 0.0
    """From the end of the imports to the writing of scores.json."""
    kills: list[Kill] = field(default_factory=list)

    def start(self, folder: Path, trace: Path | None = None) -> subprocess.Popen[str]:
        """The command on `folder`; with a trace, through `traced`."""
        command = [*self.arguments, "--out", str(folder)]
        launcher = ["-m", "perdure"] if trace is None else [str(Path(__file__).resolve()), "--traced", str(trace)]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [sys.executable, *launcher, *command],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": paths},
            process_group=0,
        )

    def finish(self, folder: Path) -> None:
        """The same command to its end."""
        process = self.start(folder)
        said, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise SystemExit(
                f"`perdure {' '.join(self.arguments)}` ended with exit code {process.returncode}:\n{said}"
            )

    def measure(self) -> None:
        """The undisturbed run: its result, its places and its duration after imports."""
        trace = self.work / "clean.trace"
        process = self.start(self.work / "clean", trace)
        started = ended = time.monotonic()
        while process.poll() is None:
            seen = lines(trace)
            started = time.monotonic() if not seen else started
            ended = time.monotonic() if "finishing" not in seen else ended
            time.sleep(POLL)
        said, _ = process.communicate(timeout=PATIENCE)
        self.seconds = ended - started
        if process.returncode:
            raise SystemExit(f"the undisturbed run ended with exit code {process.returncode}:\n{said}")
        self.places = list(dict.fromkeys(lines(trace)))
        self.clean = digests(self.work / "clean")

    def required(self) -> list[str]:
        """Places that must be hit: every phase, an evaluation, a save."""
        return [place for place in self.places if place.startswith("phase ") or place in ("evaluation", "save")]

    def missed(self) -> list[str]:
        """Required places in which no process has died yet."""
        hit = {place for kill in self.kills for place in kill.landed}
        return [place for place in self.required() if place not in hit]

    def killed(self, folder: Path, due: Callable[[float, list[str]], bool]) -> str | None:
        """Start, SIGKILL once `due(seconds since imports, trace)`; where it was, or None if it had ended before."""
        trace = self.work / "killed.trace"
        trace.unlink(missing_ok=True)
        process = self.start(folder, trace)
        started = None
        while process.poll() is None:
            seen = lines(trace)
            started = started or (time.monotonic() if seen else None)
            if started is not None and due(time.monotonic() - started, seen):
                break
            time.sleep(POLL)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return lines(trace)[-1] if process.returncode == -signal.SIGKILL else None

    def attempt(self, wanted: str, due: list[Callable[[float, list[str]], bool]]) -> Kill | None:
        """Kill at each moment of `due` in turn, then repeat the command to the end and compare. None: it had ended first."""
        folder = self.work / f"kill-{len(self.kills) + 1}"
        shutil.rmtree(folder, ignore_errors=True)
        landed = [place for moment in due if (place := self.killed(folder, moment)) is not None]
        if not landed:
            return None
        self.finish(folder)
        kill = Kill(wanted, landed, differences(self.clean, digests(folder)) + litter(folder))
        if not kill.differences:
            shutil.rmtree(folder)
        self.kills.append(kill)
        return kill

    def spread(self, count: int, say: Callable[[Kill], None]) -> None:
        """Kills at equal distances over the duration; every third run dies again while it resumes."""
        for number in range(count):
            share = (number + 0.5) / count
            again = [later_than(0.3 * self.seconds)] if number % 3 == 2 else []
            kill = None
            while kill is None:  # a run that was faster than the clean one has ended before
                kill = self.attempt(f"{share:.0%}", [later_than(share * self.seconds), *again])
                share *= 0.9
            say(kill)

    def aim(self, say: Callable[[Kill], None]) -> None:
        """Kills at the required places that were missed so far."""
        for attempt in range(AIMS):
            for place in self.missed():
                times = 1 + attempt % 4  # not always the first time that the place is entered
                if kill := self.attempt(place, [entered(place, times)]):
                    say(kill)


def later_than(limit: float) -> Callable[[float, list[str]], bool]:
    return lambda seconds, seen: seconds >= limit


def entered(place: str, times: int) -> Callable[[float, list[str]], bool]:
    return lambda seconds, seen: seen[-1] == place and seen.count(place) >= times


def lines(trace: Path) -> list[str]:
    """Whole lines of a trace."""
    return trace.read_text().splitlines() if trace.exists() else []


def digests(folder: Path) -> dict[str, str]:
    """Of scores.json, metrics.jsonl and the tensors of every agent."""
    paths = [folder / "scores.json", folder / "metrics.jsonl", *folder.glob("agent/*/tensors.safetensors")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.exists()
    }


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names of files that are missing, new or different."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def litter(folder: Path) -> list[str]:
    """What a finished run must not leave behind."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name == "resume" or path.name.startswith(".")
    )


def main(arguments: list[str]) -> int:
    """Parse, kill, print a table; 1 if any result differs or a required place was never hit."""
    if arguments[:1] == ["--traced"]:
        return traced(Path(arguments[1]), arguments[2:])
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("stream")
    parser.add_argument("--kills", type=int, default=20, help="spread over the run; aimed ones come on top")
    parser.add_argument("--work", type=Path, help="folder for the runs (default: a temporary one)")
    options = parser.parse_args(arguments[:split])
    work = (options.work or Path(tempfile.mkdtemp(prefix="perdure-kill-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    trial = Trial(["run", options.method, options.stream, *arguments[split + 1 :]], work)
    trial.measure()
    print(
        f"{options.method} on {options.stream}: {trial.seconds:.1f} s after imports; places: {', '.join(trial.places)}",
        flush=True,
    )

    def say(kill: Kill) -> None:
        outcome = "DIFFERS: " + ", ".join(kill.differences) if kill.differences else "identical"
        print(
            f"{len(trial.kills):4}  killed at {kill.wanted:<16} in {', then '.join(kill.landed):<34} {outcome}",
            flush=True,
        )

    trial.spread(options.kills, say)
    trial.aim(say)
    return summary(trial)


def summary(trial: Trial) -> int:
    """The last lines of the report and the exit code."""
    landed = Counter(place for kill in trial.kills for place in kill.landed)
    different = sum(bool(kill.differences) for kill in trial.kills)
    print("landed in: " + ", ".join(f"{place} {count}" for place, count in landed.most_common()))
    if trial.missed():
        print(f"never hit: {', '.join(trial.missed())}")
    print(
        f"{sum(landed.values())} kills in {len(trial.kills)} runs, {different} with a different result"
        + (f"; kept in {trial.work}" if different else "")
    )
    if not different:
        shutil.rmtree(trial.work, ignore_errors=True)
    return 1 if different or trial.missed() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
