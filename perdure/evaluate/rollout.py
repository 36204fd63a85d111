"""Episodes of one actor in many environments at once: batched forwards here, simulators in worker processes.

An episode's result must be its own. The last bits of a batched forward depend on the batch size, so every
forward has exactly `slots` rows, with zeros in the rows that have nothing to do; and episode i always runs in
row i % slots, after the earlier episodes of that row. The result then depends on actor, goal, seed, row and
`slots` alone: not on how many episodes or workers there are, nor on a worker that was lost on the way (see
`perdure.evaluate.workers`).
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.core.environment import EnvFactory
from perdure.core.errors import GuardError, UsageError
from perdure.core.matrix import Episode
from perdure.core.policy import Actor
from perdure.core.rng import generator, key
from perdure.core.spec import Discrete, Spec
from perdure.core.task import ScoreScale
from perdure.data.trajectory import Trajectory
from perdure.evaluate.carry import restart
from perdure.evaluate.slots import Command, Reset, Result
from perdure.evaluate.workers import EnvPool, Heartbeat

Place = tuple[int | str, ...]

SUCCESS = ScoreScale()


@dataclass
class _Running:
    """The present episode of one row."""

    reset: Reset
    observations: list[np.ndarray] = field(default_factory=list)
    """All so far if trajectories are kept, otherwise the last one."""
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    """Of all actions and rewards."""

    @property
    def last_reward(self) -> float:
        return self.rewards[-1] if self.rewards else 0.0

    def note(self, result: Result, horizon: int, keep: bool) -> None:
        """Take in one step."""
        self.digest.update(self.actions[-1].tobytes() + struct.pack("<d", result.reward))
        if not keep:
            self.observations.clear()
            self.actions.clear()
        self.observations.append(result.obs)
        self.rewards.append(result.reward)
        self.terminated = result.terminated
        self.truncated = not result.terminated and (result.truncated or len(self.rewards) >= horizon)
        if result.success is not None:
            self.success = bool(self.success) or result.success


def rollout(
    actor: Actor,
    factory: EnvFactory,
    goals: Sequence[Any],
    *,
    spec: Spec,
    seed: int,
    place: Place,
    episode_place: Place | None = None,
    scale: ScoreScale = SUCCESS,
    slots: int = 10,
    workers: int = 1,
    stop_at_success: bool = True,
    pool: EnvPool | None = None,
    kept: list[Trajectory] | None = None,
    device: str | torch.device = "cpu",
    heartbeat: Heartbeat = lambda: None,
) -> list[Episode]:
    """One episode per goal, in their order.

    Args:
        goals: numbers that name a goal, or None where the environment has only seeds.
        place: where in the run this is (task, rows learned, ...); keys the actor's random numbers, together
            with the number of the forward. A deterministic actor's episode depends on its own row and goal
            alone. A stochastic actor's also depends on the earlier episodes of its row, whose lengths decide
            at which forward it begins; never on other rows, later episodes, workers, or lost workers.
        episode_place: keys the environment seeds, together with the index of the episode; default `place`.
            Cells that are to be compared need equal ones: (task, name of the goal list), without the number
            of learned tasks.
        scale: turns success or raw return into the score.
        stop_at_success: end an episode at its first success where success is the score; its raw return is
            None then.
        pool: an open pool of `factory` with `slots` slots, left open; otherwise one with `workers` workers is
            made.
        kept: trajectories are appended here, in the order of the goals; one that was cut short is truncated.
        heartbeat: called in every step and while waiting for workers; may raise.

    The global random state is not used. Acting runs in inference mode.

    Raises:
        GuardError: NaN from actor or environment, or an environment that keeps failing.
        UsageError: environment, spec, score scale and actor do not fit together.
    """
    opened = pool if pool is not None else EnvPool(factory, slots, workers)
    if opened.factory != factory or opened.slots != slots:
        raise UsageError(
            f"pool has {opened.slots} slots of {opened.factory!r}; this rollout needs {slots} of {factory!r}"
        )
    seeds_at = place if episode_place is None else episode_place
    resets = [Reset(key(seed, "episode", *seeds_at, i) % 2**31, goal, i) for i, goal in enumerate(goals)]
    batch = _Batch(resets, factory, spec, scale, slots, stop_at_success, kept is not None)

    def noise(forward: int) -> torch.Generator:
        return generator(seed, "act", *place, forward, device=device)

    try:
        with torch.inference_mode():
            _run(batch, actor, opened, noise, device, heartbeat)
    finally:
        if pool is None:
            opened.close()
    if kept is not None:
        kept.extend(batch.trajectories[i] for i in range(len(resets)))
    return [batch.episodes[i] for i in range(len(resets))]


def _run(
    batch: _Batch,
    actor: Actor,
    pool: EnvPool,
    noise: Callable[[int], torch.Generator],
    device: str | torch.device,
    heartbeat: Heartbeat,
) -> None:
    carry, fresh = actor.start(batch.slots), actor.start(batch.slots)
    commands = batch.commands(None)
    # every lockstep counts as one forward, also one in which no row runs and the forward is left out:
    # otherwise the number of a row's forward would depend on the other rows
    for forward in itertools.count():
        if all(command is None for command in commands):
            return
        batch.note(commands, pool.step(commands, heartbeat))
        begun = [isinstance(command, Reset) for command in commands]
        if any(begun):
            carry = restart(carry, fresh, torch.tensor(begun, device=device))
        actions = None
        if any(batch.active):
            obs, reward = batch.inputs(device)
            actions, carry = actor.act(obs, carry, noise(forward), reward)
        commands = batch.commands(actions)


class _Batch:
    """The rows: which episode each runs, which wait for it, and what has come out."""

    def __init__(
        self,
        resets: Sequence[Reset],
        factory: EnvFactory,
        spec: Spec,
        scale: ScoreScale,
        slots: int,
        stop_at_success: bool,
        keep: bool,
    ):
        self.slots = slots
        self.episodes: dict[int, Episode] = {}
        self.trajectories: dict[int, Trajectory] = {}
        self._factory = factory
        self._spec = spec
        self._scale = scale
        self._stop = stop_at_success and scale.kind == "success"
        self._keep = keep
        self._waiting = [deque(resets[row::slots]) for row in range(slots)]
        self._rows: list[_Running | None] = [None] * slots
        self._idle = np.zeros(spec.obs.shape, dtype=spec.obs.dtype)

    @property
    def active(self) -> list[bool]:
        """Whether each row runs an episode."""
        return [row is not None for row in self._rows]

    def inputs(self, device: str | torch.device) -> tuple[Tensor, Tensor]:
        """Observations (slots, *O) and rewards (slots,) of the last step; zeros in idle rows."""
        obs = np.stack([self._idle if row is None else row.observations[-1] for row in self._rows])
        reward = torch.tensor(
            [0.0 if row is None else row.last_reward for row in self._rows], dtype=torch.float32
        )
        return torch.from_numpy(obs).to(device), reward.to(device)

    def commands(self, actions: Tensor | None) -> list[Command]:
        """What every row does next: its action, the reset of its next episode, or nothing."""
        chosen = None if actions is None else self._checked(actions)
        commands: list[Command] = []
        for number, row in enumerate(self._rows):
            if row is not None and chosen is not None:
                row.actions.append(chosen[number])
                commands.append(chosen[number])
            else:
                commands.append(self._waiting[number].popleft() if self._waiting[number] else None)
        return commands

    def _checked(self, actions: Tensor) -> np.ndarray:
        """The actions as an array of their own, which the actor's next call cannot change."""
        space = self._spec.action
        shape, dtype = ((), np.int64) if isinstance(space, Discrete) else (space.shape, np.float32)
        if tuple(actions.shape) != (self.slots, *shape):
            raise UsageError(
                f"the actor returned actions of shape {list(actions.shape)}; the task needs "
                f"{[self.slots, *shape]}"
            )
        chosen = actions.cpu().numpy().astype(dtype)
        for row, action in zip(self._rows, chosen, strict=True):
            if row is not None and not np.isfinite(action).all():
                raise GuardError(
                    f"the actor returned the action {action.tolist()} in episode {row.reset.episode} of "
                    f"{self._factory!r}"
                )
        return chosen

    def note(self, commands: Sequence[Command], results: Sequence[Result | None]) -> None:
        """Take in what the environments returned; rows whose episode ended become idle."""
        for number, (command, result) in enumerate(zip(commands, results, strict=True)):
            if result is None:
                continue
            if isinstance(command, Reset):
                self._fits(result)
                self._rows[number] = _Running(command, [result.obs])
                continue
            row = self._rows[number]
            assert row is not None
            row.note(result, self._factory.horizon, self._keep)
            if row.terminated or row.truncated or (self._stop and row.success):
                self._finish(row)
                self._rows[number] = None

    def _fits(self, result: Result) -> None:
        if result.obs.shape != self._spec.obs.shape or result.obs.dtype != self._spec.obs.dtype:
            raise UsageError(
                f"environment {self._factory!r} returns observations {result.obs.dtype} "
                f"{list(result.obs.shape)}; the task's spec has {self._spec.obs.dtype} "
                f"{list(self._spec.obs.shape)}"
            )

    def _finish(self, row: _Running) -> None:
        if self._scale.kind == "success" and row.success is None:
            raise UsageError(
                f"environment {self._factory!r} reports no info['success'], which is the task's score; "
                "score the task by its return"
            )
        cut = not (row.terminated or row.truncated)
        raw_return = None if cut else float(sum(row.rewards))
        score = self._scale.score(row.success, raw_return)
        clipped = float(np.sign(row.rewards).sum()) if self._scale.kind == "return" and not cut else None
        self.episodes[row.reset.episode] = Episode(score, row.success, len(row.rewards), raw_return, clipped,
                                                   row.digest.hexdigest())
        if self._keep:
            self.trajectories[row.reset.episode] = _trajectory(row)


def _trajectory(row: _Running) -> Trajectory:
    length = len(row.rewards)
    terminated, truncated = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    terminated[-1], truncated[-1] = row.terminated, not row.terminated
    return Trajectory(
        observations=np.stack(row.observations),
        actions=np.stack(row.actions),
        rewards=np.array(row.rewards, dtype=np.float32),
        terminated=terminated,
        truncated=truncated,
        success=row.success,
        goal=None if row.reset.goal is None else tuple(row.reset.goal),
        seed=row.reset.seed,
    )
