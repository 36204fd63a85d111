"""cril: a generator dreams how episodes of earlier tasks begin, and a model of their dynamics and the old policy how they go on.

Paper      Gao et al. 2021, "CRIL: Continual Robot Imitation Learning via Generative and Prediction Model" (arXiv 2106.09422)
Objective  cloning of new data and of dreamed episodes with the old policy's actions; generator of first observations: its own
           loss; predictor: squared error of the next observation; both on new data and on dreams
Keeps      the policy, the generator, the predictor, and the length of every task's longest episode
Needs      the task id at test time if heads are per task
Differs    observations are vectors, where the paper predicts images; the predictor is a perceptron that is told the task and
           predicts the change; the generator is the library's adversarial network
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from perdure.continual.dreaming import Dreaming, DreamingConfig
from perdure.continual.dreams import as_windows
from perdure.continual.state_model import TOLD
from perdure.core.batch import concatenate, places
from perdure.core.method import Step
from perdure.core.spec import Spec
from perdure.nets.state_nets import perceptron
from perdure.policies.base import TaskPolicy


class CRIL(Dreaming):
    """Generated beginnings and predicted episodes."""

    Config = DreamingConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.predictor: nn.Sequential | None = None
        self.told_predictor = nn.ParameterDict()
        self.lengths: dict[int, int] = {}
        """Task -> steps of its longest episode."""

    def opened(self, task: int, view: Any) -> None:
        self._open(task, view.task.spec.obs.size, view.task.spec.action.size, int(view.sampler.timestep.max()) + 1)
        named = {name: p for name, p in self.named_parameters() if name.startswith(("predictor.", "told_predictor."))}
        self.to(view.device)
        self.optimizer("predictor", named)

    def _open(self, task: int, obs: int, action: int, length: int) -> None:
        if self.predictor is None:
            self.predictor = perceptron(obs + action + TOLD, obs, 2 * self.config.state_width)
        self.told_predictor[f"task-{task}"] = Parameter(torch.randn(TOLD))
        self.lengths[task] = length

    # -- dreams ---------------------------------------------------------------------------------------------

    def rollouts(self, task: int) -> int:
        """Episodes that are dreamed of a task."""
        return self.dreams.sets[task][0] // self.lengths[task]

    def rows(self, task: int, asked: int) -> int:
        return max(1, asked // self.lengths[task]) * self.lengths[task]

    def parts(self) -> int:
        return sum(self.lengths[task] for task in self.dreams.tasks())

    def dream(self, step: Step) -> None:
        """One time step of all episodes of a task; row t * rollouts + i is the i-th one at time t."""
        task, t = self._place(step.index)
        n, (obs, action) = self.rollouts(task), self.dreams.of(task)
        if t == 0:
            now = self.states.draw(task, n, step.generator("dream", obs.device))
        else:
            before = slice((t - 1) * n, t * n)
            now = self.predicted(task, obs[before], action[before])
        self.dreams.put(task, t * n, obs=now, action=self.labelled(task, now))

    def _place(self, index: int) -> tuple[int, int]:
        """(task, time) of a part."""
        for task in self.dreams.tasks():
            if index < self.lengths[task]:
                return task, index
            index -= self.lengths[task]
        raise IndexError(index)

    @torch.no_grad()
    def predicted(self, task: int, obs: Tensor, action: Tensor) -> Tensor:
        """(n, O), the observations after actions (n, A) at observations (n, O), within the range of the task's data."""
        index = torch.full((len(obs),), task, device=obs.device)
        scaled = self.states.scaled(obs, index, (task,))
        return self.states.unscaled(scaled + self._change(scaled, action, index, (task,)), task)

    def _change(self, scaled: Tensor, action: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, O), what the predictor adds to observations (B, O) on the common scale."""
        assert self.predictor is not None
        told = torch.stack([self.told_predictor[f"task-{k}"] for k in tasks])
        return self.predictor(torch.cat([scaled, action, told[places(task, tasks)]], 1))

    # -- learning -------------------------------------------------------------------------------------------

    def train_generator(self, view: Any, step: Step) -> Mapping[str, Tensor]:
        values = self.states.learn(self.descend, concatenate(self._beginnings(view, step)), step)
        if not self.states.due("generator", step.index):
            return values
        obs, action, after, task, tasks = self._transitions(view, step)
        scaled, later = (self.states.scaled(x, task, tasks) for x in (obs, after))
        error = (scaled + self._change(scaled, action, task, tasks) - later).square().mean(1)
        return values | {"predictor": self.descend("predictor", error.mean())}

    def _share(self) -> int:
        """Samples of each task in a batch."""
        return max(1, self.config.batch // (len(self.dreams.tasks()) + 1))

    def _beginnings(self, view: Any, step: Step) -> list[Any]:
        """First observations of the new task and of dreamed episodes, as windows."""
        g, n, sampler = step.generator("beginnings", view.device), self._share(), view.sampler
        first = sampler.starts["train"].first
        made = [self.seen(sampler.windows_at(first[torch.randint(len(first), (n,), generator=g, device=view.device)], 1))]
        for task in self.dreams.tasks():
            rows = torch.randint(self.rollouts(task), (n,), generator=g, device=view.device)
            obs, action = (part[rows] for part in self.dreams.of(task))
            made.append(as_windows(obs, action, torch.full((n,), task, device=obs.device), (task,), self.dreams.sets[task][1]))
        return made

    def _transitions(self, view: Any, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, ...]]:
        """Observations, actions, next observations and tasks of new data and of dreamed episodes."""
        g, n = step.generator("transitions", view.device), self._share()
        new = view.transitions(n, step)
        parts = [(new.obs, new.action, new.next_obs, new.task)]
        for task in self.dreams.tasks():
            (obs, action), count = self.dreams.of(task), self.rollouts(task)
            if len(obs) > count:
                rows = torch.randint(len(obs) - count, (n,), generator=g, device=view.device)
                parts.append((obs[rows], action[rows], obs[rows + count], torch.full((n,), task, device=obs.device)))
        obs, action, after, index = (torch.cat(values) for values in zip(*parts, strict=True))
        return obs, action, after, index, (*self.dreams.tasks(), view.task.index)

    def dreamed(self, task: int, n: int, g: Generator) -> tuple[Tensor, Tensor] | None:
        """Pairs of episodes that are dreamed now, at random times."""
        obs = self.states.draw(task, n, g)
        until = torch.randint(self.lengths[task], (n,), generator=g, device=obs.device)
        for t in range(self.lengths[task] - 1):
            goes_on = until > t
            if not bool(goes_on.any()):
                break
            obs[goes_on] = self.predicted(task, obs[goes_on], self.labelled(task, obs[goes_on]))
        return obs, self.labelled(task, obs)

    # -- saving ---------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        spec = next(iter(cast(TaskPolicy, self.policy).specs.values()), None)
        opened = [[task, length] for task, length in self.lengths.items()]
        return super().architecture() | {"lengths": opened, "spec": None if spec is None else spec.to_json()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        for task, length in architecture["lengths"]:
            spec = Spec.from_json(architecture["spec"])
            self._open(int(task), spec.obs.size, spec.action.size, int(length))
