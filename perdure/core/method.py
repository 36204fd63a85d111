"""The extension contract: a Method declares the phases of learning one task; the driver runs, logs and saves them.

The library is called and does not call: besides `phases`, what a Phase holds, `model`, `architecture` and
`rebuild` there are no hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from perdure.core.config import check_choices, not_negative, positive
from perdure.core.errors import GuardError
from perdure.core.policy import Actor, Policy, Stage, Weights
from perdure.core.rng import generator, keyed
from perdure.core.spec import Spec
from perdure.core.task import Task


class Need(Enum):
    """What a method must be allowed to see; undeclared access raises and the table shows it."""

    TASK_ID = "the task id at test time"
    MEMORY = "a memory of past data"
    PAST_DATA = "the datasets of earlier tasks"
    ROLLOUTS = "rollouts on probe goals while learning"
    TASK_COUNT = "the number of tasks in advance"
    TEXT = "the description of the task in words"


@dataclass(frozen=True)
class Step:
    """The place of one update; all its randomness is keyed by it."""

    seed: int
    task: int
    phase: str
    index: int

    def generator(self, purpose: str, device: str | torch.device = "cpu") -> Generator:
        return generator(self.seed, purpose, self.task, self.phase, self.index, device=device)


def always() -> bool:
    return True


@dataclass(frozen=True)
class Phase:
    """A named stretch of updates inside one task."""

    name: str
    """Appears in logs, checkpoints and progress."""
    steps: int | Callable[[], int]
    """Number of updates; a callable is asked once, after `begin`, and the answer is stored."""
    update: Callable[[Step], Mapping[str, Tensor]]
    """One step; returns detached tensors that are read on log steps only."""
    begin: Callable[[], None] | None = None
    """Runs once before the first update; takes seconds at most."""
    end: Callable[[], None] | None = None
    """Runs once after the last update, in one transaction with moving on to the next phase."""
    when: Callable[[], bool] = always
    """Asked once whether the phase happens; the answer is stored."""
    trains: bool = True
    """Whether its updates train the policy and so count on the axis of the learning curve."""


@dataclass(frozen=True)
class MethodConfig:
    """The training recipe that every method shares. Values come from the policy's profile unless set."""

    steps: int = 5000
    """Gradient updates per task."""
    batch: int = 256
    """Samples of the current task per update; methods that dream take a part of them from their dreams."""
    learning_rate: float = 1e-3
    """Of AdamW, constant."""
    weight_decay: float = 1e-4
    """Decoupled, of AdamW."""
    clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    sampling: Literal["steps", "episodes"] = "steps"
    """Windows start uniformly over steps (long episodes count more) or uniformly over episodes."""

    def __post_init__(self) -> None:
        check_choices(self, "method")
        positive(self, "method", "steps", "batch", "learning_rate")
        not_negative(self, "method", "weight_decay", "clip")


class Method(nn.Module):
    """A continual-learning algorithm. State is a tensor in `state_dict`, JSON in `architecture()`, or does not exist."""

    Config: ClassVar[type] = MethodConfig
    schedule: ClassVar[Literal["sequential", "joint"]] = "sequential"
    """`joint`: `phases` is called once, with the last task, and `access.past()` holds the others."""
    trains_staged: ClassVar[bool] = False
    """Whether it attends to the stages of a policy that learns in more ways than by `loss` alone (`Policy.staged`)."""
    works_with: ClassVar[tuple[str, ...]] = ()
    """Names of the policies that it works with, the first one unless another is asked for; empty: any, and bc."""
    tuned: ClassVar[str] = ""
    """The option that `perdure tune` chooses outside the benchmark, such as strength; empty where there is none."""
    grid: ClassVar[tuple[float, ...]] = ()
    """The values that it tries, unless others are given."""

    def __init__(self, config: Any, policy: Callable[[], Policy], seed: int):
        """`policy` makes a fresh policy without tasks; a method knows no task and no space before it starts."""
        super().__init__()
        self.config = config
        self.seed = seed
        self.new_policy = policy
        with keyed(seed, "policy"):
            self.policy = policy()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.recipes: dict[str, dict[str, Any]] = {}
        self.trouble: Tensor | None = None

    # What a method defines ------------------------------------------------------------------------------

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        """What this configuration must be allowed to see."""
        return frozenset()

    @classmethod
    def policy_options(cls, config: Any) -> dict[str, Any]:
        """Options of the policy that this configuration goes with, unless others are given."""
        return {}

    @classmethod
    def infers_task(cls, config: Any) -> bool:
        """Whether it finds out by itself at test time which task it is at, in spite of parts of its own for each."""
        return False

    @classmethod
    def check_spaces(cls, specs: Mapping[str, Spec]) -> None:
        """Refuse tasks, by name, whose spaces it cannot learn together, before anything is learned.

        Raises:
            UsageError: names two tasks, and how their spaces differ.
        """

    def phases(self, task: Task, access: Any) -> list[Phase]:
        """The phases of learning `task`. Pure: it may be called again at any time and changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} defines no phases")

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        """The policy that acts on `task` and the weights that stand in for its own."""
        return self.policy, None

    def architecture(self) -> dict[str, Any]:
        """JSON from which `rebuild` makes the same modules; extend it where a method grows."""
        return {"policy": self.policy.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        """Make the modules of `architecture()`; their values come from the state dict."""
        self.policy.rebuild(architecture["policy"])

    def memory_bytes(self) -> int:
        """Bytes of past data that are kept."""
        return 0

    def unused_parameters(self) -> int:
        """Of its parameters, those that no task acts with, such as critics, or weights kept free for later tasks."""
        return sum(p.numel() for module in self.modules() if isinstance(module, Policy) for p in module.teachers().values())

    def copies(self) -> int:
        """How many sets of a policy's weights it holds."""
        return 1

    @classmethod
    def knows_from_words(cls, config: Any) -> bool:
        """Whether it acts on a task that it has not learned by the task's description alone, without statistics of its data."""
        return False

    def modules_added(self) -> list[int] | None:
        """Tasks that got a module of their own, where that is for the method to decide."""
        return None

    def leans(self) -> dict[tuple[int, int], float]:
        """(task, earlier task) -> how much the first acts with what was learned for the other, 0 to 1."""
        return {}

    def dreamed(self, task: int, n: int, g: Generator) -> tuple[Tensor, Tensor] | None:
        """Observations (n, O) raw and actions (n, A) in [-1, 1] that it would replay of a learned task, where it makes them
        itself."""
        return None

    # What a method is given -----------------------------------------------------------------------------

    def actor(self, task: int) -> Actor:
        """An actor for one task, immutable."""
        policy, weights = self.model(task)
        return policy.actor(task, weights)

    def generator(self, purpose: str, *place: int | str) -> Generator:
        """A generator keyed by this method's seed."""
        return generator(self.seed, purpose, *place)

    def open_task(self, task: Task, access: Any) -> None:
        """Open the task's head and statistics in the policy, with keyed initial values."""
        add_task(self.policy, self.seed, task.index, task.spec, access.current)

    def stages(
        self,
        stages: Sequence[Stage],
        policy: Callable[[], Policy],
        views: Sequence[Any],
        begin: Callable[[], None],
        train: Callable[[Step, Callable[..., Tensor]], Mapping[str, Tensor]],
        *,
        end: Callable[[], None] | None = None,
        weights: Callable[[], Weights | None] = lambda: None,
        closes: bool = True,
    ) -> list[Phase]:
        """A phase for every stage of a policy's learning, with `config.steps` updates for every task.

        Args:
            stages: `Policy.stages()`.
            policy: gives the policy that learns, which may not be there before `begin`.
            views: the data of every task that is learned.
            begin: before the first stage.
            train: one update with the loss of its stage; it draws the batch itself.
            end: after the last stage.
            weights: those that stand in for the policy's own while the task is learned.
            closes: whether the task is learned after the last stage.
        """

        def finish() -> None:
            for view in views:
                policy().annotate(view)  # `end` may keep windows, and after a resume no update has annotated them
            if end is not None:
                end()
            for view in views if closes else ():
                policy().close_task(view.task.index)

        def parts_of_all() -> int:
            return sum(policy().sweep_parts(view) for view in views)

        def phase(place: int, stage: Stage) -> Phase:
            def start() -> None:
                if place == 0:
                    begin()
                if stage.begin:
                    getattr(policy(), stage.begin)()

            def update(step: Step) -> Mapping[str, Tensor]:
                for view in views:
                    policy().annotate(view)
                values = train(step, getattr(policy(), stage.loss))
                if stage.follows:
                    policy().follow(weights())
                return values

            def sweep(step: Step) -> Mapping[str, Tensor]:
                parts = [(view, part) for view in views for part in range(policy().sweep_parts(view))]
                view, part = parts[step.index]
                policy().annotate(view)
                policy().sweep(view, part, weights())
                return {}

            last = finish if place == len(stages) - 1 else None
            if stage.sweep:
                return Phase(stage.name, parts_of_all, sweep, begin=start, end=last, trains=False)
            updates = max(1, round(stage.share * self.config.steps * len(views)))
            return Phase(stage.name, updates, update, begin=start, end=last)

        return [phase(place, stage) for place, stage in enumerate(stages)]

    def optimizer(self, name: str, parameters: Mapping[str, Parameter], **recipe: Any) -> None:
        """A fresh AdamW under `name`; the recipe and full parameter names are saved, and it is remade on resume."""
        known = {id(p): full for full, p in self.named_parameters()}
        names = [known[id(p)] for p in parameters.values()]
        full_recipe = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay} | recipe
        self.recipes[name] = {"parameters": names, "recipe": full_recipe}
        self.optimizers[name] = torch.optim.AdamW(list(parameters.values()), fused=True, **full_recipe)

    def descend(
        self,
        name: str,
        loss: Tensor,
        *,
        penalty: Callable[[], None] | None = None,
        edit: Callable[[], None] | None = None,
        keep: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """One update of the optimizer `name`; returns the detached loss.

        `penalty` adds to .grad after backward, `edit` changes gradients, both before clipping. `keep` maps
        parameter names to masks (bool, or faster the parameter's own type with 1 and 0): masked entries are
        restored after the step, so that neither momentum nor weight decay moves them.
        """
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if penalty is not None:
            penalty()
        if edit is not None:
            edit()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.config.clip:
            size = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        else:
            size = torch.nn.utils.get_total_norm(gradients)
        bad = ~torch.isfinite(loss.detach() + size)
        self.trouble = bad if self.trouble is None else self.trouble | bad
        masks, names = keep or {}, self.recipes[name]["parameters"]
        kept = [(p, p.detach().clone(), masks[full]) for full, p in zip(names, parameters, strict=True) if full in masks]
        optimizer.step()
        with torch.no_grad():
            for p, old, mask in kept:
                p.lerp_(old, mask.to(p.dtype))  # exact at 0 and 1, and on a CPU 10 times as fast as torch.where
        return loss.detach()

    # What the driver uses -------------------------------------------------------------------------------

    def check_health(self, place: str) -> None:
        """Raises GuardError if any loss or gradient since the last check was NaN or infinite."""
        if self.trouble is not None and bool(self.trouble):
            raise GuardError(f"loss or gradient became NaN or infinite at {place}; nothing of it was saved:"
                             " lower method.learning_rate or the method's strength, or run `perdure data check`")
        self.trouble = None

    def copy(self) -> Method:
        """An equal method without optimizers, to be opened and acted with, then thrown away."""
        with keyed(self.seed, "copy"):  # making modules draws from the global generator
            other = type(self)(self.config, self.new_policy, self.seed)
            other.rebuild(self.architecture())
        other.load_state_dict(self.state_dict())
        return other.to(next(self.parameters(), torch.zeros(0)).device)

    def forget_optimizers(self) -> None:
        """Drop all optimizers; the driver does so when a task is finished."""
        self.optimizers.clear()
        self.recipes.clear()


def add_task(policy: Policy, seed: int, task: int, spec: Spec, view: Any) -> None:
    """Open `task` in `policy`: keyed initial values, statistics of the task's training split."""
    with keyed(seed, "open", task):
        policy.add_task(task, spec, view.stats())
    policy.to(view.device)  # what was made is on the CPU, and a phase may begin with a forward pass
