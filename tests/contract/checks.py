"""The checks that every method must pass, as functions of a config, so that they also hold a method of your own to the contract.

`settings` is a RunConfig (`tiny.config("my_module:MyMethod", "bc")`), `Record` an uninterrupted run of it.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    Lab,
    actions_of,
    config,
    execute,
    folder_digests,
    global_random_state,
    saving_every_step,
    state_digest,
    stream_of,
    watch,
    weights_digest,
)

from perdure.core.checkpoint import read_folder
from perdure.core.errors import UsageError
from perdure.core.method import Method, Need, Phase, Step
from perdure.core.spec import Discrete, Spec
from perdure.experiment import build_method
from perdure.progress import Quiet
from perdure.run_config import RunConfig

ASKED_FOR = frozenset({Need.MEMORY, Need.PAST_DATA, Need.TASK_COUNT, Need.TEXT})
"""Needs that are met by a call of Access, which can therefore be refused there."""

RESUMES = Path(__file__).parent / "resume_child.py"


# -- an uninterrupted run, copied as a kill would leave it -----------------------------------------------------


@dataclass
class Record:
    """A finished run and copies of its folder at the moments named in `snapshots`."""

    settings: RunConfig
    folder: Path
    snapshots: dict[str, Path] = field(default_factory=dict)
    actions: dict[int, torch.Tensor] = field(default_factory=dict)
    """Task -> actions of the method as it was in memory at the end."""
    weights: str = ""


def updates_of(settings: RunConfig) -> dict[tuple[int, str], int]:
    """(task, phase) -> its updates, in the order of the run."""
    lab, places = Lab(settings), []
    watch(lab.method, lambda *place: places.append(place))
    lab.learn()
    phases = dict.fromkeys((task, phase) for task, phase, place in places if isinstance(place, int))
    return {at: sum(place[:2] == at and isinstance(place[2], int) for place in places) for at in phases}


def moments(settings: RunConfig) -> dict[tuple[int, str, int | str], str]:
    """Where the run is to be cut: (task, phase, place) -> name of the moment."""
    updates = updates_of(settings)
    phases = list(updates)
    first, middle, last = phases[0], phases[len(phases) // 2], phases[-1]
    chosen: dict[tuple[int, str, int | str], str] = {
        (*middle, updates[middle] // 2): "middle phase",
        (*middle, 0): "between begin and the first update",
        (*first, updates[first] // 2): "first phase",
        (*last, updates[last] - 1): "last phase",
    }
    if settings.policy == "sfbc":  # which learns in many phases: one cut more in each that has none yet
        cut, latest = {phase for _, phase, _ in chosen}, {phase: (task, phase) for task, phase in phases}
        chosen |= {(*at, updates[at] // 2): f"phase {phase}" for phase, at in latest.items() if phase not in cut}
        chosen |= {(*last, "end"): "before end"}
    return chosen | ({(*middle, "begin"): "before begin", (*last, "end"): "before end"} if thorough(settings) else {})


def thorough(settings: RunConfig) -> bool:
    """Sequence policies cost five times as much, and the moments that are left out do not depend on the policy."""
    return settings.policy == "bc"


class _Snapshots(Quiet):
    """Copies the run folder at every moment asked for; each copy is what a kill at that moment leaves behind."""

    def __init__(self, record: Record, wanted: dict[tuple[int, str, int | str], str]):
        self.record, self.wanted = record, wanted

    def visit(self, task: int, phase: str, place: int | str) -> None:
        if name := self.wanted.get((task, phase, place)):
            self.take(name)

    def evaluating(self, learned: int, task: int) -> None:
        settings = self.record.settings
        if thorough(settings) and learned == len(stream_of(settings)) and task == 1:
            self.take("evaluation")

    def take(self, name: str) -> None:
        target = self.record.folder.with_name(f"{self.record.folder.name} killed in {name}")
        shutil.copytree(self.record.folder, target)
        self.record.snapshots[name] = target


def record(settings: RunConfig, folder: Path) -> Record:
    """Run to the end with a checkpoint after every update."""
    made = Record(settings, folder)
    snapshots = _Snapshots(made, moments(settings))
    method: list[Method] = []

    def change(new: Method) -> None:
        method.append(new)
        watch(new, snapshots.visit)

    with saving_every_step():
        execute(settings, folder, change=change, progress=snapshots)
    for task in stream_of(settings).tasks:
        made.actions[task.index] = actions_of(method[0].eval().actor(task.index), observations(task))
    made.weights = weights_digest(method[0])
    return made


def resume_all(folders: list[Path], work: Path) -> dict[str, dict[str, str]]:
    """Resume every folder in one new process: folder -> digests of what it made."""
    order = work / "folders.json"
    order.write_text(json.dumps([str(folder) for folder in folders]))
    paths = {
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, str(RESUMES), str(order)], env=paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def observations(task: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(task.data.array("observations")))


# -- the checks -----------------------------------------------------------------------------------------------


def resumes_exactly(made: Record, resumed: dict[str, dict[str, str]]) -> None:
    """Cut at every moment and resumed in a new process: the same scores, logs and agents, bit for bit."""
    wanted = folder_digests(made.folder)
    assert len(made.snapshots) >= 3
    for moment, folder in made.snapshots.items():
        assert resumed[str(folder)] == wanted, f"resumed after a kill in: {moment}"


def repeats_exactly(made: Record, folder: Path) -> None:
    """A second run with the same seed writes the same bytes, with or without checkpoints; another seed does not."""
    execute(made.settings, folder)
    assert folder_digests(folder) == folder_digests(made.folder)
    assert weights_digest(Lab(replace(made.settings, seed=made.settings.seed + 1)).learn().method) != made.weights


def loss_falls(method: str, policy: str) -> None:
    """After a task is learned its loss is clearly lower than when it was opened."""
    lab = Lab(config(method, policy, tasks=2, steps=40, batch=32, learning_rate=0.01))
    before = {}
    for task in lab.stream.tasks:
        fresh = Lab(config(method, policy, tasks=2))
        fresh.method.open_task(task, fresh.access(task.index))
        before[task.index] = fresh.loss(task.index)
    if lab.method.schedule == "joint":
        lab.learn()
    for task in before:
        if lab.method.schedule == "sequential":
            lab.learn(task)
        assert lab.loss(task) < 0.7 * before[task], f"task {task}"


def fits(actions: torch.Tensor, spec: Spec) -> None:
    """Shape, type and range of (steps, n, ...) actions in environment units."""
    if isinstance(spec.action, Discrete):
        assert actions.dtype == torch.int64
        assert actions.dim() == 2
        assert int(actions.min()) >= 0
        assert int(actions.max()) < spec.action.n
        return
    assert actions.dtype == torch.float32
    assert actions.shape[2:] == spec.action.shape
    assert (actions >= torch.tensor(spec.action.low)).all()
    assert (actions <= torch.tensor(spec.action.high)).all()


def learns_and_acts(settings: RunConfig) -> None:
    """On every task: actions fit the space, and acting leaves weights, mode, global randomness and itself unchanged."""
    lab = Lab(settings).learn()
    lab.method.eval()
    state, randomness = state_digest(lab.method), global_random_state()
    for task in lab.stream.tasks:
        actor, obs = lab.method.actor(task.index), observations(task)
        once = actions_of(actor, obs)
        fits(once, task.spec)
        assert torch.equal(actions_of(actor, obs), once), "an actor must keep nothing between two episodes"
    assert state_digest(lab.method) == state
    assert global_random_state() == randomness


def phases_change_nothing(settings: RunConfig) -> None:
    """`phases` called twice, before a task, within it and after it, leaves the state as it was."""
    lab = Lab(settings)
    joint = lab.method.schedule == "joint"
    task = len(lab.stream) - 1 if joint else 1
    if not joint:
        lab.learn(0)

    def twice(*_: object) -> None:
        state, randomness = state_digest(lab.method), global_random_state()
        assert [p.name for p in lab.phases(task)] == [p.name for p in lab.phases(task)]
        assert (state_digest(lab.method), global_random_state()) == (state, randomness)

    twice()
    for phase in lab.phases(task):
        if phase.when():
            lab.play(task, phase)
        twice()


def other_phases_change_nothing(settings: RunConfig, weights: str) -> None:
    """Phases that draw random numbers and batches, but leave the weights, change nothing; nor does no evaluation at all."""
    lab = Lab(settings)
    plain = lab.method.phases

    def extra(name: str, access: Any) -> Phase:
        def draw(step: Step) -> dict[str, torch.Tensor]:
            access.current.windows(2, 4, step)
            access.current.transitions(3, step)
            lab.method.copy()
            np.random.rand(3)
            return {
                "noise": torch.rand(3).sum() + random.random() + torch.rand(2, generator=step.generator("own")).sum()
            }

        return Phase(name, 3, draw, trains=False)

    def phases(task: Any, access: Any) -> list[Phase]:
        between = [[phase, extra(f"extra-{i}", access)] for i, phase in enumerate(plain(task, access))]
        return [extra("extra-first", access), *(phase for pair in between for phase in pair)]

    lab.method.phases = phases
    assert weights_digest(lab.learn().method) == weights


def evaluation_changes_nothing(made: Record, folder: Path) -> None:
    """More episodes and a longer curve: the same weights after every task."""
    more = {name: count + 1 for name, count in made.settings.evaluation.items()}
    execute(replace(made.settings, evaluation=more), folder)
    agents = [{k: v for k, v in folder_digests(f).items() if k.startswith("agent")} for f in (made.folder, folder)]
    assert agents[0]
    assert agents[0] == agents[1]


def undeclared_access_raises(settings: RunConfig) -> None:
    """Every declared need is used and enforced; without the others the method works."""
    declared = Lab(settings).needs
    for need in declared & ASKED_FOR:
        with pytest.raises(UsageError, match=rf"Need\.{need.name}"):
            Lab(settings, declared - {need}).learn()
    Lab(settings, declared & ASKED_FOR).learn()


def architecture_survives_json(settings: RunConfig) -> None:
    """JSON and back, rebuilt and loaded: an equal method with the same actions."""
    lab, other = Lab(settings).learn(), Lab(settings)
    other.method.rebuild(json.loads(json.dumps(lab.method.architecture(), allow_nan=False)))
    other.method.load_state_dict(lab.method.state_dict())
    assert json.dumps(other.method.architecture()) == json.dumps(lab.method.architecture())
    for task in lab.stream.tasks:
        assert torch.equal(other.actions(task.index), lab.actions(task.index))


def load_agent(folder: Path) -> Method:
    """The method of an agent folder, from that folder alone."""
    meta, tensors = read_folder(folder)
    method, _ = build_method(meta)
    missing = method.load_state_dict(tensors["tensors"], strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("resume.") for name in missing.missing_keys)
    return method.eval()


def agents_act_alone(made: Record, elsewhere: Path) -> None:
    """`agent/<i>/`, moved away from its run, acts; the last as the method did in memory."""
    assert not (made.folder / "resume").exists()
    shutil.copytree(made.folder / "agent", elsewhere)
    stream = stream_of(made.settings)
    learned = sorted(int(folder.name) for folder in elsewhere.iterdir())
    assert learned[-1] == len(stream)
    for count in learned:
        method = load_agent(elsewhere / str(count))
        for task in stream.tasks[:count]:
            actions = actions_of(method.actor(task.index), observations(task))
            fits(actions, task.spec)
            if count == len(stream):
                assert torch.equal(actions, made.actions[task.index])


def footprint_fits_files(made: Record) -> None:
    """Bytes, parameters and memory of scores.json are those of the newest agent folder."""
    footprint = json.loads((made.folder / "scores.json").read_text())["footprint"]
    newest = made.folder / "agent" / str(len(stream_of(made.settings)))
    method = load_agent(newest)
    assert footprint["agent_bytes"] == sum(path.stat().st_size for path in newest.iterdir())
    assert footprint["parameters"] == sum(p.numel() for p in method.parameters())
    assert footprint["used_parameters"] == footprint["parameters"] - method.unused_parameters() > 0
    assert footprint["copies"] == method.copies() >= 1
    assert sum(footprint["parameters_per_task"]) == footprint["parameters"]
    assert footprint["memory_bytes"] == method.memory_bytes()
    tensors = sum(value.nbytes for value in read_folder(newest)[1]["tensors"].values())
    assert 0 < footprint["agent_bytes"] - tensors < 100_000
    assert footprint["environment_steps"] == 0
