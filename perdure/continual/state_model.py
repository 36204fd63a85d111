"""StateModel: a generator of the observations of every task that was learned, for replay without stored data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter

from perdure.continual.episode_scales import EpisodeScales
from perdure.continual.episode_times import EpisodeTimes
from perdure.core.batch import Windows, average, places
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.core.policy import Stats, Weights
from perdure.core.spec import Box, Spec
from perdure.nets.moving_average import MovingAverage
from perdure.nets.state_nets import StateNet, Taught

TOLD = 16
"""Size of the vector that tells the generator a task."""

FARTHEST = 30.0
"""Deviations from the mean of an observation; logged ones of the built-in streams are at 25 at most."""

MARGIN = 0.05
"""Of the range of the data, by which generated observations may leave it."""


class StateModel(nn.Module):
    """Scales observations, tells the network the task, and draws with the average of its weights."""

    def __init__(self, make: Callable[[int], StateNet | None], scale: Literal["task", "first", "range"],
                 averaging: float, timed: bool = False):
        """Args:
        make: from the size of an observation to the network; None where only scales are wanted.
        scale: `task`: every task's own mean and deviation; `first`: those of the first task for all; `range`: every task's own
            range becomes [-1, 1].
        averaging: share of the new weights in each update of the average; 0: the weights themselves draw.
        timed: whether the network is told `WAVES` numbers of when in an episode an observation is; with scale `task` the mean
            and the deviation are then those at that time.
        """
        super().__init__()
        self.times = EpisodeTimes() if timed else None
        self.moments = EpisodeScales() if timed and scale == "task" else None
        self.make, self.scale, self.averaging = make, scale, averaging
        self.net: StateNet | None = None
        self.told = nn.ParameterDict()
        self.averages = MovingAverage(averaging, warm_up=True)
        self.size = 0

    def add_task(self, task: int, stats: Stats, obs: Tensor, steps: Tensor) -> None:
        """Open a task with its observations (N, O), of which only statistics are kept, and the steps (N,) of their episodes."""
        low, high = obs.amin(0), obs.amax(0)
        self._open(task, len(low))
        self.averages.restart()
        if self.times is not None:
            self.times.add(task, steps)
        if self.moments is not None:
            self.moments.add(task, obs, steps, stats.mean.to(obs.device), stats.std.to(obs.device))
        elif self._whose(task) == task:
            centre, width = ((low + high) / 2, (high - low) / 2) if self.scale == "range" else (stats.mean, stats.std)
            self.get_buffer(f"centre_{task}").copy_(centre)
            self.get_buffer(f"width_{task}").copy_(torch.where(width > 1e-6, width, torch.ones_like(width)))
        self.get_buffer(f"low_{task}").copy_(low - MARGIN * (high - low))
        self.get_buffer(f"high_{task}").copy_(high + MARGIN * (high - low))

    def _open(self, task: int, size: int) -> None:
        if not self.told:
            self.net, self.size = self.make(size), size
        if self.moments is not None:
            self.moments.open(task, size)
        elif self.scale != "first" or not self.told:
            self.register_buffer(f"centre_{task}", torch.zeros(size))
            self.register_buffer(f"width_{task}", torch.ones(size))
        self.register_buffer(f"low_{task}", torch.zeros(size))
        self.register_buffer(f"high_{task}", torch.zeros(size))
        self.told[f"task-{task}"] = Parameter(torch.randn(TOLD))
        if self.times is not None:
            self.times.open(task)

    def tasks(self) -> list[int]:
        return [int(name.removeprefix("task-")) for name in self.told]

    def _whose(self, task: int) -> int:
        """The task whose scale a task is on."""
        return int(next(iter(self.told)).removeprefix("task-")) if self.scale == "first" else task

    def _scale_of(self, task: int) -> tuple[Tensor, Tensor]:
        own = self._whose(task)
        return self.get_buffer(f"centre_{own}"), self.get_buffer(f"width_{own}")

    def _scales(self, task: Tensor, tasks: tuple[int, ...], steps: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, O) centres and (B, O) widths."""
        if self.moments is not None:
            assert steps is not None
            return self.moments.at(steps, task, tasks)
        centre, width = (torch.stack(values) for values in zip(*map(self._scale_of, tasks), strict=True))
        place = places(task, tasks)
        return centre[place], width[place]

    def scaled(self, obs: Tensor, task: Tensor, tasks: tuple[int, ...], steps: Tensor | None = None) -> Tensor:
        """(B, O) raw observations on the scale of each one's task, or of its step (B,) of an episode where these are told.

        At most `FARTHEST`: what was not drawn at that moment of that task may lie hundreds of deviations away.
        """
        centre, width = self._scales(task, tasks, steps)
        return ((obs - centre) / width).clamp(-FARTHEST, FARTHEST)

    def unscaled(self, x: Tensor, task: int, steps: Tensor | None = None) -> Tensor:
        """(n, O) raw observations, within the range of the task's data."""
        centre, width = self._scales(torch.full((len(x),), task, device=x.device), (task,), steps)
        return (x * width + centre).clamp(self.get_buffer(f"low_{task}"), self.get_buffer(f"high_{task}"))

    # -- learning -------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Any]]:
        """Part of the network -> how its optimizer differs."""
        assert self.net is not None
        return self.net.recipes

    def trained(self, part: str) -> dict[str, Parameter]:
        """Parameters that a part's loss trains, by name; what the tasks are told belongs to the generator."""
        assert self.net is not None
        told = {f"told.{name}": p for name, p in self.told.items()} if part == "generator" else {}
        return {f"net.{name}": p for name, p in self.net.parameters_of(part).items()} | told

    def due(self, part: str, update: int) -> bool:
        """Whether the part is trained in this update."""
        assert self.net is not None
        return self.net.due(part, update)

    def loss(self, batch: Windows, part: str, more: Tensor | None = None, teacher: Weights | None = None) -> Tensor:
        """(B,) of windows of one step.

        Args:
            batch: where `extra["taught"]` is true, what is learned is what the teacher says of it.
            part: of the network.
            more: (B, ...) told beside the task.
            teacher: what `weights` once gave.
        """
        assert self.net is not None
        obs, steps, task, tasks = batch.obs[:, 0], batch.timestep[:, 0], batch.task, batch.tasks
        beside, taught = self._beside(steps, task, tasks, more), None
        if teacher is not None and "taught" in batch.extra:
            before = {name.removeprefix("net."): value for name, value in teacher.items() if name.startswith("net.")}
            taught = Taught(batch.extra["taught"], before, torch.cat([self._told(task, tasks, teacher), *beside], 1))
        told = torch.cat([self._told(task, tasks, {}), *beside], 1)
        return self.net.loss(part, self.scaled(obs, task, tasks, steps), told, taught)

    def _told(self, task: Tensor, tasks: tuple[int, ...], weights: Weights) -> Tensor:
        """(B, TOLD)."""
        return torch.stack([weights.get(f"told.task-{k}", self.told[f"task-{k}"]) for k in tasks])[places(task, tasks)]

    def weights(self) -> dict[str, Tensor]:
        """Those that draw."""
        own = {name: p for name, p in self.named_parameters() if name.startswith(("net.", "told."))}
        return {**own, **self.averages.view()}

    def _beside(self, steps: Tensor | None, task: Tensor, tasks: tuple[int, ...], more: Tensor | None) -> list[Tensor]:
        """What the network is told beside the task."""
        told = [] if self.times is None or steps is None else [self.times.waves(steps, task, tasks)]
        return told if more is None else [*told, more]

    def learn(self, descend: Callable[[str, Tensor], Tensor], batches: Windows | Sequence[Windows], step: Step,
              **arguments: Any) -> dict[str, Tensor]:
        """One update on windows of one step, with what `loss` takes: every part that is due, then the average. `descend` updates
        the optimizer "states <part>" with a loss."""
        values = {part: descend(f"states {part}", average(self.loss, batches, part=part, **arguments))
                  for part in self.parts() if self.due(part, step.index)}
        self.follow()
        return values

    def follow(self) -> None:
        """After an update: move the average."""
        if self.averaging:
            self.averages.follow({name: p for name, p in self.named_parameters() if name.startswith(("net.", "told."))})

    # -- drawing --------------------------------------------------------------------------------------------

    def steps(self, task: int, n: int, g: Generator) -> Tensor:
        """(n,) int64, steps of episodes as the task's observations are at; 0 where the network is not told them."""
        return self.times.draw(task, n, g) if self.times is not None else torch.zeros(n, dtype=torch.int64, device=g.device)

    @torch.no_grad()
    def draw(self, task: int, n: int, g: Generator | None, more: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        """(n, O) raw observations of a task, within the range of its data; `more` (n, ...) is told beside the task, `steps` (n,)
        where the network is told them."""
        assert self.net is not None
        weights, index = self.averages.view(), torch.full((n,), task, device=self.get_buffer(f"low_{task}").device)
        told = self._told(index, (task,), weights)
        beside = self._beside(steps, index, (task,), more)
        own = {name.removeprefix("net."): value for name, value in weights.items() if name.startswith("net.")}
        drawn = functional_call(_Drawing(self.net), {f"net.{name}": value for name, value in own.items()},
                                (torch.cat([told, *beside], 1), g))
        return self.unscaled(drawn, task, steps)

    # -- saving ---------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        return {"tasks": self.tasks(), "size": self.size, **self.averages.architecture()}

    def rebuild(self, architecture: Mapping[str, Any]) -> None:
        for task in architecture["tasks"]:
            self._open(int(task), int(architecture["size"]))
        self.averages.rebuild(architecture)


class _Drawing(nn.Module):
    """`StateNet.draw` as a forward pass, so that other weights can stand in."""

    def __init__(self, net: StateNet):
        super().__init__()
        self.net = net

    def forward(self, told: Tensor, g: Generator | None) -> Tensor:
        return self.net.draw(told, g)


def require_equal_vectors(method: str, specs: Mapping[str, Spec]) -> None:
    """Refuse streams that one generator of vectors cannot dream of.

    Raises:
        UsageError: the tasks differ in their spaces, observations are images, or actions are discrete.
    """
    first, *others = specs
    for other in others:
        if specs[other].key != specs[first].key:
            raise UsageError(f"{method} dreams with one generator for all tasks, but {first} has {specs[first].key} and {other}"
                             f" has {specs[other].key}; choose a stream of equal spaces: nothing aligns others yet")
    if not isinstance(specs[first].action, Box) or specs[first].obs.dtype == "uint8":
        raise UsageError(f"{method} dreams of vectors and continuous actions, and {first} has {specs[first].key}; choose another"
                         " stream or method")
