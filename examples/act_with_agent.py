"""Load a learned agent and act with it in an environment, without the run that made it.

    python examples/act_with_agent.py [FOLDER]

Needs only the agent's folder: `FOLDER/run/agent/3` can be copied to another machine.
"""

import sys
import tempfile
from pathlib import Path

import perdure

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="perdure-"))
perdure.run("packnet", "toy", out=folder / "run", quiet=True, method_options={"steps": 200})

agent = perdure.load_agent(folder / "run" / "agent" / "3")  # the agent after three tasks; a run folder means the newest
print(agent)

for task in perdure.load_stream("toy").tasks:
    env = task.env()  # any environment with the Gymnasium API and the same spaces
    solved = 0
    for goal in task.goals.final[:10]:
        observation, _ = env.reset(options={"goal": goal})
        episode, reward, success, over = agent.episode(task.name), None, False, False
        while not (over or success):
            action = episode.act(observation, reward)
            observation, reward, terminated, truncated, info = env.step(action)
            success, over = success or info["success"], terminated or truncated
        solved += success
    print(f"{task.text:40} solved {solved} of 10")
    env.close()
