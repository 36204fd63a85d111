"""Which runs a sweep consists of: every combination, resolved before the first one starts, identical ones once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from perdure.core.config import GROUPS, field_types
from perdure.core.errors import UsageError, nearest
from perdure.core.matrix import ScoreMatrix
from perdure.evaluate.evaluator import EvaluationConfig
from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.run_config import RunConfig, find, holds, policy_of, resolve
from perdure.streams import benchmark

MOST_RUNS = 100_000
"""More runs are a slip of the keyboard."""


@dataclass(frozen=True)
class Axis:
    """One field with the values that it takes in turn."""

    group: str
    field: str
    values: tuple[Any, ...]
    only: str = ""
    """A method, policy or stream whose runs alone have this axis; empty: all have it."""

    def __str__(self) -> str:
        return f"{self.only}:{self.group}.{self.field}".lstrip(":")


@dataclass(frozen=True)
class Space:
    """What to combine."""

    methods: Sequence[str]
    streams: Sequence[str]
    seeds: Sequence[int] = (0,)
    policies: Sequence[str] = ()
    """Empty: the one that each method has by default."""
    grid: Sequence[Axis] = ()
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by group that all runs share, such as {"method": {"steps": 100}}."""
    profile: str = "cpu"
    precision: str = "fp32"

    def pairs(self) -> list[tuple[str, str]]:
        """(policy, method), every one with every other.

        Raises:
            UsageError: an unknown name, or a policy that a method does not work with.
        """
        return [(policy_of(method, policy), method) for policy, method in product(self.policies or ("",), self.methods)]


@dataclass(frozen=True)
class Planned:
    """One run: its config, its folder, and what of the grid sets it apart."""

    config: RunConfig
    folder: Path
    setting: str = ""

    @property
    def key(self) -> str:
        """Differs from that of every other run."""
        return f"{self.config.hash}-seed{self.config.seed}"

    @property
    def name(self) -> str:
        """For people."""
        config = self.config
        policy = "" if config.policy == "bc" else f" {config.policy}"
        return f"{config.method}{policy}{f' ({self.setting})' if self.setting else ''} on {config.stream}, seed {config.seed}"

    def finished(self) -> bool:
        """Whether the folder holds the whole result."""
        path = self.folder / "scores.json"
        return path.exists() and ScoreMatrix.load(path).complete

    def begun(self) -> bool:
        """Whether a checkpoint or a finished task is there to go on from."""
        return any((self.folder / "resume").glob("0*")) or (self.folder / "agent").exists()


def plan(space: Space, root: Path = Path("runs")) -> list[Planned]:
    """Every run of a space, seed by seed, so that an early stop leaves each setting with some seeds.

    Raises:
        UsageError: an unknown name, field or value, an empty list, or a run folder that holds something else.
    """
    for name, values in (("methods", space.methods), ("streams", space.streams), ("seeds", space.seeds)):
        if not values:
            raise UsageError(f"--{name} is empty; give at least one")
    _check_axes(space)
    found: dict[str, Planned] = {}
    for seed in dict.fromkeys(space.seeds):
        for stream, (policy, method) in product(space.streams, space.pairs()):
            for config, setting in _settings(space, method, policy, stream, seed):
                folder = root.joinpath(*config.default_folder.parts[1:])
                planned = Planned(config, folder, setting)
                found.setdefault(planned.key, planned)
                if len(found) > MOST_RUNS:
                    raise UsageError(f"this sweep has more than {MOST_RUNS} runs; give fewer seeds or grid values")
    for planned in found.values():
        holds(planned.folder, planned.config)
    return list(found.values())


def _settings(space: Space, method: str, policy: str, stream: str, seed: int) -> Iterator[tuple[RunConfig, str]]:
    """The configs of one method, policy, stream and seed, each with its place on the grid in words."""
    members = (method, policy, stream)
    axes = [axis for axis in space.grid if axis.only in ("", *members)]
    given = [(group, name) for group in GROUPS for name in space.fixed.get(group, {})]
    known = _known(*members)
    for group, name in [*given, *((axis.group, axis.field) for axis in axes)]:
        if name not in known[group]:
            raise UsageError(_unknown(space, dict(zip(GROUPS, members, strict=False)), group, name, known[group]))
    for values in product(*(axis.values for axis in axes)):
        options = {group: dict(space.fixed.get(group, {})) for group in GROUPS}
        for axis, value in zip(axes, values, strict=True):
            options[axis.group][axis.field] = value
        setting = ", ".join(f"{axis.field} {value}" for axis, value in zip(axes, values, strict=True) if len(axis.values) > 1)
        yield resolve(
            method, stream, policy=policy, profile=space.profile, seed=seed, precision=space.precision,
            method_options=options["method"], policy_options=options["policy"], stream_options_=options["stream"],
            evaluation=options["evaluation"],
        ), setting  # fmt: skip


def _known(method: str, policy: str, stream: str) -> dict[str, list[str]]:
    """Group -> the fields that may be set."""
    classes = (find(method, METHODS, "method").Config, find(policy, POLICIES, "policy").Config, benchmark(stream).Options,
               EvaluationConfig)
    return {group: list(field_types(cls)) for group, cls in zip(GROUPS, classes, strict=True)}


def _unknown(space: Space, members: dict[str, str], group: str, name: str, known: Iterable[str]) -> str:
    """The sentence about a field that one of the sweep's methods, policies or streams lacks, with the remedy."""
    who = members.get(group, "the evaluation")
    every = {"method": space.methods, "policy": [policy for policy, _ in space.pairs()], "stream": space.streams}.get(group, ())
    having = [other for other in every if name in _known(*(members | {group: other}).values())[group]]
    if having:
        return (f"{who} has no option {group}.{name}, {having[0]} has it; give it to that one alone with --grid"
                f" {having[0]}:{group}.{name}=VALUE, or leave {who} out")
    return f"{who} has no option {group}.{name}{nearest(name, known) or '; known: ' + ', '.join(known)}"


def _check_axes(space: Space) -> None:
    """Refuse axes that are empty, aim at nothing, or set a field twice.

    Raises:
        UsageError: names the axis.
    """
    members = {*space.methods, *(policy for policy, _ in space.pairs()), *space.streams}
    for place, axis in enumerate(space.grid):
        if axis.group not in GROUPS:
            raise UsageError(f"--grid {axis} names the group '{axis.group}'{nearest(axis.group, GROUPS)}; the groups are"
                             f" {', '.join(GROUPS)}")
        if not axis.values or any(value == "" for value in axis.values):
            raise UsageError(f"--grid {axis} has an empty value; give values with commas between them, as in {axis}=1,10")
        if axis.only and axis.only not in members:
            raise UsageError(f"--grid {axis} is for '{axis.only}', which is no method, policy or stream of this sweep"
                             f"{nearest(axis.only, members) or '; these are ' + ', '.join(sorted(members))}")
        if axis.field in space.fixed.get(axis.group, {}):
            raise UsageError(f"--grid {axis} and --{axis.group}.{axis.field} set the same field; leave one of them out")
        for other in space.grid[:place]:
            same = (axis.group, axis.field) == (other.group, other.field)
            if same and (axis.only == other.only or "" in (axis.only, other.only)):
                raise UsageError(f"--grid {other} and --grid {axis} set the same field; give all its values in one of them")
