"""Streams of tasks that are alike or opposite to each other, to see what methods make of that."""

import numpy as np
from tiny import Lab, config

from perdure.core.spec import Box, Discrete, Spec
from perdure.core.task import Stream, Task
from perdure.data.access import Views
from perdure.data.store import Dataset
from perdure.data.trajectory import Trajectory

SHORT = {"steps": 120, "batch": 32, "learning_rate": 0.01}
WIDE = {"width": 32, "layers": 3}


def data(kind, seed, discrete):
    """64 episodes of 8 steps. A: the action says where the first coordinate lies; B: the other way round, inputs shifted.

    With a tilde, the actions of half of the episodes are mostly noise.
    """
    noisy, kind = kind.endswith("~"), kind.removesuffix("~")
    rng, episodes = np.random.default_rng(seed), []
    for episode in range(64):
        obs = rng.standard_normal((9, 6)).astype(np.float32)
        x = obs[:8, 0]
        obs = obs + (3.0 if kind == "B" else 0.0)
        sign = -1.0 if kind == "B" else 1.0
        if kind == "noise":
            x = 0.5 * rng.standard_normal(8)
        actions = np.stack([np.tanh(2 * sign * x), np.tanh(-sign * x)], 1).astype(np.float32)
        if noisy and episode % 4 < 2:
            actions = (0.3 * actions + rng.uniform(-0.7, 0.7, actions.shape)).astype(np.float32)
        if discrete:
            actions = ((np.digitize(x, [-0.7, 0.0, 0.7]) + (2 if kind == "B" else 0)) % 4).astype(np.int64)
        end = np.arange(8) == 7
        episodes.append(Trajectory(observations=obs.astype(np.float32), actions=actions, rewards=np.ones(8, dtype=np.float32),
                                   terminated=np.zeros(8, dtype=bool), truncated=end, success=True))
    action = Discrete(4) if discrete else Box((2,), low=(-1.0,) * 2, high=(1.0,) * 2)
    spec = Spec(obs=Box((6,)), action=action)
    return Dataset.in_memory(episodes, name=kind, spec=spec, quality="expert", licence="Apache-2.0", source="made in memory",
                             behaviour={"policy": "function"})


def meaning(kind, index):
    """Of length 1; near for tasks of one kind, and equal for no two."""
    vector = np.eye(4)["AB".find(kind[0]) % 3] + 0.1 * np.random.default_rng(index).standard_normal(4)
    return tuple((vector / np.linalg.norm(vector)).tolist())


def lab_of(kinds, policy="bc", method="tsn_affinity", *, discrete=False, shared=None, **options):
    """A method on tasks of these kinds, which it has not learned yet."""
    sizes = {"bc": WIDE, "dt": {"width": 32, "layers": 1, "attention_heads": 2, "context": 4}}[policy]
    lab = Lab(config(method, policy, policy_options=sizes | (shared or {}), **(SHORT | options)))
    sets = [data(kind, seed, discrete) for seed, kind in enumerate(kinds)]
    tasks = tuple(Task(index=i, name=f"{kind}-{i}", spec=one.spec, data=one, text=f"Do {kind}.", vector=meaning(kind, i))
                  for i, (kind, one) in enumerate(zip(kinds, sets, strict=True)))
    lab.stream = Stream("made", tasks)
    lab.views = Views(lab.stream)
    return lab
