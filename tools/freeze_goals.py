"""Draw the goal lists of a benchmark's tasks and write them below perdure/benchmarks/goals/: `metaworld` or `panda`.

Each goal is what one reset draws under the environment's own seeded sampling, with seeds 0, 1, 2, ... in turn, rounded. A
rounded goal that leaves the task's range, that the task does not accept, that is solved before anything moved or that came
before is passed over. Run once per stream version: a changed list is another benchmark.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from perdure.benchmarks import continual_world, frozen, metaworld_env, panda_env
from perdure.core.errors import UsageError
from perdure.core.files import write_atomic

Draw = Callable[[int], list[float]]
"""From a seed to the goal that it draws."""


@dataclass(frozen=True)
class Family:
    """A benchmark whose episodes are named by goals."""

    file: Path
    tasks: tuple[str, ...]
    data: int
    """Goals for recording, per task."""
    sampler: Callable[[str], Draw]
    judge: Callable[[str], gymnasium.Env]
    """The environment that has to accept the goals of a task."""
    versions: Callable[[], dict[str, str]]


def metaworld_sampler(task: str) -> Draw:
    env = metaworld_env.raw_environment(task)
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True

    def drawn(seed: int) -> list[float]:
        env.seed(seed)
        env.reset()
        return [round(float(number), 6) for number in env._last_rand_vec]

    return drawn


def panda_sampler(task: str) -> Draw:
    env: Any = panda_env.raw_environment(task)
    names = panda_env.RANGES[task]

    def drawn(seed: int) -> list[float]:
        env.reset(seed=seed)
        places = {"goal": env.task.goal}
        if "object_x" in names:
            places["object"] = env.sim.get_base_position("object")
        whole = {f"{what}_{axis}": value for what, place in places.items() for axis, value in zip("xyz", place, strict=True)}
        return [round(float(whole[name]), 4) for name in names]

    return drawn


FAMILIES = {
    "metaworld": Family(metaworld_env.GOALS_FILE, continual_world.TASKS, 200, metaworld_sampler,
                        lambda task: metaworld_env.MetaWorldEnv(task, 1), metaworld_env.versions),
    "panda": Family(panda_env.GOALS_FILE, panda_env.TASKS, 1000, panda_sampler, panda_env.PandaEnv, panda_env.versions),
}  # fmt: skip


def accepted(env: gymnasium.Env, goal: list[float]) -> bool:
    try:
        obs, info = env.reset(options={"goal": goal})
    except UsageError:
        return False
    return bool(np.isfinite(obs).all()) and not info["success"]


def freeze(family: Family, task: str) -> dict[str, list[list[float]]]:
    drawn, judge = family.sampler(task), family.judge(task)
    sizes = {**frozen.SIZES, "data": family.data}
    found: list[list[float]] = []
    seed = 0
    while len(found) < sum(sizes.values()):
        goal = drawn(seed)
        seed += 1
        if goal not in found and accepted(judge, goal):
            found.append(goal)
    print(f"{task}: {seed} seeds for {len(found)} goals", flush=True)
    places = iter(found)
    return {name: [next(places) for _ in range(size)] for name, size in sizes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=list(FAMILIES))
    family = FAMILIES[parser.parse_args().family]
    lines = []
    for task in family.tasks:
        lists = ",\n".join(
            f'  "{name}": {json.dumps(goals, separators=(",", ":"))}' for name, goals in freeze(family, task).items()
        )
        lines.append(f' "{task}": {{\n{lists}\n }}')
    head = f'"format": 1,\n"versions": {json.dumps(family.versions())},\n"tasks": {{\n'
    write_atomic(family.file, ("{\n" + head + ",\n".join(lines) + "\n}\n}\n").encode())


if __name__ == "__main__":
    main()
