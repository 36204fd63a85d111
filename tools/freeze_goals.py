"""Draw the goal lists of the Meta-World tasks and write perdure/benchmarks/goals/metaworld_v3.json.

Each goal is the random vector of one reset under the environment's own seeded sampling, with seeds 0, 1, 2,
... in turn, rounded to 6 decimals. A rounded vector that leaves the task's range, that the task does not
accept or that came before is passed over. Run once per stream version: a changed list is another benchmark.
"""

import json
from typing import Any

import numpy as np

from perdure.benchmarks.continual_world import TASKS
from perdure.benchmarks.metaworld_env import GOALS_FILE, MetaWorldEnv, raw_environment, versions
from perdure.core.errors import UsageError
from perdure.core.files import write_atomic

SIZES = {"final": 50, "curve": 10, "probe": 10, "data": 200}


def drawn(env: Any, seed: int) -> list[float]:
    env.seed(seed)
    env.reset()
    return [round(float(number), 6) for number in env._last_rand_vec]


def accepted(env: MetaWorldEnv, goal: list[float]) -> bool:
    try:
        obs, _ = env.reset(options={"goal": goal})
    except UsageError:
        return False
    return bool(np.isfinite(obs).all())


def freeze(task: str) -> dict[str, list[list[float]]]:
    sampler, judge = raw_environment(task), MetaWorldEnv(task, 1)
    sampler._freeze_rand_vec = False
    sampler.seeded_rand_vec = True
    found: list[list[float]] = []
    seed = 0
    while len(found) < sum(SIZES.values()):
        goal = drawn(sampler, seed)
        seed += 1
        if goal not in found and accepted(judge, goal):
            found.append(goal)
    print(f"{task}: {seed} seeds for {len(found)} goals", flush=True)
    places = iter(found)
    return {name: [next(places) for _ in range(size)] for name, size in SIZES.items()}


def main() -> None:
    lines = []
    for task in TASKS:
        lists = ",\n".join(
            f'  "{name}": {json.dumps(goals, separators=(",", ":"))}' for name, goals in freeze(task).items()
        )
        lines.append(f' "{task}": {{\n{lists}\n }}')
    head = f'"format": 1,\n"versions": {json.dumps(versions())},\n"tasks": {{\n'
    write_atomic(GOALS_FILE, ("{\n" + head + ",\n".join(lines) + "\n}\n}\n").encode())


if __name__ == "__main__":
    main()
