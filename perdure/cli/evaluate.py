"""`perdure eval`: the newest agent of a run scored again; the run folder is only read."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import columns, print_json
from perdure.core.errors import UsageError
from perdure.core.words import counted

if TYPE_CHECKING:
    from perdure.core.matrix import ScoreMatrix

EXAMPLE = "perdure eval runs/toy/packnet/bc-1a2b3c4d-seed0 --episodes 20"


@dataclass(frozen=True)
class Options:
    """Score the newest agent of a run on the tasks it learned, with the evaluator of the run. Changes nothing: equal
    episodes give the scores of the run again."""

    run: Annotated[str, arg(metavar="RUN", help_behavior_hint="")]
    """A run folder, or one of its agent folders."""
    episodes: int = 0
    """Per task, the first of the frozen final goals; 0: as many as the run's last row."""
    task: Annotated[str, arg(metavar="NAME", help_behavior_hint="")] = ""
    """Only this task."""
    workers: int = 1
    """Processes that step the environments."""
    threads: int = 1
    """Of torch on the CPU."""
    json: bool = False
    """Print JSON, with every episode."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "eval", EXAMPLE, "perdure eval runs/demo/packnet --task hammer --json")
    options = parse(Options, argv, "eval", EXAMPLE)
    import torch

    from perdure.api import check_machine, load_agent

    check_machine(options.workers, options.threads, "cpu")
    torch.set_num_threads(options.threads)
    agent = load_agent(Path(options.run))
    found = _scores(agent, options)
    if options.json:
        print_json(found)
        return 0
    rows = [[row["task"], _number(row["score"]), _between(row["interval"]), str(len(row["episodes"])), _number(row["before"])]
            for row in found["tasks"]]
    print(f"{agent.config.method} on {agent.config.stream}, seed {agent.config.seed}, after {agent.learned} of"
          f" {counted(found['tasks_of_stream'], 'task')}")
    print(columns([["task", "score", "95 %", "episodes", "in the run"], *rows]))
    return 0


def _scores(agent: Any, options: Options) -> dict[str, Any]:
    import torch

    from perdure.core.config import build
    from perdure.core.intervals import wilson
    from perdure.core.method import Need
    from perdure.data.access import Access, Views
    from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator

    config = agent.config
    wanted = [agent.index(options.task)] if options.task else list(range(agent.learned))
    settings = build(EvaluationConfig, config.evaluation | _asked(options), "evaluation")
    stream = config.load_stream(lambda text: print(text, file=sys.stderr))
    views = Views(stream)
    evaluator = StreamEvaluator(stream, lambda index: Access(views, index, frozenset(Need)), settings, config.seed,
                                agent.method.schedule == "joint", options.workers, torch.device("cpu"))
    matrix = _record(agent.folder)
    rows = []
    try:
        for task in wanted:
            episodes = evaluator.cell(agent.method, agent.learned, task, settings.episodes)
            scores = [episode.score for episode in episodes]
            success = episodes and all(episode.success is not None for episode in episodes)
            interval = wilson(sum(map(bool, (e.success for e in episodes))), len(episodes)) if success else None
            rows.append({
                "task": agent.tasks[task], "score": sum(scores) / len(scores) if scores else None,
                "interval": [interval.low, interval.high] if interval else None,
                "before": matrix.mean(agent.learned, task) if matrix else None,
                "episodes": [episode.to_json() for episode in episodes],
            })  # fmt: skip
    finally:
        evaluator.close()
    return {"run": options.run, "method": config.method, "stream": config.stream, "seed": config.seed,
            "learned": agent.learned, "tasks_of_stream": len(stream), "tasks": rows}


def _record(agent: Path) -> ScoreMatrix | None:
    """What the run of an agent folder scored: its scores.json, or its newest checkpoint while it has none."""
    from perdure.core.checkpoint import Generations
    from perdure.core.files import read_json
    from perdure.core.matrix import ScoreMatrix

    run = agent.resolve().parent.parent
    if (run / "scores.json").is_file():
        return ScoreMatrix.load(run / "scores.json")
    generations = Generations(run / "resume")
    with contextlib.suppress(UsageError, KeyError, TypeError):  # the scores shown beside are a courtesy
        newest = max(generations.numbers(), default=0)
        return ScoreMatrix.from_json(read_json(generations.folder / f"{newest:08d}" / "meta.json")["scores"])
    return None


def _between(interval: list[float] | None) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else ""


def _asked(options: Options) -> dict[str, Any]:
    """The number of episodes, with `shared` small enough for it."""
    return {"episodes": options.episodes, "shared": 1} if options.episodes else {}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
