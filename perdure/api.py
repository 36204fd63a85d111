"""perdure from Python: the verbs of the command line as functions, and results that show themselves in a notebook."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perdure.core.errors import GuardError, UsageError, nearest
from perdure.core.log import Sink
from perdure.core.matrix import ScoreMatrix
from perdure.core.metrics import Metric, measure
from perdure.core.policy import Actor, Carry
from perdure.core.rng import generator
from perdure.core.run import newest_agent
from perdure.core.spec import Spec
from perdure.core.task import Stream
from perdure.core.threads import threads as using
from perdure.experiment import Experiment, open_agent
from perdure.methods import METHODS
from perdure.progress import Quiet, Terminal
from perdure.run_config import RunConfig, find, load_config, resolve
from perdure.streams import load_stream, outline

__all__ = ["Agent", "Episode", "Result", "execute", "load_agent", "load_stream", "plan", "run"]

OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory", "Storage size calculation overflowed")
"""What torch says in a plain RuntimeError when memory runs out, or could never be enough."""


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its score matrix and its config."""

    folder: Path
    matrix: ScoreMatrix
    config: RunConfig

    @classmethod
    def load(cls, folder: Path | str) -> Result:
        """The result in a run folder; UsageError if there is none."""
        folder = Path(folder)
        return cls(folder, ScoreMatrix.load(folder / "scores.json"), load_config(folder / "config.json"))

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric by name; those that need a run of `independent` beside this one are not defined here."""
        return measure(self.matrix)

    def value(self, metric: str) -> float | None:
        """The value of a metric such as "forgetting"; None where it is not defined."""
        known = self.metrics
        if metric not in known:
            raise UsageError(f"metric is '{metric}'{nearest(metric, known) or '; known: ' + ', '.join(known)}")
        return known[metric].value

    def rows(self) -> list[list[str]]:
        """The score matrix as text: a header, then one row per number of tasks learned; a dash where there is no score."""
        means = self.matrix.as_array()
        body = [[str(learned), *("-" if np.isnan(x) else f"{x:.2f}" for x in row)] for learned, row in enumerate(means)]
        return [["tasks learned", *self.matrix.tasks], *body]

    def raw_returns(self) -> np.ndarray:
        """(N+1, N) mean raw returns in environment units: row k after k tasks were learned; NaN where an episode has none."""
        return self.matrix.raw_returns()

    def table(self) -> str:
        """The score matrix as lines of text: row k is the score of every task after k tasks were learned."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def summary(self) -> str:
        """Average performance and forgetting in words."""
        names = {"average_performance": "average performance", "forgetting": "forgetting"}
        values = {words: self.value(name) for name, words in names.items()}
        return ", ".join(f"{words} {'not defined' if x is None else f'{x:.3f}'}" for words, x in values.items())

    def __repr__(self) -> str:
        matrix = self.matrix
        return f"Result({matrix.method} on {matrix.stream}, {matrix.policy}, seed {matrix.seed}: {self.summary()}; {self.folder})"

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in row] for row in self.rows()]
        cells = "".join(f"<th>{cell}</th>" for cell in head)
        lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
        return f"<p>{html.escape(repr(self))}</p><table><tr>{cells}</tr>{lines}</table>"


class Episode:
    """One running episode of an agent: what it remembers of it is kept here."""

    def __init__(self, actor: Actor, seed: int, spec: Spec | None = None):
        """`spec`: the spaces of the task, by which observations are checked; None: they are not."""
        self.actor = actor
        self.seed = seed
        self.spec = spec
        self.steps = 0
        self.carry: Carry = actor.start(1)

    def act(self, obs: Any, reward: float | None = None) -> np.ndarray | int:
        """The next action, (A,) float32 within the bounds or an int.

        Args:
            obs: (*O) as the environment gives it.
            reward: of the previous step in environment units; None where no reward is observed.

        Raises:
            UsageError: an observation of another shape or kind than the task's, or a number that is not finite.
        """
        if reward is not None and not (isinstance(reward, Real) and math.isfinite(reward)):
            raise UsageError(f"reward is {reward!r}; give a finite number, or None where there is none")
        before = None if reward is None else torch.tensor([float(reward)])
        batch = torch.as_tensor(self._checked(obs)).unsqueeze(0)
        with torch.inference_mode():
            action, self.carry = self.actor.act(batch, self.carry, generator(self.seed, "act", self.steps), before)
        self.steps += 1
        found = action[0].cpu().numpy()
        return int(found) if found.ndim == 0 else found

    def _checked(self, obs: Any) -> np.ndarray:
        """(*O) float32 or uint8: a sensor that is missing or gone mad must not become an action."""
        try:
            seen = np.asarray(obs)
            seen = seen if seen.dtype == np.uint8 else seen.astype(np.float32)
        except (TypeError, ValueError):
            raise UsageError(f"observation is {ascii(obs)[:60]}; give an array of numbers") from None
        if self.spec is not None:
            box = self.spec.obs
            if seen.shape != box.shape:
                raise UsageError(f"observation has shape {list(seen.shape)}; this task observes {list(box.shape)}")
            if box.dtype == "uint8" and seen.dtype != np.uint8:
                raise UsageError("observation holds numbers that are no uint8; this task observes images of uint8")
            seen = seen.astype(box.dtype)
        if not np.isfinite(seen).all():
            raise UsageError(f"observation holds {seen[~np.isfinite(seen)][0]}; give finite numbers")
        return seen


class Agent:
    """A learned agent, read from a run folder or an agent folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.method, self.config, self.tasks = open_agent(folder)
        self.learned = len(self.tasks)

    def index(self, task: str | int) -> int:
        """Position of a task, given as name or position.

        Raises:
            UsageError: not a task that this agent learned.
        """
        if task in self.tasks:
            return self.tasks.index(str(task))
        if isinstance(task, int) and 0 <= task < len(self.tasks):
            return task
        known = f"{nearest(str(task), self.tasks) or ''}; this agent learned {', '.join(self.tasks)}"
        raise UsageError(f"task is {task!r}{known}")

    def actor(self, task: str | int) -> Actor:
        """The actor of one task, which acts for many episodes at once."""
        return self.method.actor(self.index(task))

    def episode(self, task: str | int, seed: int = 0) -> Episode:
        """Begin one episode; ask it for an action at every step. `seed` matters to policies that act at random."""
        policy, _ = self.method.model(self.index(task))
        specs: dict[int, Spec] = getattr(policy, "specs", {})  # a policy of the user's own may not keep them
        return Episode(self.actor(task), seed, specs.get(self.index(task)))

    def act(self, obs: Any, task: str | int) -> np.ndarray | int:
        """The action at the first step of an episode; policies that look back need `episode`."""
        return self.episode(task).act(obs)

    def __repr__(self) -> str:
        return f"Agent({self.config.method}, {self.config.policy}, learned {', '.join(self.tasks)})"


def plan(
    method: str,
    stream: str | Stream,
    *,
    policy: str = "",
    profile: str = "cpu",
    seed: int = 0,
    precision: str = "fp32",
    method_options: dict[str, Any] | None = None,
    policy_options: dict[str, Any] | None = None,
    stream_options: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
) -> RunConfig:
    """The complete config of a run, every default filled in; `run` takes the same arguments.

    Raises:
        UsageError: an unknown name or option, or a value that cannot be used.
    """
    return resolve(method, stream, policy=policy, profile=profile, seed=seed, precision=precision, method_options=method_options,
                   policy_options=policy_options, stream_options_=stream_options, evaluation=evaluation)


def run(
    method: str,
    stream: str | Stream,
    *,
    out: Path | str | None = None,
    quiet: bool = False,
    device: str = "cpu",
    workers: int = 1,
    threads: int = 1,
    log: Sequence[Sink] = (),
    **options: Any,
) -> Result:
    """Learn a stream and evaluate, resume what was interrupted, or return what is finished.

    Args:
        method: a name of `perdure methods`, or `module:Class`.
        stream: a name of `perdure streams`, the path of a TOML file, or a Stream.
        out: the run folder; default `runs/<stream>/<method>/<policy>-<hash>-seed<N>`.
        quiet: show no progress.
        device: `cpu`, `cuda`, or one GPU of several such as `cuda:1`.
        workers: processes that step the environments.
        threads: of torch on the CPU while this runs; results are bit-identical for equal numbers.
        log: `tensorboard` and `wandb`, beside metrics.jsonl.
        options: those of `plan`, such as `seed=3` or `method_options={"strength": 1e4}`.

    Raises:
        UsageError: wrong use, in one sentence.
        GuardError: NaN or infinity while learning.
    """
    known = list(signature(plan).parameters)[2:]
    if wrong := next((name for name in options if name not in known), ""):
        raise TypeError(f"perdure.run has no argument '{wrong}'{nearest(wrong, known) or '; known: ' + ', '.join(known)}")
    config = plan(method, stream, **options)
    return execute(config, Path(out) if out is not None else config.default_folder, quiet=quiet, device=device, workers=workers,
                   threads=threads, log=tuple(log), stream=None if isinstance(stream, str) else stream,
                   resume_command="the same call of perdure.run")


def execute(
    config: RunConfig,
    folder: Path,
    *,
    stream: Stream | None = None,
    quiet: bool = False,
    device: str = "cpu",
    workers: int = 1,
    threads: int = 1,
    log: tuple[Sink, ...] = (),
    resume_command: str = "",
) -> Result:
    """Run a resolved config in a folder; the command line and `run` both end here."""
    check_machine(workers, threads, device)
    label = f"{config.method} seed {config.seed}"
    with using(threads), enough_memory(config):
        if quiet:
            experiment = Experiment(config, folder, Quiet(), workers, device, log, stream, resume_command)
            return Result(folder, experiment.execute(), config)
        names = [task.name for task in (stream.tasks if stream else outline(config.stream, config.stream_options))]
        joint = find(config.method, METHODS, "method").schedule == "joint"
        with Terminal(label, names, int(config.method_config["steps"]), joint) as progress:
            experiment = Experiment(config, folder, progress, workers, device, log, stream, resume_command)
            return Result(folder, experiment.execute(), config)


def check_machine(workers: int, threads: int, device: str) -> None:
    """Refuse numbers of processes and threads that cannot be meant, and a device that is not there.

    Raises:
        UsageError: names the argument, its value and what would be right.
    """
    for name, value, least in (("workers", workers, 0), ("threads", threads, 1)):
        if type(value) is not int or not least <= value <= 1024:
            raise UsageError(f"{name} is {value!r}; give a whole number from {least} to 1024")
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in known:
        here = f"torch sees {', '.join(known[1:])} here" if known[1:] else "torch sees no GPU here"
        raise UsageError(f"device is '{device}' but {here}; use --device cpu, see `perdure doctor`")


@contextmanager
def enough_memory(config: RunConfig) -> Iterator[None]:
    """Turn what torch and Python raise when memory runs out into one sentence.

    Raises:
        GuardError: names the batch and the width, which decide most of the memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not isinstance(problem, MemoryError) and not any(part in str(problem) for part in OUT_OF_MEMORY):
            raise
        width = config.policy_config.get("width")  # a policy of the user's own may have none
        sizes = f"method.batch {config.method_config['batch']}" + ("" if width is None else f" and policy.width {width}")
        raise GuardError(f"the memory of this machine is not enough for {config.method} on {config.stream} with {sizes}; give a"
                         " smaller batch or smaller networks") from None


def load_agent(folder: Path | str) -> Agent:
    """The newest agent of a run folder, or the agent of an agent folder, every digest checked.

    Raises:
        UsageError: none there, damaged, or of a newer format.
    """
    place = newest_agent(Path(folder))
    if not (place / "meta.json").is_file():
        raise UsageError(f"{folder} holds no agent; give a run folder of which at least one task is finished, or an agent folder")
    return Agent(place)
