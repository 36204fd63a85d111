"""Kill a sweep's driver and one of its workers with SIGKILL at random, repeat the command, and compare with an undisturbed sweep.

    python tools/kill_sweep.py                        # 3 methods x 2 seeds on toy, five kills of each, both backends
    python tools/kill_sweep.py --backend ray --kills 5 -- --methods packnet,er --streams toy --seeds 0-2

In every round the command starts again, is left alone for a random time after its first worker began, then one worker is
killed, and a moment later the driver. After the last kill the command runs to its end. Every file that a run must reproduce
is compared, and nobody may be left at work. Options after `--` replace those of the small sweep. Exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kill_test import differences, digests, litter

ROOT = Path(__file__).resolve().parent.parent

SMALL = ("--methods", "finetune,packnet,er", "--streams", "toy", "--seeds", "0-1", "--method.steps", "800")

PATIENCE = 1800.0
"""Seconds after which a sweep counts as hung."""

ORPHAN_SECONDS = 45.0
"""Workers of a killed driver must have ended by then."""


@dataclass
class Disturbed:
    """A sweep that is killed again and again in one folder."""

    arguments: list[str]
    out: Path
    chance: random.Random
    log: Path
    killed: list[str] = field(default_factory=list)

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "perdure", "sweep", *self.arguments, "--out", str(out)],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": paths},
                start_new_session=True,
            )

    def finish(self, out: Path) -> None:
        """The command to its end."""
        code = self.start(out).wait(PATIENCE)
        if code:
            raise SystemExit(f"the sweep ended with exit code {code}:\n{self.log.read_text()[-3000:]}")

    def workers(self) -> list[int]:
        """Processes that say they are at work, by the progress that they write."""
        found = []
        for path in (self.out / ".sweep").glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found.append(int(json.loads(path.read_bytes())["pid"]))
        return [pid for pid in found if alive(pid)]

    def round(self, longest: float) -> bool:
        """One start, one dead worker, one dead driver; False if the sweep ended first."""
        process = self.start(self.out)
        self.await_worker(process)
        time.sleep(self.chance.uniform(0, longest))
        if victims := self.await_worker(process):
            victim = self.chance.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                self.killed.append(f"worker {victim}")
        time.sleep(self.chance.uniform(0, longest))  # the driver may hand the run out again meanwhile
        if process.poll() is not None:
            return False
        orphans = self.workers()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.killed.append(f"driver {process.pid} with {len(orphans)} at work")
        if self.chance.random() < 0.5:  # else the next driver meets them
            self.await_end(orphans)
        return True

    def await_worker(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The processes at work, as soon as there is one; none if the sweep ended."""
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            if found := self.workers():
                return found
            time.sleep(0.02)
        return []

    def await_end(self, pids: list[int]) -> None:
        until = time.monotonic() + ORPHAN_SECONDS
        while left := [pid for pid in pids if alive(pid)]:
            if time.monotonic() > until:
                raise SystemExit(f"workers {left} are still there {ORPHAN_SECONDS:g} s after their driver was killed")
            time.sleep(0.1)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def runs(out: Path) -> dict[str, Path]:
    """Run folders by their place below the root."""
    return {str(path.parent.relative_to(out)): path.parent for path in sorted(out.rglob("config.json"))}


def compare(clean: Path, other: Path) -> list[str]:
    """What differs between two sweeps."""
    mine, theirs = runs(clean), runs(other)
    found = sorted(mine.keys() ^ theirs.keys())
    for name in mine.keys() & theirs.keys():
        found += [f"{name}/{file}" for file in differences(digests(mine[name]), digests(theirs[name]))]
        found += [f"{name}/{file}" for file in litter(theirs[name])]
    return found + [str(path) for path in (other / ".sweep",) if path.exists()]


def trial(backend: str, options: argparse.Namespace, arguments: list[str], clean: Path, work: Path) -> list[str]:
    """The disturbed sweep on one backend; returns what differs."""
    chance, log = random.Random(options.seed), work / f"{backend}.log"
    disturbed = Disturbed([*arguments, "--backend", backend], work / backend, chance, log)
    kills = 0
    while kills < options.kills and disturbed.round(options.longest):
        kills += 1
        print(f"{backend:<10} kill {kills}: {', '.join(disturbed.killed[-2:])}", flush=True)
    disturbed.finish(disturbed.out)
    if kills < options.kills:
        print(f"{backend:<10} the sweep ended after {kills} kills; give a longer one after --", flush=True)
    return compare(clean, disturbed.out)


def main(arguments: list[str]) -> int:
    """Parse, run, kill, compare; 1 on any difference."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("ray", "processes"), nargs="*", default=["processes", "ray"])
    parser.add_argument("--kills", type=int, default=5, help="of the driver, and as many of a worker")
    parser.add_argument("--longest", type=float, default=4.0, help="seconds between two kills, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--work", type=Path, help="folder for the runs (default: a temporary one)")
    options = parser.parse_args(arguments[:split])
    work = (options.work or Path(tempfile.mkdtemp(prefix="perdure-kill-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    sweep = arguments[split + 1 :] or list(SMALL)
    clean = Disturbed([*sweep, "--backend", "processes"], work / "clean", random.Random(0), work / "clean.log")
    clean.finish(work / "clean")
    print(f"undisturbed: {len(runs(work / 'clean'))} runs", flush=True)
    different = False
    for backend in options.backend:
        found = trial(backend, options, sweep, work / "clean", work)
        different |= bool(found)
        print(f"{backend:<10} " + (f"DIFFERS: {', '.join(found)}" if found else "identical"), flush=True)
    if different:
        print(f"kept in {work}")
    else:
        shutil.rmtree(work, ignore_errors=True)
    return int(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
