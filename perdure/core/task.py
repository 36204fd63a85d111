"""Task, Stream and Protocol: what is learned, in which order, and what may be known at test time.

Imports no torch: environment worker processes and `perdure streams` read this module too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Interface

import numpy as np

from perdure.core.environment import EnvFactory
from perdure.core.errors import UsageError
from perdure.core.spec import Spec


class Data(Interface):
    """What a task needs of its dataset; `perdure.data.store.Dataset` is one."""

    card: dict[str, Any]
    digest: str
    spec: Spec
    lengths: np.ndarray
    returns: np.ndarray

    def array(self, name: str) -> np.ndarray: ...

    def episodes(self, split: Literal["train", "holdout", "all"]) -> np.ndarray: ...


@dataclass(frozen=True)
class Goals:
    """Frozen, disjoint lists of environment goals (or None entries, where an environment has only seeds)."""

    final: tuple[Any, ...] = ()
    """For the score matrix; cells with fewer episodes use the first of these."""
    curve: tuple[Any, ...] = ()
    """For the learning curve within a task; never enter the matrix."""
    probe: tuple[Any, ...] = ()
    """The only goals that a method's own rollouts may use."""


@dataclass(frozen=True)
class ScoreScale:
    """How a raw episode becomes the reported score."""

    kind: Literal["success", "return", "action_error", "mixed"] = "success"
    """`action_error`: of a task with data only, 1 - error / error of always predicting the training mean; `mixed`: of a
    stream whose tasks are scored in different ways."""
    low: float = 0.0
    """Raw return reported as 0 (kind `return`)."""
    high: float = 1.0
    """Raw return reported as 1."""
    source: str = "latched success"
    """Where the scale comes from."""

    def score(self, success: bool | None, raw_return: float | None) -> float:
        """Score of one episode: success as 0 or 1, or the return on the scale from low to high."""
        if self.kind == "success":
            return float(bool(success))
        return (float(raw_return or 0.0) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Task:
    """One dataset with, where there is one, the environment to score it in."""

    index: int
    name: str
    spec: Spec
    data: Data
    env: EnvFactory | None = None
    """None: the task has data only and is scored by held-out action error."""
    goals: Goals = field(default_factory=Goals)
    score: ScoreScale = field(default_factory=ScoreScale)
    text: str = ""
    """What the task is, in words."""
    vector: tuple[float, ...] | None = None
    """The same as numbers, where an encoder of the user's own read it."""
    to_horizon: bool = False
    """Evaluation episodes go on after their success, so that their raw returns can be compared; otherwise they end with it."""

    @property
    def stops_at_success(self) -> bool:
        """Whether an evaluation episode ends at its first success."""
        return self.score.kind == "success" and not self.to_horizon


@dataclass(frozen=True)
class TaskOutline:
    """What is known of a stream's task before its data are opened."""

    name: str
    quality: str
    folder: Path | None
    """Where its dataset lies, or will lie once it is collected; None: it is made in memory."""
    env: EnvFactory | None = None
    """Its simulator, where collecting the data needs it."""
    goal: Any = None
    """Any goal that this simulator knows."""
    steps: int = 0
    """Environment steps that collecting the data takes."""
    episodes: int = 0
    """Episodes that collecting the data makes."""
    source: Any = None
    """The `perdure.data.roll.TaskSource` that makes the data, where a scripted expert does."""

    @property
    def present(self) -> bool:
        """Whether the data can be used at once."""
        return self.folder is None or (self.folder / "card.json").exists()


def in_python(stream: str, options: Any) -> bool:
    """Whether the stream of a run's config was a Stream object: it counts by its content, as a user's TOML file does."""
    return isinstance(options, dict) and "content" in options and not stream.endswith(".toml")


@dataclass(frozen=True)
class Protocol:
    """What a method may know; printed in every table."""

    task_id_at_test: bool = True
    """Per-task heads and normalisers are a use of the task id."""
    past_data_allowed: bool = True
    """Whether joint references may read the data of earlier tasks."""
    rollouts_allowed: bool = False
    """Whether a method may roll out on probe goals while it learns; environment steps are counted."""
    task_count_known: bool = True
    """Whether a method may know how many tasks will come."""


@dataclass(frozen=True)
class Stream:
    """An ordered, named, versioned sequence of tasks."""

    name: str
    tasks: tuple[Task, ...]
    protocol: Protocol = field(default_factory=Protocol)
    version: int = 1
    citation: str = ""
    variant: str = ""
    """What sets it apart from other streams of its name, such as "order 1"; results of two variants are never averaged."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError(f"stream {self.name} has no tasks; give at least one")
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"stream {self.name} names the task '{name}' twice; give each task a name of its own")
        for place, task in enumerate(self.tasks):
            if task.index != place:
                raise UsageError(f"task {task.name} has index {task.index}; at this place of the stream it is {place}")
            if difference := task.spec.difference(task.data.spec):
                raise UsageError(f"task {task.name}: spaces of task and dataset differ ({difference}); correct either one")

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def title(self) -> str:
        """Name and variant: what results call it."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    def score_scale(self) -> ScoreScale:
        """What a mean over the tasks' scores means: the scale they share, or in words what each has."""
        scales = {task.score: task.name for task in self.tasks}
        if len(scales) == 1:
            return self.tasks[0].score
        kinds = {scale.kind for scale in scales}
        if len({(score.kind, score.source) for score in (task.score for task in self.tasks)}) == 1:
            words = f"{self.tasks[0].score.source}, a scale per task"
        else:
            words = "; ".join(f"{task.name}: {task.score.kind} ({task.score.source})" for task in self.tasks)
        return ScoreScale(kinds.pop() if len(kinds) == 1 else "mixed", 0.0, 1.0, words)

    def to_json(self) -> dict[str, Any]:
        """Facts about the stream for listings and run folders (no data)."""
        return {
            "name": self.title,
            "version": self.version,
            "protocol": asdict(self.protocol),
            "citation": self.citation,
            "tasks": [
                {"name": t.name, "text": t.text, "digest": t.data.digest, "quality": t.data.card.get("quality", ""),
                 "episodes": len(t.data.lengths), "simulator": t.env is not None,
                 **({"vector": list(t.vector)} if t.vector else {})}
                for t in self.tasks
            ],
        }
