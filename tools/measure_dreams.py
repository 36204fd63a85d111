"""Where in an episode an agent errs, and where its dreams lie, as Markdown: `python tools/measure_dreams.py RUN [RUN ...]`.

Of every task but the last, early and late in held-out episodes: how far the agent's actions are from the logged ones (root mean
square, of [-1, 1]), and how far a state is from the nearest of 5,000 that the method would replay, every axis in deviations of
the data. The row of the data says how far it is from the nearest of 5,000 logged ones. Last, how many of 1,000 dreams are
nearer to the data of another task than to their own; in the row of the data, of held-out states.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from perdure.api import Agent, load_agent
from perdure.core.distances import nearest
from perdure.core.rng import generator
from perdure.data.access import Views
from perdure.data.sampler import Sampler, scale_action
from perdure.streams import load_stream

FROM = (0, 5, 20)
"""First step of every part of an episode; each ends where the next begins. Short episodes have no late ones."""

DREAMS, STATES = 5000, 1000
"""Drawn of a task; measured of each part of its episodes."""


def observations(sampler: Sampler, steps: Tensor) -> Tensor:
    """(n, O) raw."""
    return sampler.obs[steps + sampler.episode[steps]]


def some(steps: Tensor, most: int, *place: object) -> Tensor:
    """At most `most` of them at random, the same for every agent."""
    return steps[torch.randperm(len(steps), generator=generator(0, "measure", *place))[:most]]


def parts(sampler: Sampler) -> list[Tensor]:
    """Flat steps of the held-out episodes that belong to each part."""
    steps = sampler.starts["holdout"].step
    when = sampler.timestep[steps]
    ends = [*FROM[1:], int(when.max()) + 1]
    return [some(steps[(when >= first) & (when < end)], STATES, first) for first, end in zip(FROM, ends, strict=True)]


def errors(agent: Agent, task: int, sampler: Sampler) -> list[str]:
    """Of the agent's actions, in every part that has states."""
    actor, found = agent.actor(task), []
    for steps in filter(len, parts(sampler)):
        with torch.inference_mode():
            obs = observations(sampler, steps)
            action, _ = actor.act(obs, actor.start(len(obs)), generator(0, "measure", task), None)
        found.append((scale_action(action, sampler.spec) - sampler.action[steps]).square().mean().sqrt())
    return [f"{error:.3f}" for error in found]


def distances(made: Tensor | None, sampler: Sampler) -> list[str]:
    """Mean distance of the states of every part to the nearest of `made` (n, O); nothing where nothing was made."""
    if made is None:
        return []
    every = observations(sampler, sampler.starts["train"].step).double()
    mean, std = every.mean(0), every.std(0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))  # what never varies counts as it is
    made, real = (made - mean) / std, [(observations(sampler, steps) - mean) / std for steps in parts(sampler) if len(steps)]
    return [f"{float(nearest(part, made).mean()):.2f}" for part in real]


def stray(states: Tensor | None, task: int, samplers: list[Sampler]) -> list[str]:
    """Share of the first 1,000 of `states` (n, O) whose nearest logged one is another task's."""
    if states is None:
        return [""]
    logged = [observations(s, some(s.starts["train"].step, 3 * STATES, "logged")).double() for s in samplers]
    every = torch.cat(logged)
    mean, std = every.mean(0), every.std(0).clamp(min=1e-6)
    away = torch.stack([nearest((states[:STATES] - mean) / std, (rows - mean) / std) for rows in logged])
    return [f"{float((away.argmin(0) != task).double().mean()):.0%}"]


def row(name: str, agent: str, wrong: list[str], away: list[str], strays: list[str]) -> None:
    cells = [cell for part in (wrong, away) for cell in part + [""] * (len(FROM) - len(part))] + strays
    print(f"| {' | '.join([name, agent, *cells])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs on one stream")
    torch.set_num_threads(1)
    agents = [load_agent(folder) for folder in parser.parse_args().runs]
    config = agents[0].config
    if any((agent.config.stream, agent.config.stream_options) != (config.stream, config.stream_options) for agent in agents):
        raise SystemExit("these runs learned different streams; give runs of one")
    stream = load_stream(config.stream, **config.stream_options)
    samplers = [view.sampler for view in Views(stream).views]
    row("task", "agent", [f"error, steps {first} on" for first in FROM], [f"to a dream, steps {first} on" for first in FROM],
        ["nearer to another task"])
    row("---", "---", ["--:"] * len(FROM), ["--:"] * len(FROM), ["--:"])
    for task, name in enumerate(agents[0].tasks[:-1]):
        sampler = samplers[task]
        logged = observations(sampler, some(sampler.starts["train"].step, DREAMS, "data"))
        held_out = observations(sampler, some(sampler.starts["holdout"].step, STATES, "held out"))
        row(name, "data", [], distances(logged, sampler), stray(held_out, task, samplers))
        for agent in agents:
            dreams = agent.method.dreamed(task, DREAMS, generator(0, "measure", task, "dreams"))
            replay = agent.config.method_config.get("replay")
            label = f"{agent.config.method} {replay}" if isinstance(replay, str) else agent.config.method
            states = None if dreams is None else dreams[0]
            row(name, label, errors(agent, task, sampler), distances(states, sampler), stray(states, task, samplers))


if __name__ == "__main__":
    main()
