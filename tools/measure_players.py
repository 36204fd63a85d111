"""Measure random play and the scripted players of the Atari games, as the package's table of them says.

    python tools/measure_players.py

20 whole games each, cut after 5,000 decisions, with the numbers of the evaluation (no data are made of them); about 10
core-minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from perdure.benchmarks.atari import goals
from perdure.benchmarks.atari_env import MINIMAL, AtariEnv
from perdure.benchmarks.atari_source import PLAYERS_FILE, AtariSource, weak
from perdure.core.files import write_json

EPISODES, HORIZON = 20, 5000


def points(env: AtariEnv, choose: Callable[[np.ndarray], Any]) -> float:
    """Mean points of the episodes."""
    total = 0.0
    for goal in goals().final[:EPISODES]:
        obs, _ = env.reset(options={"goal": list(goal)})
        ended = False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(choose(obs))
            total += reward
            ended = terminated or truncated
    return total / EPISODES


def at_random(rng: np.random.Generator, count: int, obs: np.ndarray) -> int:
    return int(rng.integers(count))


def main() -> None:
    found = {}
    for game, names in MINIMAL.items():
        source = AtariSource(game, HORIZON)
        env, rng = source.environment(), np.random.default_rng(0)
        player, random = points(env, source.expert(env)), points(env, partial(at_random, rng, len(names)))
        found[game] = {"random": round(random, 2), "player": round(player, 2)}
        print(game, found[game], flush=True)
    write_json(PLAYERS_FILE, {"format": 1, "tasks": found})
    print("weak:", ", ".join(filter(weak, MINIMAL)) or "none")


if __name__ == "__main__":
    main()
