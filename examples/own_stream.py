"""Your own logs as a stream: arrays become datasets, a TOML file puts them in order, one call learns them.

    python examples/own_stream.py [FOLDER]      # a new one: datasets are never overwritten

There is no environment here, so the tasks are scored by the error of the action on held-out episodes: 1 is perfect, 0 no
better than a constant. docs/adding_a_stream.md shows how to add an environment.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import perdure

MARKS = {"left": (-0.5, 0.0), "right": (0.5, 0.0), "back": (0.0, 0.5)}


def logged(mark, seed):
    """One recorded episode of 30 steps; put your log reader here."""
    places, actions, rewards = [np.random.default_rng(seed).uniform(-1, 1, 2)], [], []
    for _ in range(30):
        actions.append(np.clip(2 * (mark - places[-1]), -1, 1))
        places.append(places[-1] + 0.2 * actions[-1])
        rewards.append(-np.linalg.norm(mark - places[-1]))
    last = np.arange(30) == 29
    return perdure.Trajectory(np.stack(places), np.stack(actions), np.array(rewards), terminated=np.zeros(30, dtype=bool),
                              truncated=last, seed=seed)


folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="perdure-"))
spec = perdure.Spec(
    obs=perdure.Box((2,), names=("x", "y"), units=("m", "m")),
    action=perdure.Box((2,), low=(-1.0, -1.0), high=(1.0, 1.0), names=("dx", "dy")),
)
lines = ['[stream]\nname = "lab"']
for name, mark in MARKS.items():
    episodes = [logged(np.array(mark), seed) for seed in range(30)]
    data = perdure.write_dataset(folder / "data" / name, episodes, name=f"lab/{name}", spec=spec, quality="expert",
                                 behaviour={"policy": "proportional controller"}, licence="CC0-1.0", source="a table")
    lines.append(f'[[task]]\nname = "{name}"\ndata = "data/{name}"')
    print(data)
(folder / "lab.toml").write_text("\n\n".join(lines) + "\n")

result = perdure.run("er", str(folder / "lab.toml"), out=folder / "run", quiet=True,
                     method_options={"steps": 300, "batch": 64}, policy_options={"width": 64})
print(result.table())
print(f"\nthe same from the command line: perdure run er {folder}/lab.toml")
