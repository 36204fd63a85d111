"""What the methods share that replay generated observations labelled by the policy as it was: dgr, tdgr and cril."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from perdure.continual.dreams import MOST, Dreams, as_windows, bare, mixed, per_task, rows_of, times_of
from perdure.continual.state_model import TOLD, StateModel, require_equal_vectors
from perdure.core.batch import Windows, average
from perdure.core.config import at_most, one_or_more, positive
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.rng import keyed
from perdure.core.spec import Spec
from perdure.core.task import Task
from perdure.nets.diffusion import Sampler
from perdure.nets.state_nets import NETS, DiffusionNet, StateNet
from perdure.policies.base import TaskPolicy

AT_ONCE = 4096
"""Dreams of one part of the phase that makes them."""


@dataclass(frozen=True)
class DreamingConfig(MethodConfig):
    """Replay of generated observations."""

    dreams: int = 10_000
    """Observations per earlier task, and of all together four times as many at most."""
    balance: Literal["half", "equal"] = "equal"
    """Of a batch: half of it is dreams, or as many of every earlier task as of the new one (r = 1 / number of tasks)."""
    generator: Literal["diffusion", "vae", "gan"] = "gan"
    """Of observations."""
    state_steps: int = 1500
    """Updates of the generator, and of what else dreams, per task. An adversarial one's discriminator has five for each of them;
    dreams of cheetah-vel are at a distance of 0.44 after 1000, 0.18 after 1500 and 0.17 after 2000."""
    state_width: int = 128
    """Of the outermost block of a diffusion model; half of the hidden layers of the others."""
    averaging: float = 0.001
    """Share of the new weights in each update of the generator's average, which dreams; 0: the weights themselves."""
    evaluations: int = 15
    """Of a diffusion model per observation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "method", "dreams", "state_steps")
        one_or_more(self, "method", "evaluations")
        if self.state_width < 4 or self.state_width % 4 or not 0 <= self.averaging <= 1:
            raise UsageError(f"method.state_width is {self.state_width} and averaging {self.averaging}; give a width that 4"
                             " divides, and a share from 0 to 1")
        at_most(self, "method", MOST, "dreams")


class Dreaming(Method):
    """Replays what a generator and the policy as it was make of earlier tasks."""

    Config: ClassVar[type] = DreamingConfig
    works_with = ("bc",)
    told = TOLD
    """Numbers that the generator is told: of the task, and what a method adds."""
    config: DreamingConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        if self.policy.context != 1:
            raise UsageError(f"the policy looks at {self.policy.context} steps; {type(self).__name__.lower()} dreams of single"
                             " ones, so use --policy bc")
        self.states = StateModel(self._net, "task", config.averaging)
        self.resume = Dreams()

    @classmethod
    def check_spaces(cls, specs: Mapping[str, Spec]) -> None:
        require_equal_vectors(cls.__name__.lower(), specs)

    def _net(self, size: int) -> StateNet:
        config = self.config
        if config.generator != "diffusion":
            return NETS[config.generator](size, self.told, 2 * config.state_width)
        return DiffusionNet(size, self.told, config.state_width, scale=1.0, sampler=Sampler("dpm++", config.evaluations),
                            left_out=0.0, guidance=0.0)

    @property
    def dreams(self) -> Dreams:
        """What is replayed while the present task is learned."""
        return cast(Dreams, self.resume)

    # -- what a method defines ------------------------------------------------------------------------------

    @abstractmethod
    def dream(self, step: Step) -> None:
        """One part of the dreams, stored in `dreams`."""

    @abstractmethod
    def parts(self) -> int:
        """How many parts the dreams are made in."""

    @abstractmethod
    def train_generator(self, view: Any, step: Step) -> Mapping[str, Tensor]:
        """One update of what dreams, on new data and on dreams."""

    def opened(self, task: int, view: Any) -> None:
        """A task was opened; make what else belongs to it, and its optimizers."""

    def rows(self, task: int, asked: int) -> int:
        """Dreams of an earlier task, where `asked` are asked for."""
        return asked

    def seen(self, batch: Windows) -> Windows:
        """New or dreamed windows with what the generator needs of them in `extra`."""
        return bare(batch)

    # -- learning -------------------------------------------------------------------------------------------

    def phases(self, task: Task, access: Any) -> list[Phase]:
        view, index = access.current, task.index

        def make_room() -> None:
            known = self.policy.tasks()
            for earlier in known:
                self.dreams.open(earlier, self.rows(earlier, per_task(self.config.dreams, len(known))), task.spec)
            self.dreams.to(view.device)

        def dream(step: Step) -> Mapping[str, Tensor]:
            self.dream(step)
            return {}

        def start() -> None:
            self.open_task(task, access)
            observations, _ = rows_of(view)
            with keyed(self.seed, "states", index):
                self.states.add_task(index, view.stats(), observations, times_of(view))
                self.opened(index, view)
            self.to(observations.device)
            self.optimizer("policy", dict(self.policy.named_parameters()))
            for part, recipe in self.states.parts().items():
                self.optimizer(f"states {part}", self.states.trained(part), **recipe)

        def train(step: Step) -> Mapping[str, Tensor]:
            return {"fit": self.descend("policy", average(self.policy.loss, self.mixed(view, step)))}

        return [
            Phase("dream", self.parts, dream, begin=make_room, trains=False),
            Phase("train", self.config.steps, train, begin=start),
            Phase("states", self.config.state_steps * NETS[self.config.generator].TURNS,
                  lambda step: self.train_generator(view, step), end=self.dreams.clear, trains=False),
        ]

    def mixed(self, view: Any, step: Step) -> Windows:
        """A batch of new samples and dreams."""
        return mixed(view, self.dreams, self.config.batch, self.config.balance, step, self.seen)

    @torch.no_grad()
    def labelled(self, task: int, obs: Tensor) -> Tensor:
        """(n, A), what the policy does at observations (n, O) of a task."""
        index, spec = torch.full((len(obs),), task, device=obs.device), cast(TaskPolicy, self.policy).specs[task]
        action = torch.zeros(len(obs), spec.action.size, device=obs.device)
        return self.policy.predict(as_windows(obs, action, index, (task,), spec)).output()[:, 0]

    def places(self) -> list[tuple[int, int, int]]:
        """(earlier task, first row, rows) of dreams that are made part by part."""
        return self.dreams.parts(self.dreams.tasks(), AT_ONCE)

    # -- saving ---------------------------------------------------------------------------------------------

    def unused_parameters(self) -> int:
        acting = {id(p) for p in self.policy.parameters()}
        return super().unused_parameters() + sum(p.numel() for p in self.parameters() if id(p) not in acting)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"states": self.states.architecture(), "dreams": self.dreams.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.states.rebuild(architecture["states"])
        self.dreams.rebuild(architecture["dreams"])


