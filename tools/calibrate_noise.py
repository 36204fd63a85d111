"""Measure how noise lowers the success of scripted experts; choose five levels per task of `metaworld` or `panda`.

Writes below perdure/benchmarks/goals/: metaworld_v3_noise.json, with `--horizon 500` metaworld_v3_noise_500.json, or
panda_v3_noise.json; names of tasks as further arguments renew only those.

One noise level is no quality scale: per-step noise ruins the hammer and leaves the window untouched. So for
each task the first axis that brings success down to a fifth is taken: Gaussian noise, else a stretch of
random actions of growing length on top of slight noise. On it, levels are sought by bisection at the
successes in TARGETS. Where the undisturbed expert itself fails too often within the horizon, the best level
repeats an episode with slight noise until it succeeds. The levels are then measured again on other goals, and
those figures are the ones that are written.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perdure.benchmarks import continual_world, panda_env
from perdure.benchmarks.metaworld_source import NOISE_FILES, MetaWorldSource
from perdure.benchmarks.panda_source import NOISE_FILE, PandaSource
from perdure.core.files import read_json, write_atomic
from perdure.data.roll import Level, TaskSource, episode_generator, roll_episode

SEARCH = range(30)
"""Data goals for the search."""

CONFIRM = range(100, 160)
"""Data goals for the figures that are written."""

TARGETS = (0.8, 0.6, 0.4)
LOWEST = 0.15
BEST = 0.93
"""A best level below this in the search is repeated until it succeeds."""

REPEATED = [Level(noise=noise, tries=10) for noise in (0.1, 0.2, 0.3, 0.4)]

AXES: list[tuple[float, Callable[[float], Level]]] = [
    (3.0, lambda x: Level(noise=x)),
    (1.0, lambda x: Level(noise=0.3, random=x)),
]
"""(largest value, level for a value)."""


class Bench:
    """Successes of one task, each level measured once per set of goals."""

    def __init__(self, source: TaskSource):
        self._source = source
        self._env, self._goals = source.environment(), source.goals()
        self._expert = source.expert(self._env)
        self._known: dict[tuple[Level, range], float] = {}

    def success(self, level: Level, episodes: range = SEARCH) -> float:
        if (level, episodes) not in self._known:
            wins = sum(self._succeeds(level, episode) for episode in episodes)
            self._known[level, episodes] = round(wins / len(episodes), 3)
        return self._known[level, episodes]

    def _succeeds(self, level: Level, episode: int) -> bool:
        source, name = self._source, f"{self._source.name} {level}"
        generator = episode_generator(0, name, episode)
        goal, horizon = self._goals[episode], source.horizon
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = roll_episode(
                self._env,
                self._expert,
                goal,
                level,
                generator,
                spec=source.spec,
                horizon=horizon,
                after_success=0,
            )
        return bool(found.success)


def bisect(bench: Bench, axis: Callable[[float], Level], high: float, target: float) -> Level:
    """The level on the axis whose success was nearest to `target`; success falls from 0 to `high`."""
    low, tried = 0.0, []
    for _ in range(6):
        level = axis(round((low + high) / 2, 3))
        success = bench.success(level)
        tried.append((abs(success - target), level))
        if abs(success - target) < 0.04:
            break
        low, high = (
            (low, round((low + high) / 2, 3)) if success < target else (round((low + high) / 2, 3), high)
        )
    return min(tried, key=lambda pair: pair[0])[1]


def calibrate(task: str, source: TaskSource) -> dict[str, Any]:
    bench = Bench(source)
    best = Level()
    if bench.success(best) < BEST:
        best = max(REPEATED, key=bench.success)
    # the last axis always reaches the bottom: at its end every action is random
    high, axis = next(((high, axis) for high, axis in AXES if bench.success(axis(high)) <= LOWEST), AXES[-1])
    ladder = [best, *(bisect(bench, axis, high, target) for target in (*TARGETS, LOWEST))]
    rows = [{**asdict(level), "success": bench.success(level, CONFIRM)} for level in ladder]
    table = {"expert": bench.success(Level(), CONFIRM), "levels": rows}
    successes = [row["success"] for row in rows]
    verdict = "" if successes[0] >= 0.9 and successes[-1] <= 0.3 else "  NOT A LADDER"
    print(f"{task}: expert {table['expert']}, {[tuple(row.values()) for row in rows]}{verdict}", flush=True)
    return table


def write(file: Path, horizon: int, tables: dict[str, Any], order: tuple[str, ...]) -> None:
    head = json.dumps({"format": 1, "episodes": len(CONFIRM), "horizon": horizon})[:-1]
    lines = [f' "{name}": {json.dumps(tables[name])}' for name in order if name in tables]
    write_atomic(file, (head + ', "tasks": {\n' + ",\n".join(lines) + "\n}}\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["metaworld", "panda"])
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--horizon", type=int, choices=list(NOISE_FILES), default=200, help="of metaworld")
    arguments = parser.parse_args()
    panda = arguments.family == "panda"
    known = panda_env.TASKS if panda else continual_world.TASKS
    horizon = panda_env.HORIZON if panda else arguments.horizon
    file = NOISE_FILE if panda else NOISE_FILES[horizon]
    tables = read_json(file)["tasks"] if file.exists() else {}
    for task in arguments.tasks or known:
        tables[task] = calibrate(task, PandaSource(task) if panda else MetaWorldSource(task, horizon))
        write(file, horizon, tables, known)


if __name__ == "__main__":
    main()
