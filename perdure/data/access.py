"""Access: what a method may see of its stream, by what it declared. Anything else raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from perdure.core.batch import Transitions, Windows
from perdure.core.errors import UsageError
from perdure.core.matrix import Episode
from perdure.core.method import Method, Need, Step
from perdure.core.policy import Stats
from perdure.core.rng import generator
from perdure.core.task import Stream, Task
from perdure.data.memory import ReplayMemory, stored_fields
from perdure.data.reservoir import Reservoir
from perdure.data.sampler import Draw, Sampler, Split
from perdure.data.stats import statistics
from perdure.data.union import UnionView


class DataView:
    """One task's data, drawn with the randomness of a step."""

    def __init__(self, task: Task, device: str | torch.device = "cpu", draw: Draw = "steps"):
        self.task = task
        self.device = device
        self.draw = draw
        self._sampler: Sampler | None = None
        self._stats: Stats | None = None

    @property
    def sampler(self) -> Sampler:
        """Flat arrays on the training device, made on first use."""
        if self._sampler is None:
            self._sampler = Sampler(self.task.data, self.task.index, self.device)
        return self._sampler

    def _generator(self, purpose: str, step: Step) -> Generator:
        return step.generator(f"{purpose}-{self.task.index}", self.device)

    def windows(self, length: int, n: int, step: Step, split: Split = "train", purpose: str = "windows") -> Windows:
        """n windows of `length` steps. Two draws in one step are the same draw unless they differ in `purpose`."""
        return self.sampler.windows(length, n, self._generator(purpose, step), split, self.draw)

    def draw_steps(self, n: int, step: Step, split: Split = "train", purpose: str = "windows") -> Tensor:
        """(n,) flat steps at which the windows that `windows` draws begin."""
        return self.sampler.draw_steps(n, self._generator(purpose, step), split, self.draw)

    def transitions(self, n: int, step: Step, split: Split = "train", purpose: str = "transitions") -> Transitions:
        """n transitions. Two draws in one step are the same draw unless they differ in `purpose`."""
        return self.sampler.transitions(n, self._generator(purpose, step), split, self.draw)

    def stats(self) -> Stats:
        """Normaliser, return scale and target of the training split."""
        if self._stats is None:
            self._stats = statistics(self.task.data)
        return self._stats


class Views:
    """All tasks' views, made once per run, so that a dataset is put on the device at most once."""

    def __init__(self, stream: Stream, device: str | torch.device = "cpu", draw: Draw = "steps"):
        self.stream = stream
        self.views = [DataView(task, device, draw) for task in stream.tasks]
        self._union: UnionView | None = None

    def union(self, count: int) -> UnionView:
        """The data of the first `count` tasks as one; the last one asked for is kept."""
        if self._union is None or self._union.count != count:
            self._union = None  # its arrays are freed before the next ones are made
            self._union = UnionView([view.sampler for view in self.views[:count]], self.views[0].draw)
        return self._union


@dataclass
class Access:
    """Hands over the current task's data, and what was declared."""

    views: Views
    index: int
    needs: frozenset[Need]
    roll: Callable[[Method, int], list[Episode]] | None = None
    """Rolls a method out on the probe goals of a task."""
    environment_steps: int = field(default=0)
    """Taken in such rollouts, and not yet counted by the driver."""

    @property
    def current(self) -> DataView:
        """The task being learned."""
        return self.views.views[self.index]

    def _require(self, need: Need) -> None:
        if need not in self.needs:
            raise UsageError(f"the method asked for {need.value} but does not declare Need.{need.name};"
                             " add it to the method's needs()")

    def past(self) -> list[DataView]:
        """The data of all earlier tasks (PAST_DATA)."""
        self._require(Need.PAST_DATA)
        return self.views.views[: self.index]

    def union(self) -> UnionView:
        """The data of all earlier tasks and the current one, drawn from as one dataset (PAST_DATA)."""
        self._require(Need.PAST_DATA)
        return self.views.union(self.index + 1)

    def task_count(self) -> int:
        """Number of tasks in the stream (TASK_COUNT)."""
        self._require(Need.TASK_COUNT)
        return len(self.views.stream)

    def text(self) -> str:
        """The task in words (TEXT)."""
        self._require(Need.TEXT)
        return self.views.stream.tasks[self.index].text

    def vector(self) -> tuple[float, ...] | None:
        """The description as numbers, where the stream gives them (TEXT)."""
        self._require(Need.TEXT)
        return self.views.stream.tasks[self.index].vector

    def rollout(self, method: Method) -> list[Episode]:
        """Episodes of the method on the current task's probe goals, which no score is measured on (ROLLOUTS)."""
        self._require(Need.ROLLOUTS)
        assert self.roll is not None, "whoever grants rollouts gives the means"
        episodes = self.roll(method, self.index)
        self.environment_steps += sum(episode.length for episode in episodes)
        return episodes

    def remember(self, memory: ReplayMemory, length: int, *, share: float, seed: int, budget: int | None = None,
                 with_more: Callable[[Windows], Windows] = lambda windows: windows) -> None:
        """Store random windows of the current task: `share` of its training transitions, or within `budget` bytes
        for all tasks together (MEMORY). `with_more` adds what a method keeps with them."""
        self._require(Need.MEMORY)
        sampler = self.current.sampler
        g = generator(seed, "remember", self.index, device=sampler.device)
        steps = sampler.starts["train"].step
        order = torch.randperm(len(steps), generator=g, device=sampler.device)
        if budget is None:
            count = max(1, round(share * len(steps) / length))
        else:  # not more than its share of the budget can hold; `shrink` decides
            one = with_more(sampler.windows_at(steps[order[:1]], length))
            window = sum(value.nbytes for value in stored_fields(one).values())
            count = max(1, budget // (len(memory.tasks()) + 1) // window)
        memory.add(self.index, with_more(sampler.windows_at(steps[order[:count]], length)))
        if budget is not None:
            memory.shrink(budget)

    def keep(self, memory: ReplayMemory, windows: Windows) -> None:
        """Store these windows of the current task (MEMORY)."""
        self._require(Need.MEMORY)
        memory.add(self.index, windows)

    def observations(self, n: int, step: Step) -> Tensor:
        """(n, *O) random raw observations of the current task, to be kept (MEMORY)."""
        self._require(Need.MEMORY)
        return self.current.transitions(n, step, purpose="observations").obs.clone()

    def offer(self, reservoir: Reservoir, windows: Windows, step: Step, *, share: float, budget: int | None = None) -> None:
        """Let a batch of the current task compete for a place in a reservoir (MEMORY), which has room for `share` of the
        training transitions of every task so far, or within `budget` bytes."""
        self._require(Need.MEMORY)
        if self.index not in reservoir.tasks():
            more = max(1, round(share * self.current.sampler.count() / windows.timestep.shape[1]))
            reservoir.open(self.index, windows, more=more, budget=budget)
        reservoir.offer(windows, step.generator("reservoir"))


def grant(method: type[Method], config: object, stream: Stream) -> frozenset[Need]:
    """The method's needs, after checking them against the stream's protocol.

    Raises:
        UsageError: the stream forbids one of them; both are named.
    """
    method.check_spaces({task.name: task.spec for task in stream.tasks})
    needs = method.needs(config)
    protocol = stream.protocol
    forbidden = {
        Need.TASK_ID: not protocol.task_id_at_test,
        Need.PAST_DATA: not protocol.past_data_allowed,
        Need.ROLLOUTS: not protocol.rollouts_allowed,
        Need.TASK_COUNT: not protocol.task_count_known,
    }
    for need in sorted(needs, key=lambda n: n.name):
        if forbidden.get(need, False):
            where = "a stream whose protocol allows it"
            how = "--stream.rollouts true on a Meta-World stream" if need is Need.ROLLOUTS else where
            raise UsageError(f"{method.__name__} needs {need.value} (Need.{need.name}), which the stream {stream.name} forbids;"
                             f" choose another method or option, or {how}")
        if need is Need.TEXT:
            _check_texts(method, stream)
        if need is Need.ROLLOUTS:
            _check_probes(method, stream)
    return needs


def _check_texts(method: type[Method], stream: Stream) -> None:
    """Every task has words, or every task has a finite vector, all of one size."""
    sizes = {len(task.vector) if task.vector else 0 for task in stream.tasks}
    if sizes == {0} and not all(task.text for task in stream.tasks):
        raise UsageError(f"{method.__name__} needs {Need.TEXT.value}, which the stream {stream.name} lacks; add `text`, or"
                         " `vector`, to its tasks")
    if len(sizes) > 1:
        raise UsageError(f"the tasks of {stream.name} have vectors of {', '.join(map(str, sorted(sizes)))} numbers; give every"
                         " task one of the same size, or none")
    for task in stream.tasks:
        if task.vector and not all(math.isfinite(x) for x in task.vector):
            raise UsageError(f"the vector of task {task.name} has a number that is not finite; correct it")


def _check_probes(method: type[Method], stream: Stream) -> None:
    for task in stream.tasks:
        if task.env is None or not task.goals.probe:
            lacks = "environment" if task.env is None else "probe goals"
            raise UsageError(f"{method.__name__} needs {Need.ROLLOUTS.value}, and task {task.name} has no {lacks}; choose an"
                             " option or a method that learns from data alone")
