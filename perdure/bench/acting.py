"""The policy's cost of acting on a CPU: many episodes in one forward against one environment at a time, without simulators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perdure.bench.measure import Bench, Equality, Figure, Target, check_equal, operations
from perdure.bench.reference import OneAtATime
from perdure.bench.workload import SPEC, open_policy, stream
from perdure.core.rng import generator
from perdure.data.access import Views
from perdure.policies.decision_transformer import DecisionTransformer

TARGETS = {10: Target(2.5), 50: Target(3.0)}

EPISODE = 200
"""Steps after which the plain variant starts a new episode, whose history otherwise grows."""


def _observations(rows: int, steps: int) -> Tensor:
    return torch.randn(steps, rows, SPEC.obs.size, generator=generator(0, "bench", "observations"))


def equal_actions(policy: DecisionTransformer, rows: int = 3) -> Equality:
    """Both ways of acting on the same observations and rewards, past the point where the window slides."""
    steps = policy.context + 5
    observations = _observations(rows, steps).to(policy.may_read.device)
    actor, plain = policy.actor(0), [OneAtATime(policy, 0) for _ in range(rows)]
    carry, g = actor.start(rows), torch.Generator()
    mine, theirs = [], []
    for step in range(steps):
        reward = torch.full((rows,), 0.5 * step, device=observations.device)
        action, carry = actor.act(observations[step], carry, g, reward)
        mine.append(action)
        theirs.append(torch.stack([p.act(observations[step, row], 0.5 * step) for row, p in enumerate(plain)]))
    return check_equal(f"actions of {rows} episodes over {steps} steps", mine, theirs, 1e-4)


def one_at_a_time(policy: DecisionTransformer) -> Callable[[], object]:
    """One action in one environment."""
    observations = _observations(1, EPISODE)[:, 0]
    actor, step = OneAtATime(policy, 0), 0

    def act() -> Tensor:
        nonlocal actor, step
        if step == EPISODE:
            actor, step = OneAtATime(policy, 0), 0
        step += 1
        return actor.act(observations[step - 1], 0.5)

    return act


def together(policy: DecisionTransformer, rows: int) -> Callable[[], object]:
    """One action in each of `rows` environments."""
    device = policy.may_read.device
    observations, reward = _observations(rows, 1)[0].to(device), torch.full((rows,), 0.5, device=device)
    actor, g = policy.actor(0), torch.Generator()
    carry = actor.start(rows)

    def act() -> Tensor:
        nonlocal carry
        action, carry = actor.act(observations, carry, g, reward)
        return action

    for _ in range(policy.context):
        act()  # from here on every window is full, as nearly all windows of an episode are
    return act


def acting(bench: Bench) -> list[Figure]:
    """Per action, at several numbers of episodes, for both sizes of the Decision Transformer."""
    views = Views(stream(bench.scale), "cpu")
    figures = []
    for profile in ("paper", "cpu"):
        policy = open_policy("dt", profile, bench.scale, views, "cpu")
        assert isinstance(policy, DecisionTransformer)
        policy.eval()
        with torch.inference_mode():
            equality = equal_actions(policy)
            sides = {str(rows): together(policy, rows) for rows in bench.scale.rows}
            timed = bench.alternate({"one": one_at_a_time(policy)} | sides)
            for rows in bench.scale.rows:
                figures.append(Figure(
                    f"acting, dt {profile}, {rows} episode{'s' * (rows > 1)} in one forward, per action", "x",
                    timed.ratio("one", str(rows), factor=rows), TARGETS.get(rows), equality, {
                        "ours_ms": timed.milliseconds(str(rows), bench.clock).median / rows,
                        "reference_ms": timed.milliseconds("one", bench.clock).median,
                        "ours_operations": operations(sides[str(rows)]),
                        "reference_operations": operations(one_at_a_time(policy)),
                    },
                ))  # fmt: skip
    return figures
