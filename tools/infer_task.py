"""How far the beginning of held-out episodes tells their task, as Markdown: `python tools/infer_task.py RUN`.

The run is of a method that infers the task (`tsn_affinity --method.task_id inferred`). Its agent is asked about the first
observations of the episodes that it did not learn from; what it would do with the answer is not part of this.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from perdure.api import load_agent
from perdure.continual.inference import InferringActor
from perdure.data.access import Views
from perdure.streams import load_stream

AFTER = (1, 2, 5, 10)
"""Observations after which the answer is asked for."""


def answers(actor: InferringActor, sampler: object) -> Tensor:
    """(episodes, K) index of the task that fits best after each of the first K observations of the held-out episodes."""
    first = sampler.starts["holdout"].first
    evidence, after = torch.zeros(len(first), len(actor.tasks), dtype=torch.float64), []
    for k in range(actor.steps):
        obs = sampler.windows_at(first + k, 1).obs[:, 0]
        evidence = evidence + actor.likelihood(obs, torch.full((len(first),), k))
        after.append(evidence.argmax(1))
    return torch.stack(after, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    folder = parser.parse_args().run
    agent = load_agent(folder)
    stream = load_stream(agent.config.stream, **agent.config.stream_options)
    views = Views(stream)
    names = [task.name for task in stream.tasks[: agent.learned]]
    actor = agent.actor(0)
    if not isinstance(actor, InferringActor) or len(actor.tasks) < agent.learned:
        raise SystemExit(f"{folder} does not infer every task; give a run with --method.task_id inferred and equal spaces")
    asked = [k for k in AFTER if k <= actor.steps]
    print("| task | " + " | ".join(f"named after {k}" for k in asked) + f" | mistaken after {asked[-1]} for |")
    print("|---" + "|--:" * len(asked) + "|---|")
    right = []
    for task, name in enumerate(names):
        said = answers(actor, views.views[task].sampler)[:, [k - 1 for k in asked]]
        right.append((said == task).double().mean(0))
        others = [(int((said[:, -1] == other).sum()), names[other]) for other in range(len(names)) if other != task]
        wrong = ", ".join(f"{other} ({count} of {len(said)})" for count, other in sorted(others, reverse=True) if count)
        print(f"| {name} | " + " | ".join(f"{share:.0%}" for share in right[-1]) + f" | {wrong} |")
    print("| average | " + " | ".join(f"{share:.0%}" for share in torch.stack(right).mean(0)) + " | |")


if __name__ == "__main__":
    main()
