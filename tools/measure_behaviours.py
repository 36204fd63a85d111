"""Score the behaviour policies of a MuJoCo stream on the goals of the evaluation, with their noise and without.

    python tools/measure_behaviours.py hopper-walker-cheetah-v5 medium

Data are made with the noise, and most agents act without any: what a perfect clone reaches is the second column.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from perdure.benchmarks import behaviour
from perdure.benchmarks.mujoco import ORDERS, goals, scale
from perdure.benchmarks.mujoco_env import OBSERVED, MujocoEnv
from perdure.benchmarks.mujoco_source import MujocoSource

EPISODES = 20


def mean_return(env: MujocoEnv, act: Callable[[np.ndarray], np.ndarray]) -> float:
    """Over the first goals that scores are measured on; actions are clipped to the environment's bounds."""
    total = 0.0
    for goal in goals().final[:EPISODES]:
        obs, _ = env.reset(options={"goal": list(goal)})
        ended = False
        while not ended:
            action = np.clip(act(obs), env.action_space.low, env.action_space.high)
            obs, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            total += float(reward)
            ended = terminated or truncated
    return total / EPISODES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream", choices=list(ORDERS))
    parser.add_argument("quality", choices=["medium", "expert"])
    arguments = parser.parse_args()
    family, order = ORDERS[arguments.stream]
    print("| task | with noise | without |\n|---|--:|--:|")
    for task in order:
        source = MujocoSource(family, task)
        env = source.environment()
        checkpoint = source.qualities()[arguments.quality][0].behaviour
        network = behaviour.network(source.training, checkpoint)
        aim, size = np.asarray(source.factory.what.aim, np.float64), OBSERVED[source.factory.what.body]
        scores = [scale(family, task).score(None, mean_return(env, act)) for act in (
            source.behaviour(env, checkpoint),
            lambda obs, network=network, aim=aim, size=size: network(np.concatenate([obs[:size].astype(np.float64), aim])),
        )]
        print(f"| {task} | {' | '.join(f'{score:.3f}' for score in scores)} |", flush=True)


if __name__ == "__main__":
    main()
