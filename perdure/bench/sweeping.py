"""How much of a second core a sweep of `bc` runs gets out of it: wall time of the same runs one by one and two at a time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from perdure.bench.measure import Bench, Clock, Equality, Figure, Rounds, Target
from perdure.core.errors import GuardError
from perdure.sweep.backends import Resources
from perdure.sweep.driver import Sweep
from perdure.sweep.plan import Space, plan
from perdure.sweep.processes import Processes
from perdure.sweep.show import Silent


def sweeping(bench: Bench) -> list[Figure]:
    """A sweep of finetune, the sizes of the cpu profile on the toy stream, from an empty folder to its last result. The work
    is done by other processes, so both clocks show wall time."""
    scale = bench.scale
    method = {"steps": scale.sweep_steps, "batch": scale.batch or 256}
    policy = scale.policy["bc"] if scale.policy else {"width": 256, "layers": 3}
    evaluation = {} if scale.stream_steps is None else {"episodes": 2, "shared": 1, "curve": 0, "slots": 2}
    fixed = {"method": method, "policy": policy, "evaluation": evaluation}
    space = Space(["finetune"], ["toy"], range(scale.sweep_runs), fixed=fixed)
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    scores: dict[str, list[bytes]] = {}
    for place in range(scale.sweep_rounds):
        for side, slots in [("one", 1), ("two", 2)][:: 1 - 2 * (place % 2)]:
            taken, scores[side] = _swept(space, slots, bench.folder)
            seconds[side].append(taken)
    if scores["one"] != scores["two"]:
        raise GuardError("a sweep of two runs at a time has other results than one by one; correct the library")
    clocks: tuple[Clock, ...] = ("cpu", "wall")
    rounds = Rounds(dict.fromkeys(clocks, seconds))
    details: dict[str, Any] = {f"{side}_at_a_time_seconds": rounds.milliseconds(side, "wall").median / 1e3 for side in seconds}
    return [Figure(f"sweep of {scale.sweep_runs} bc runs, two at a time over one by one", "x", rounds.ratio("one", "two"),
                   Target(1.8), Equality("score matrices", 0.0, 0.0), details | {"rounds": scale.sweep_rounds})]


def _swept(space: Space, slots: int, folder: Path) -> tuple[float, list[bytes]]:
    """Seconds of the sweep, and its score matrices."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-") as name:
        started, root = time.perf_counter(), Path(name)
        entries = Sweep(plan(space, root), root, lambda: Processes(slots, Resources()), Silent()).execute()
        taken = time.perf_counter() - started
        if failed := next((entry for entry in entries if entry.state != "done"), None):
            raise GuardError(f"{failed.run.name} failed: {failed.sentence}")
        return taken, [(entry.run.folder / "scores.json").read_bytes() for entry in entries]
