"""Making a dataset with a scripted expert, in worker processes, so that any interruption can be continued.

Finished episodes lie as single files in `<folder>.partial/` until all are there; then they are packed into
the dataset and removed. Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perdure.core.errors import GuardError, UsageError, nearest
from perdure.core.files import read_json, write_json
from perdure.core.threads import ONE_THREAD
from perdure.data.roll import AGAIN, Graded, Job, Level, Roller, TaskSource, read_shard, shard_path
from perdure.data.store import Dataset, write_dataset

QUALITIES = ("expert", "mixed", "suboptimal")

Progress = Callable[[int, int, float], None]
"""Called with finished episodes, all episodes, and steps per second since the start."""

BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from perdure.data.roll import serve; serve(sys.argv[2])"
)


def collect(
    source: TaskSource,
    folder: Path | str,
    *,
    quality: str,
    episodes: int,
    seed: int,
    workers: int,
    progress: Progress | None = None,
    after_success: int | None = None,
) -> Path:
    """Roll the expert of `source` into a dataset folder; returns it at once if it holds these data already.

    Args:
        source: the task, see `TaskSource`; "mixed" and "suboptimal" need its noise ladder. A `Graded` one has qualities of
            its own.
        folder: the dataset's place; an interrupted collection continues from `<folder>.partial/`.
        quality: "expert" (no noise), "mixed" (all levels of the ladder, equally often), or "suboptimal" (the
            lower half of those episodes by level). The level of an episode is its position on the ladder, 0
            the best.
        episodes: 1 up to the number of the source's goals; each goal is used once.
        seed: equal seeds give equal data, whatever `workers` is.
        workers: worker processes; 0 rolls in this process.
        after_success: see `roll_episode`; None stores every episode to the horizon, as Continual World does.

    Raises:
        UsageError: wrong values, a folder with other data, another command at work, a disk that refuses.
        GuardError: the environment raised, or a worker process died; finished episodes are kept.
    """
    folder = Path(folder)
    known = tuple(source.qualities()) if isinstance(source, Graded) else QUALITIES
    if quality not in known:
        raise UsageError(f"quality is '{quality}'; it is one of {', '.join(known)}{nearest(quality, known)}")
    _check_number("workers", workers, 0)
    _check_number("seed", seed, 0)
    if after_success is not None:
        _check_number("after_success", after_success, 0)
    goals = source.goals()
    if type(episodes) is not int or not 1 <= episodes <= len(goals):
        raise UsageError(
            f"episodes is {episodes!r}; {source.name} has {len(goals)} goals for data, so give 1 to as many"
        )
    pattern, ladder = levels(quality, source)
    plan = _plan(source, goals, quality, ladder, seed, after_success)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        if folder.exists():
            _check_finished(folder, plan, episodes)
        else:
            partial.mkdir(parents=True, exist_ok=True)
            with _alone(partial):
                _continue_plan(partial, plan)
                job = Job.of(source, partial, pattern, ladder, seed, after_success)
                _roll_missing(job, partial, episodes, workers, progress)
                _pack(source, folder, partial, plan, quality, episodes)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as problem:
        raise UsageError(
            f"{folder} cannot be written ({problem.strerror}); make room or choose another place: {AGAIN}"
        ) from None
    return folder


def levels(quality: str, source: TaskSource) -> tuple[list[int], list[Level]]:
    """(positions that episodes take in turn, ladder they point into)."""
    if isinstance(source, Graded):
        ladder = list(source.qualities()[quality])
        return list(range(len(ladder))), ladder
    if quality == "expert":
        return [0], [Level()]
    ladder = list(source.ladder())
    if quality == "mixed":
        return list(range(len(ladder))), ladder
    twice = [
        position for position in range(len(ladder)) for _ in range(2)
    ]  # so that any ladder has a lower half
    return twice[len(ladder) :], ladder


def _check_number(field: str, value: Any, least: int) -> None:
    if type(value) is not int or not least <= value < 2**63:
        raise UsageError(f"{field} is {value!r}; it is a whole number of at least {least}")


def _plan(
    source: TaskSource,
    goals: Sequence[tuple[float, ...]],
    quality: str,
    ladder: list[Level],
    seed: int,
    after_success: int | None,
) -> dict[str, Any]:
    """Everything that decides what the episodes are; not their number, as more may be asked for later."""
    return {
        "task": source.name,
        "quality": quality,
        "seed": seed,
        "horizon": source.horizon,
        "after_success": after_success,
        "goals": hashlib.sha256(json.dumps([list(goal) for goal in goals]).encode()).hexdigest(),
        "ladder": [level.to_json() for level in ladder],
        "versions": source.versions(),
    }


def _difference(found: dict[str, Any], plan: dict[str, Any]) -> str | None:
    for field in plan:
        if found.get(field) != plan[field]:
            before, now = json.dumps(found.get(field))[:80], json.dumps(plan[field])[:80]
            return f"{field} {before}, and {now} is asked for now"
    return None


def _check_finished(folder: Path, plan: dict[str, Any], episodes: int) -> None:
    data = Dataset.open(folder)
    found = data.card["behaviour"].get("plan")
    if not isinstance(found, dict):
        raise UsageError(f"{folder} holds a dataset that was not collected; choose another folder")
    wanted = {
        field: value for field, value in plan.items() if field != "versions"
    }  # finished data stay valid
    difference = _difference({**found, "episodes": len(data.lengths)}, {**wanted, "episodes": episodes})
    if difference:
        raise UsageError(
            f"{folder} exists already, with {difference}; choose another folder or remove this one"
        )


def _continue_plan(partial: Path, plan: dict[str, Any]) -> None:
    path = partial / "plan.json"
    if not path.exists():
        write_json(path, plan)
        return
    found = read_json(path)
    difference = _difference(found if isinstance(found, dict) else {}, plan)
    if difference:
        raise UsageError(
            f"{partial} was begun with {difference}; go on with the first, or remove that folder"
        )


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it with the process, however that ends."""
    with open(partial / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{partial} is being written by another command; wait for it or choose another folder"
            ) from None
        yield


def _roll_missing(job: Job, partial: Path, episodes: int, workers: int, progress: Progress | None) -> None:
    missing = [episode for episode in range(episodes) if read_shard(shard_path(partial, episode)) is None]
    begin, steps = time.monotonic(), 0
    rolled = _rolled_here(job, missing) if workers == 0 else _rolled_by_workers(job, missing, workers)
    with contextlib.closing(rolled):
        for number, length in enumerate(rolled, start=1):
            steps += length
            if progress is not None:
                done = episodes - len(missing) + number
                progress(done, episodes, steps / max(time.monotonic() - begin, 1e-9))


def _rolled_here(job: Job, missing: list[int]) -> Generator[int, None, None]:
    if not missing:
        return
    roller = Roller(job)
    try:
        for episode in missing:
            yield roller.roll(episode)
    finally:
        roller.close()


def _rolled_by_workers(job: Job, missing: list[int], workers: int) -> Generator[int, None, None]:
    pool = [_Worker(job) for _ in range(min(workers, len(missing)))]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in pool:
        idle.put(worker)

    def roll(episode: int) -> int:
        worker = idle.get()
        try:
            return worker.roll(episode)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(max(len(pool), 1))
    try:
        for future in as_completed([threads.submit(roll, episode) for episode in missing]):
            yield future.result()
    finally:  # also after Ctrl-C: an episode that is cut short leaves no file
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in pool:
            worker.kill()
        threads.shutdown()


class _Worker:
    """One worker process."""

    def __init__(self, job: Job):
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                BOOT,
                json.dumps([str(path) for path in sys.path]),
                json.dumps(asdict(job)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,  # Ctrl-C is for the parent, which then ends its workers
            env={**os.environ, **ONE_THREAD},
        )

    def roll(self, episode: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(episode, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            code = self._process.wait()
            raise GuardError(
                f"the worker process that rolled episode {episode} ended with code {code}; {AGAIN}"
            )
        answer = json.loads(line)
        if "usage" in answer:
            raise UsageError(answer["usage"])
        if "disk" in answer:
            raise OSError(None, answer["disk"])
        if "guard" in answer:
            raise GuardError(answer["guard"])
        return answer["steps"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not sent cannot be sent any more
                if pipe is not None:
                    pipe.close()


def _pack(
    source: TaskSource, folder: Path, partial: Path, plan: dict[str, Any], quality: str, episodes: int
) -> None:
    trajectories = [read_shard(shard_path(partial, episode)) for episode in range(episodes)]
    damaged = [episode for episode, trajectory in enumerate(trajectories) if trajectory is None]
    if damaged:
        raise GuardError(f"episode {damaged[0]} in {partial} was damaged while others were rolled; {AGAIN}")
    makers = "policies" if isinstance(source, Graded) else "scripted expert"
    write_dataset(
        folder,
        [trajectory for trajectory in trajectories if trajectory is not None],
        name=f"{source.name}-{quality}",
        spec=source.spec,
        quality=quality,
        behaviour={"policy": f"{makers} of {source.origin}", "plan": plan},
        licence=source.licence,
        source=source.origin,
        versions=plan["versions"],
    )
