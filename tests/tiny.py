"""Tiny runs on the toy streams: a config in one call, a run in a fraction of a second, digests to compare them with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from perdure.core.matrix import ScoreMatrix
from perdure.core.method import Method, Need, Phase, Step
from perdure.core.policy import Actor
from perdure.core.rng import seed_everything
from perdure.core.roles import Progress
from perdure.core.state import capture
from perdure.core.task import Stream
from perdure.data.access import Access, Views, grant
from perdure.experiment import Experiment, make_method
from perdure.progress import Quiet
from perdure.run_config import RunConfig, resolve
from perdure.streams import load_stream

RECIPE = {"steps": 8, "batch": 8}
FLAT = {"width": 16, "layers": 2}
SIZES = {"bc": FLAT, "td3bc": FLAT, "iql": FLAT, "sfbc": {"width": 16, "critic_width": 16, "evaluations": 3, "candidates": 4},
         "dt": {"width": 16, "layers": 2, "attention_heads": 2, "context": 4}}
EXTRA = {"ewc": {"fisher_batches": 2, "fisher_batch": 8}, "mas": {"importance_batches": 2, "importance_batch": 8},
         "cugro": {"dreams": 16, "state_steps": 4, "state_width": 16, "evaluations": 3, "collapse": 100.0},
         **{name: {"dreams": 60, "state_steps": 4, "state_width": 16, "evaluations": 3} for name in ("dgr", "tdgr", "cril")},
         "rwalk": {"interval": 3}, "er": {"memory_share": 0.2},
         "der": {"memory_share": 0.2}, "agem": {"memory_share": 0.2}, "clonex": {"memory_share": 0.2}}
EVALUATION = {"episodes": 2, "shared": 1, "curve": 1, "slots": 2}

Visit = Callable[[int, str, int | str], None]
"""(task, phase, place): place is 'begin', the index of an update, or 'end'."""


def config(
    method: str = "finetune",
    policy: str = "bc",
    stream: str = "toy",
    *,
    seed: int = 0,
    tasks: int = 3,
    episodes: int = 6,
    evaluation: dict[str, Any] | None = None,
    policy_options: dict[str, Any] | None = None,
    **method_options: Any,
) -> RunConfig:
    """A resolved config of tiny sizes; keywords are options of the method."""
    extra = {} if method_options.get("compat") else EXTRA.get(method, {})  # which says what `compat` replaces
    return resolve(
        method, stream, policy=policy, seed=seed, method_options=RECIPE | extra | method_options,
        policy_options=SIZES[policy] | (policy_options or {}), stream_options_={"tasks": tasks, "episodes": episodes},
        evaluation=EVALUATION | (evaluation or {}),
    )  # fmt: skip


@lru_cache(maxsize=32)
def _stream(name: str, options: str) -> Stream:
    return load_stream(name, say=lambda text: None, **json.loads(options))


def stream_of(settings: RunConfig) -> Stream:
    """The stream of a config, made once per process."""
    return _stream(settings.stream, json.dumps(settings.stream_options, sort_keys=True))


def execute(
    settings: RunConfig,
    folder: Path,
    *,
    change: Callable[[Method], None] = lambda method: None,
    progress: Progress | None = None,
    stream: Stream | None = None,
) -> ScoreMatrix:
    """Run, or resume, in this process; `change` may wrap the method before it starts.

    Nothing is synced to the disk, which only a power cut could notice, and no garbage is collected when a pool closes,
    which point masses do not need: together they would take most of the time.
    """

    def make(same: RunConfig) -> Method:
        method = make_method(same)
        change(method)
        return method

    with patch("perdure.experiment.make_method", make), patch("os.fsync"), patch("gc.collect"):
        return Experiment(
            settings, Path(folder), progress or Quiet(), workers=0, stream=stream or stream_of(settings)
        ).execute()


@contextmanager
def saving_every_step() -> Iterator[None]:
    """A checkpoint after every update instead of every few seconds."""
    with patch("perdure.core.run.FIRST_SAVE", 0.0), patch("perdure.core.run.SAVE_COST_SHARE", 0):
        yield


def watch(method: Method, visit: Visit) -> None:
    """Call `visit` before every begin, update and end of the method's phases."""
    plain = method.phases

    def watched(task: int, phase: Phase) -> Phase:
        def begin() -> None:
            visit(task, phase.name, "begin")
            if phase.begin is not None:
                phase.begin()

        def update(step: Step) -> Any:
            visit(task, phase.name, step.index)
            return phase.update(step)

        def end() -> None:
            visit(task, phase.name, "end")
            if phase.end is not None:
                phase.end()

        return replace(phase, begin=begin, update=update, end=end)

    method.phases = lambda task, access: [watched(task.index, phase) for phase in plain(task, access)]


class Lab:
    """A method on a stream without folder and evaluation: the order of the driver's calls and nothing else."""

    def __init__(self, settings: RunConfig, needs: frozenset[Need] | None = None):
        self.stream = stream_of(settings)
        self.method = make_method(settings)
        self.needs = grant(type(self.method), self.method.config, self.stream) if needs is None else needs
        self.views = Views(self.stream)

    def access(self, task: int) -> Access:
        return Access(self.views, task, self.needs)

    def phases(self, task: int) -> list[Phase]:
        return self.method.phases(self.stream.tasks[task], self.access(task))

    def learn(self, *tasks: int) -> Lab:
        """Learn these tasks; without any, all that the method's schedule asks for."""
        joint = self.method.schedule == "joint"
        for task in tasks or ([len(self.stream) - 1] if joint else range(len(self.stream))):
            for phase in self.phases(task):
                if phase.when():
                    self.play(task, phase)
            self.method.forget_optimizers()
        return self

    def play(self, task: int, phase: Phase) -> None:
        """One phase from begin to end."""
        seed = self.method.seed
        seed_everything(seed, task, phase.name, "begin")
        if phase.begin is not None:
            phase.begin()
        for index in range(phase.steps if isinstance(phase.steps, int) else phase.steps()):
            seed_everything(seed, task, phase.name, index)
            phase.update(Step(seed, task, phase.name, index))
        if phase.end is not None:
            seed_everything(seed, task, phase.name, "end")
            phase.end()

    def loss(self, task: int) -> float:
        """Mean negative log-likelihood on fixed windows of the task's data, as the method would act on it."""
        policy, weights = self.method.model(task)
        batch = self.views.views[task].windows(policy.context, 64, Step(99, task, "probe", 0))
        with torch.no_grad():
            return float(policy.eval().loss(batch, weights).mean())

    def actions(self, task: int) -> torch.Tensor:
        """Actions of a few steps on fixed observations of the task's data."""
        return actions_of(self.method.eval().actor(task), self.views.views[task].sampler.obs)


def actions_of(actor: Actor, obs: torch.Tensor, n: int = 3, steps: int = 6) -> torch.Tensor:
    """(steps, n, ...) actions of n rows fed with the first observations given."""
    carry, taken = actor.start(n), []
    for t in range(steps):
        action, carry = actor.act(
            obs[t * n : (t + 1) * n], carry, torch.Generator().manual_seed(t), torch.full((n,), -0.1 * t)
        )
        taken.append(action)
    return torch.stack(taken)


def tensor_bytes(value: torch.Tensor) -> bytes:
    return f"{value.dtype} {list(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes()


def state_digest(method: Method) -> str:
    """Of all that a checkpoint would hold, and of the mode."""
    meta, tensors = capture(method)
    state = hashlib.sha256(json.dumps(meta, sort_keys=True).encode() + str(method.training).encode())
    for group in ("agent", "resume"):
        for name in sorted(tensors[group]):
            state.update(name.encode() + tensor_bytes(tensors[group][name]))
    return state.hexdigest()


def weights_digest(method: Method) -> str:
    """Of the tensors of the published agent."""
    tensors = capture(method)[1]["agent"]
    return hashlib.sha256(
        b"".join(name.encode() + tensor_bytes(tensors[name]) for name in sorted(tensors))
    ).hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """Of everything that a finished run must reproduce bit for bit."""
    paths = [folder / "scores.json", folder / "metrics.jsonl", *sorted(folder.glob("agent/*/tensors.safetensors"))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def begin(lab, task, until):
    """Play the phases of a task before `until`, and give that one, begun."""
    for phase in lab.phases(task):
        if phase.name == until:
            seed_everything(0, task, phase.name, "begin")
            if phase.begin is not None:
                phase.begin()
            return phase
        if phase.when():
            lab.play(task, phase)
    raise AssertionError(until)


def global_random_state() -> tuple[bytes, bytes]:
    """Of torch's and numpy's global generators."""
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()
