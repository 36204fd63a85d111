"""Rolling one scripted episode, and the worker process that does it.

Everything random in an episode comes from a generator keyed by seed, dataset name and episode number, so
neither the number of workers nor an interruption changes the data. A worker is told episode numbers on its
standard input and leaves one finished file per episode; it ends when the input does, also when its parent was
killed. Imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from perdure.core.errors import GuardError, UsageError
from perdure.core.files import write_atomic
from perdure.core.spec import Box, Spec
from perdure.data.trajectory import Trajectory

if TYPE_CHECKING:
    import gymnasium

AGAIN = "finished episodes are kept, so the same command again goes on from here"

Expert = Callable[[np.ndarray], Any]
"""From one observation (*O) to one action: (A,) in environment units, which may leave the bounds, or a number."""


@dataclass(frozen=True)
class Level:
    """How the expert is disturbed in one episode; the default leaves it alone."""

    noise: float = 0.0
    """Standard deviation of the Gaussian noise on every action, in half widths of the action's range; of discrete actions,
    the share that is drawn at random instead."""
    random: float = 0.0
    """Share of the horizon that one stretch of uniformly random actions takes, at a random place."""
    tries: int = 1
    """The episode is repeated with fresh noise until it succeeds, at most this often; the last one counts."""
    behaviour: str = ""
    """Which of the source's policies acts; empty: its expert."""

    def to_json(self) -> dict[str, Any]:
        """Its fields; the behaviour only where it is named."""
        return {name: value for name, value in asdict(self).items() if name != "behaviour" or value}


class TaskSource(Protocol):
    """A task that can make its own data: a frozen dataclass of plain values at the top of a module."""

    @property
    def name(self) -> str:
        """Safe name of the task, such as "hammer-v3"."""
        ...

    @property
    def spec(self) -> Spec: ...

    @property
    def horizon(self) -> int: ...

    @property
    def licence(self) -> str: ...

    @property
    def origin(self) -> str:
        """Where the data come from, in words."""
        ...

    def environment(self) -> gymnasium.Env: ...

    def expert(self, env: Any) -> Expert:
        """The scripted policy, for `env`, one of `environment()`; some read more of it than its observations."""
        ...

    def goals(self) -> Sequence[tuple[float, ...]]:
        """Goal of each episode; none of them is used for evaluation."""
        ...

    def ladder(self) -> Sequence[Level]:
        """Levels of the quality `mixed`, best first."""
        ...

    def versions(self) -> dict[str, str]: ...


@runtime_checkable
class Graded(Protocol):
    """A task source with qualities of its own, made by policies of different strength."""

    def qualities(self) -> Mapping[str, Sequence[Level]]:
        """Quality -> the levels that its episodes take in turn, best first."""
        ...

    def behaviour(self, env: Any, name: str) -> Expert:
        """One of its policies, for `env`."""
        ...


def episode_generator(seed: int, name: str, episode: int) -> np.random.Generator:
    """The generator of one episode, a function of these three and of nothing else."""
    text = "\x1f".join(["collect", str(seed), name, str(episode)])
    return np.random.default_rng(
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    )


def roll_episode(
    env: gymnasium.Env,
    expert: Expert,
    goal: Sequence[float],
    level: Level,
    generator: np.random.Generator,
    *,
    spec: Spec,
    horizon: int,
    after_success: int | None = None,
) -> Trajectory:
    """One episode of the disturbed expert; the actions in it are the executed ones, inside the bounds.

    Args:
        env: a Gymnasium environment whose reset takes `options={"goal": [...]}`.
        expert: its action is clipped before noise is added: several scripted policies ask for many times the
            largest action, and noise on that would vanish in the clipping.
        after_success: steps the episode goes on after its first success; None lets it run to the horizon.
    """
    trajectory = _attempt(env, expert, goal, level, generator, spec, horizon, after_success)
    for _ in range(level.tries - 1):
        if trajectory.success:
            break
        trajectory = _attempt(env, expert, goal, level, generator, spec, horizon, after_success)
    return trajectory


def _attempt(
    env: gymnasium.Env,
    expert: Expert,
    goal: Sequence[float],
    level: Level,
    generator: np.random.Generator,
    spec: Spec,
    horizon: int,
    after_success: int | None,
) -> Trajectory:
    disturbed = _disturbed(level, generator, spec, horizon)
    seed = int(generator.integers(2**31))

    obs, _ = env.reset(seed=seed, options={"goal": list(goal)})
    observations, actions, rewards = [np.asarray(obs)], [], []
    success: bool | None = None
    terminated = truncated = False
    last = horizon - 1
    for step in range(horizon):
        action = disturbed(expert(observations[-1]), step)
        obs, reward, terminated, truncated, info = env.step(action)
        observations.append(np.asarray(obs))
        actions.append(action)
        rewards.append(float(reward))
        if "success" in info:
            if info["success"] and not success and after_success is not None:
                last = min(last, step + after_success)
            success = bool(success) or bool(info["success"])
        if terminated or truncated or step >= last:
            break
    ends = np.zeros(len(actions), bool)
    ends[-1] = True
    return Trajectory(
        observations=np.stack(observations),
        actions=np.stack(actions),
        rewards=np.asarray(rewards, np.float32),
        terminated=ends & terminated,
        truncated=ends & (not terminated),
        success=success,
        goal=tuple(goal),
        seed=seed,
    )


def _disturbed(level: Level, generator: np.random.Generator, spec: Spec, horizon: int) -> Callable[[Any, int], Any]:
    """(what the expert wants, step) -> the action that is executed.

    All draws come first, so that none depends on how long the episode lasts.
    """
    space = spec.action
    drawn: np.ndarray
    if isinstance(space, Box):
        low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
        noise = generator.standard_normal((horizon, len(low))) * level.noise * (high - low) / 2
        drawn = generator.uniform(low, high, (horizon, len(low)))
    else:
        flips = generator.random(horizon) < level.noise
        drawn = generator.integers(space.n, size=horizon)
    stretch = round(level.random * horizon)
    start = int(generator.integers(horizon - stretch + 1))

    def continuous(wanted: np.ndarray, step: int) -> np.ndarray:
        chosen = drawn[step] if start <= step < start + stretch else np.clip(wanted, low, high) + noise[step]
        return np.clip(chosen, low, high).astype(np.float32)

    def discrete(wanted: int, step: int) -> int:
        return int(drawn[step] if flips[step] or start <= step < start + stretch else wanted)

    return continuous if isinstance(space, Box) else discrete


@dataclass(frozen=True)
class Job:
    """What a worker must know; crosses to it as JSON."""

    source: str
    """`module:Class` of the task source."""
    arguments: dict[str, Any]
    """Fields of the task source."""
    folder: str
    """Where the episode files go."""
    pattern: list[int]
    """Positions on the ladder, in the order in which episodes take them."""
    ladder: list[dict[str, Any]]
    """Fields of each `Level`."""
    seed: int
    after_success: int | None

    @classmethod
    def of(
        cls,
        source: TaskSource,
        folder: Path,
        pattern: list[int],
        ladder: Sequence[Level],
        seed: int,
        after: int | None,
    ) -> Job:
        kind = type(source)
        place = f"{kind.__module__}:{kind.__qualname__}"
        return cls(
            place, dict(vars(source)), str(folder), pattern, [level.to_json() for level in ladder], seed, after
        )


def shard_path(folder: Path, episode: int) -> Path:
    return folder / f"episode_{episode:06d}.safetensors"


class Roller:
    """Rolls the episodes of one job, with one environment for all of them."""

    def __init__(self, job: Job):
        module, name = job.source.split(":")
        source: TaskSource = vars(importlib.import_module(module))[name](**job.arguments)
        self._job, self._source = job, source
        self._ladder = [Level(**fields) for fields in job.ladder]
        self._goals = source.goals()
        self._env = source.environment()
        self._experts: dict[str, Expert] = {}

    def roll(self, episode: int) -> int:
        """Roll one episode and write its file; number of steps.

        Raises:
            GuardError: the environment raised.
            OSError: the file cannot be written.
        """
        job, source = self._job, self._source
        # one position further with every ten episodes, or the holdout of every tenth would see one level only
        position = job.pattern[(episode + episode // 10) % len(job.pattern)]
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # scripted policies warn at each step whose action will be clipped
            try:
                trajectory = roll_episode(
                    self._env,
                    self._expert(self._ladder[position].behaviour),
                    self._goals[episode],
                    self._ladder[position],
                    episode_generator(job.seed, source.name, episode),
                    spec=source.spec,
                    horizon=source.horizon,
                    after_success=job.after_success,
                )
            except UsageError:
                raise
            except Exception as problem:  # an environment may raise anything
                phrase = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
                raise GuardError(f"the environment failed in episode {episode} ({phrase}); {AGAIN}") from None
        trajectory.level = float(position)
        write_shard(shard_path(Path(job.folder), episode), trajectory)
        return trajectory.length

    def _expert(self, name: str) -> Expert:
        """The policy that acts, made when it is first needed."""
        if name not in self._experts:
            source = self._source
            self._experts[name] = cast(Graded, source).behaviour(self._env, name) if name else source.expert(self._env)
        return self._experts[name]

    def close(self) -> None:
        self._env.close()


def write_shard(path: Path, trajectory: Trajectory) -> None:
    """One episode as a safetensors file, whole or absent."""
    from safetensors.numpy import save

    arrays = {
        "observations": trajectory.observations,
        "actions": trajectory.actions,
        "rewards": trajectory.rewards,
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
    }
    facts = {name: vars(trajectory)[name] for name in ("success", "goal", "seed", "level")}
    write_atomic(path, save(arrays, metadata={"facts": json.dumps(facts)}))


def read_shard(path: Path) -> Trajectory | None:
    """The episode in a file of `write_shard`; None if it is absent or damaged, and so to be rolled again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
            facts = json.loads(file.metadata()["facts"])
        facts["goal"] = tuple(facts["goal"])
        return Trajectory(**arrays, **facts)
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def serve(text: str) -> None:
    """All that a worker process does: `text` is the job, an input line an episode, an output line its end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    job, roller = Job(**json.loads(text)), None
    for line in sys.stdin:
        try:
            roller = roller or Roller(job)
            answer: dict[str, Any] = {"steps": roller.roll(int(line))}
        except UsageError as problem:
            answer = {"usage": str(problem)}
        except GuardError as problem:
            answer = {"guard": str(problem)}
        except OSError as problem:
            answer = {"disk": problem.strerror or str(problem)}
        print(json.dumps(answer), file=answers, flush=True)
