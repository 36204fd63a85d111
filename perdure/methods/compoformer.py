"""compoformer: a task leans on modules of earlier tasks by what it means; where they do not suffice it has a module of its own.

Paper      Hu et al. 2024 (arXiv 2411.11364), of which the introduction and the authors' code could be read
Objective  weights a over earlier modules from query, key and the descriptions; L_t of the mixture of their actions over query and
           key; then L_t of head(fusion(sum_j a_j h_j, h_t)) over the task's own module, fusion and head
Keeps      per task its vector, its weights and, unless earlier modules suffice, a module: a low-rank adapter of every weight
           (`variant grow`) or a share of the weights (`variant prune`), a fusion and a head
Needs      task id at test; the task in words (not with `meaning data`); the number of tasks for equal shares (`variant prune`);
           rollouts with `reuse rollout`
Differs    whether an earlier module suffices is decided from data: by the error of the nearest one in held-out episodes against
           that of a module that was trained for a while (`reuse rollout` tries the same one in the simulator, on goals that no
           score uses; the code tries its mixture on the goals of the score); a task without a module of its own acts as that one
           alone, not as the mixture that the weights are learned with, which errs less and acts worse; query and key start
           orthogonal and alike, with a learned sharpness, where the code has ones, and are dropped once the weights stand; the
           fusion ends in the task's head, whose output is bounded; modules are as in lora and packnet: all linear maps, biases
           and norms per task, equal shares; earlier modules are read without dropout; the weights are learned in a share of the
           task's steps (the code: 1,000 more); the encoder is all-MiniLM-L6-v2 (the code: L12). The held-out episodes that decide
           are those that action errors, and streams without a simulator, are scored on.
           `compat` repeats the attention, the rule of reuse (but on probe goals), the mixture that acts, and the modules
Status     see docs/reproduction.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from perdure.continual.adapters import AdapterOptions, Adapters, AdapterTraining
from perdure.continual.compat import set_released
from perdure.continual.composing import Composing
from perdure.continual.composition import SHARPNESS, Attention, Composition, Stack
from perdure.continual.shares import ShareOptions, Shares, ShareTraining
from perdure.continual.task_index import signature_of
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step, always
from perdure.core.policy import Policy, Weights
from perdure.core.spec import Discrete, Spec
from perdure.core.task import Task
from perdure.nets.sentences import sentence_vector
from perdure.policies.base import TrunkPolicy

RELEASED = {"attention": "ones", "reuse": "rollout"}
RELEASED_GROW = {"rank": 8, "alpha": 1.0, "layers": "query_key_value", "norms": "frozen"}
RELEASED_PRUNE = {"share": "global", "keep_ratio": 0.5, "norms": "masked"}
"""What `compat` sets."""


@dataclass(frozen=True)
class CompoFormerConfig(MethodConfig):
    """Policies that compose earlier policies."""

    variant: Literal["grow", "prune"] = "grow"
    """What a task's module is: a low-rank adapter of the first task's weights, or a share of the weights."""
    meaning: Literal["text", "data"] = "text"
    """What says how near tasks are: their descriptions, or statistics of their data."""
    attention: Literal["learned", "uniform", "cosine", "oracle", "ones"] = "learned"
    """The weights of earlier modules: learned from the data, starting at the similarity of the meanings; all alike; that
    similarity; the one alone whose actions have the lowest held-out error; learned as in the authors' code."""
    join: Literal["fusion", "addition", "sharing"] = "fusion"
    """How a module reads earlier features: through a fusion, added to its own, or not at all."""
    reuse: Literal["offline", "rollout", "never", "always"] = "offline"
    """When an earlier module suffices: by errors in held-out episodes (in training data where nothing is held out), by success in
    the simulator, never, or always. It is the one with the lowest error."""
    tolerance: float = 0.5
    """Of reuse offline: share of what a module of its own gained over a constant action in `probe_share` of the steps that may be
    given up, in logarithms of errors. A finished module fits the noise of its data more than one that was trained for a while, so
    tasks that come again give up some, others more than all (`tools/calibrate_reuse.py`)."""
    threshold: float = 0.8
    """Of reuse rollout: the success that suffices; the score, where success is not defined."""
    compose_share: float = 0.04
    """Share of a task's steps that learns the weights of earlier modules."""
    probe_share: float = 0.2
    """Share of a task's steps after which its module is compared with them."""
    attention_width: int = 256
    """Size of query and key."""
    rank: int = 16
    """Of variant grow: rank of the adapters."""
    alpha: float = 64.0
    """Of variant grow: an adapter is multiplied by alpha / rank."""
    layers: str = "*"
    """Of variant grow: which linear maps are adapted, as patterns of weight names."""
    share: Literal["equal", "geometric", "global"] = "equal"
    """Of variant prune: of every tensor what is free divided by the tasks that are left, `keep_ratio` of what is free in it, or
    of all that is free together, when the last task takes the rest and embeddings stay as they are made."""
    keep_ratio: float = 0.5
    """Of variant prune, where the share is not equal."""
    retrain_share: float = 0.2
    """Of variant prune: share of the task's steps after pruning."""
    norms: Literal["task", "frozen", "masked"] = "task"
    """Biases and norms: a copy per task, frozen after the first task, or shared out like the weights (variant prune)."""
    cache_bytes: int = 2**30
    """Most memory for what earlier modules make of the data, which is then computed once."""
    compat: bool = False
    """As in the authors' code: all-ones attention, reuse by rollouts, the most attended module alone in place of a mixture of
    actions, rank 8 on query_key_value or half of all free weights, frozen or masked biases and norms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        set_released(self, RELEASED | (RELEASED_GROW if self.variant == "grow" else RELEASED_PRUNE))
        for name in ("compose_share", "probe_share", "retrain_share"):
            if not 0 < self.__dict__[name] < 1:
                raise UsageError(f"method.{name} is {self.__dict__[name]}; give a share between 0 and 1")
        if self.tolerance < 0 or not 0 < self.threshold <= 1:
            raise UsageError(f"method.tolerance is {self.tolerance} and method.threshold {self.threshold}; give 0 or more, and a"
                             " success above 0 and up to 1")
        if self.variant == "grow" and self.norms == "masked":
            raise UsageError("method.norms is 'masked' and method.variant 'grow', which has no masks; use task or frozen")
        if self.attention_width < 1 or self.cache_bytes < 0:
            raise UsageError(f"method.attention_width is {self.attention_width} and method.cache_bytes {self.cache_bytes}; give 1"
                             " or more, and 0 or more")
        if (rest := self.parts()["train"]) < 1:
            raise UsageError(f"method.steps is {self.steps}, and {self.steps - rest} go into the parts other than training; give"
                             " more steps, or smaller shares")
        self.bank()

    @property
    def learns_weights(self) -> bool:
        """Of earlier modules."""
        return self.attention in ("learned", "ones")

    def parts(self) -> dict[str, int]:
        """Steps of a task by what they do; a task without earlier modules trains through the first three."""
        def part(share: float) -> int:
            return max(1, round(share * self.steps))

        steps = {"compose": part(self.compose_share)} if self.learns_weights else {}
        if self.reuse == "offline":
            steps["probe"] = part(self.probe_share)
        retrain = {"retrain": part(self.retrain_share)} if self.variant == "prune" else {}
        return steps | {"train": self.steps - sum(steps.values()) - sum(retrain.values())} | retrain

    def bank(self) -> AdapterOptions | ShareOptions:
        """Checked."""
        if self.variant == "grow":
            said = " as method.compat sets it" if self.compat else ""
            return AdapterOptions(self.rank, self.alpha, self.layers, cast(Any, self.norms), together=self.compat, origin=said)
        share: Any = "geometric" if self.share == "global" else self.share
        return ShareOptions(share, self.keep_ratio, self.norms, together=self.share == "global")


class CompoFormer(Method):
    """Modules of earlier tasks, weighed by meaning."""

    Config = CompoFormerConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        if not isinstance(self.policy, TrunkPolicy):
            raise UsageError(f"the policy is {type(self.policy).__name__}, whose features compoformer cannot reach; use bc, dt or"
                             " another TrunkPolicy")
        if self.policy.config.heads != "task":
            raise UsageError("policy.heads is 'single', but every module of compoformer has a head of its own; use task")
        options = config.bank()
        self.bank: Adapters | Shares = Adapters(options) if isinstance(options, AdapterOptions) else Shares(options)
        self.composition = Composition(config.join, hard=config.compat)
        self.attention: Attention | None = None
        """Of the task whose weights are being learned."""
        self.decisions: dict[int, dict[str, Any]] = {}
        """Task -> what its choice between reuse and a module of its own was made from."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        counts = isinstance(config.bank(), ShareOptions) and config.bank().counts
        asked = {Need.TASK_ID: True, Need.TEXT: config.meaning == "text", Need.ROLLOUTS: config.reuse == "rollout",
                 Need.TASK_COUNT: counts}
        return frozenset(need for need, wanted in asked.items() if wanted)

    @classmethod
    def knows_from_words(cls, config: Any) -> bool:
        return bool(config.meaning == "text")

    @classmethod
    def check_spaces(cls, specs: Mapping[str, Spec]) -> None:
        first = next(iter(specs))
        for name, spec in specs.items():
            if difference := spec.difference(specs[first]):
                raise UsageError(f"task {name} has other spaces than {first} ({difference}), and compoformer composes modules of"
                                 " equal spaces alone; choose a stream that aligns them, or another method")

    # -- opening a task -------------------------------------------------------------------------------------

    def open_task(self, task: Task, access: Any) -> None:
        """Let the task act as the mixture of earlier modules that its meaning asks for, on the scale of the nearest of them.

        Raises:
            UsageError: the description has no vector.
        """
        t = task.index
        super().open_task(task, access)
        self.composition.open(t, self._meaning(access))
        self.composition.to(access.current.device)
        sources = self.composition.sources[t]
        if sources:
            self._open_attention(t)
            self.composition.set_weights(t, self._attended(t))
            nearest = sources[int(self.composition.weights(t).argmax())]
            self.trunk.set_statistics(t, self.trunk.statistics(nearest))

    def _meaning(self, access: Any) -> Tensor:
        """(S,) float32: the task's vector."""
        if self.config.meaning == "text":
            given = access.vector()
            return sentence_vector(access.text()) if given is None else torch.tensor(given, dtype=torch.float32)
        view = access.current
        batches = [view.windows(self.policy.context, 256, Step(self.seed, access.index, "meaning", i)) for i in range(4)]
        space = view.task.spec.action
        return signature_of(batches, space.n if isinstance(space, Discrete) else 0).float()

    def _open_attention(self, task: int) -> None:
        """Weights that are learned start from a query and a key of the task's own."""
        if self.config.learns_weights:
            self.attention = self._new_attention(len(self.composition.vector(task)), task)
            self.attention.to(self.composition.vector(task).device)

    def _new_attention(self, size: int, task: int) -> Attention:
        return Attention(size, self.config.attention_width, self.generator("attention", task), self.config.attention)

    def _attended(self, task: int) -> Tensor:
        """(M,) weights of the task's sources as they are now."""
        own, sources = self.composition.vector(task), self.composition.sources[task]
        others = torch.stack([self.composition.vector(source) for source in sources])
        if self.attention is not None:
            return self.attention(own, others)
        if self.config.attention == "uniform":
            return torch.full((len(sources),), 1 / len(sources), device=own.device)
        return (SHARPNESS * F.cosine_similarity(others, own.unsqueeze(0), dim=1)).softmax(0)

    # -- learning it ----------------------------------------------------------------------------------------

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t, config = task.index, self.config
        lesson = Composing(self.trunk, self.composition, access, self._stack, config.batch, config.cache_bytes)
        training = self._training(access, lesson)

        def open_task() -> None:
            self.open_task(task, access)
            self.trunk.set_statistics(t, access.current.stats())
            if self.attention is not None:
                self.optimizer("attention", {n: p for n, p in self.attention.named_parameters() if p.requires_grad})

        def compose(step: Step) -> Mapping[str, Tensor]:
            weights = self._attended(t)
            self.composition.set_weights(t, weights)
            return {"mix": self.descend("attention", lesson.mixture_loss(step, weights))}

        def settle() -> None:
            """The weights of earlier modules stand from here on."""
            self.composition.set_weights(t, self._attended(t))
            if config.attention == "oracle":
                errors = lesson.errors(lesson.parts)
                self.composition.set_weights(t, F.one_hot(errors.argmin(), len(errors)))
            self.attention = None
            self.forget_optimizers()  # which held it
            if config.reuse != "offline":
                self.decisions[t] = self._decide_at_once(access, lesson)

        def open_module() -> None:
            self._open_module(t)
            training.begin()

        def open_both() -> None:
            open_task()
            open_module()

        def decide() -> None:
            """An earlier module suffices if it keeps most of what the task's own gained in a part of its training."""
            own_module = self._composed(t)
            alone, error = lesson.best_alone()
            own, constant = lesson.errors(lambda windows: [own_module.predict(windows), lesson.constant(windows)]).tolist()
            gained = math.log(constant / own)
            reused = gained > 0 and math.log(error / own) <= config.tolerance * gained
            self.decisions[t] = {"reused": reused, "alone_error": error, "own_error": own, "constant_error": constant}
            if reused:
                self.composition.set_weights(t, alone)
                self._drop_module(t)
                self.forget_optimizers()

        def new_module() -> bool:
            return not self.decisions[t]["reused"]

        steps = config.parts()
        compose_steps, probe_steps = steps.get("compose", 0), steps.get("probe", 0)
        if not self.composition.modules_before(t):
            learning = [Phase("train", compose_steps + probe_steps + steps["train"], training.update, begin=open_both)]
        elif config.reuse == "offline":
            learning = [Phase("compose", compose_steps, compose, begin=open_task, end=settle),
                        Phase("probe", probe_steps, training.update, begin=open_module, end=decide),
                        Phase("train", steps["train"], training.update, when=new_module)]
        else:
            learning = [Phase("compose", compose_steps, compose, begin=open_task, end=settle),
                        Phase("train", steps["train"], training.update, begin=open_module, when=new_module)]
        if isinstance(training, AdapterTraining):
            return learning
        when = new_module if len(learning) > 1 else always
        return [*learning, Phase("retrain", steps["retrain"], training.retrain, begin=training.prune, when=when)]

    def _training(self, access: Any, lesson: Composing) -> AdapterTraining | ShareTraining:
        def more() -> dict[str, Parameter]:
            return self.composition.trained(access.index)

        if isinstance(self.bank, Adapters):
            return AdapterTraining(self, self.bank, access, lesson.loss, lesson.draw, more)
        return ShareTraining(self, self.bank, access, lesson.loss, lesson.draw, more)

    def _open_module(self, task: int) -> None:
        if isinstance(self.bank, Adapters):
            self.bank.open(task, self.policy, self.generator("adapter", task))
        else:
            self.bank.open(task, self.policy)
        self.composition.add_module_of(task, self.trunk.width)
        self.to(self.composition.vector(task).device)

    def _drop_module(self, task: int) -> None:
        self.composition.drop_module_of(task)
        if isinstance(self.bank, Adapters):
            self.bank.close(task)
        else:
            self.bank.close(task, self.policy)

    def _decide_at_once(self, access: Any, lesson: Composing) -> dict[str, Any]:
        """Whether earlier modules suffice, without a module to compare them with."""
        t, config = access.index, self.config
        learned = self.composition.weights(t).clone()
        if config.reuse != "never" and not config.compat:
            self.composition.set_weights(t, lesson.best_alone()[0])
        decision: dict[str, Any] = {"reused": config.reuse == "always"}
        if config.reuse == "rollout":
            episodes = access.rollout(self)
            success = sum(e.score if e.success is None else float(e.success) for e in episodes) / len(episodes)
            decision = {"reused": success >= config.threshold, "success": success}
        if not decision["reused"]:
            self.composition.set_weights(t, learned)
        return decision

    # -- acting and saving ----------------------------------------------------------------------------------

    @property
    def trunk(self) -> TrunkPolicy:
        return cast(TrunkPolicy, self.policy)

    def _stack(self, tasks: Sequence[int]) -> Stack:
        return Stack(self.trunk, {task: self.bank.view(task, self.policy) for task in tasks})

    def _composed(self, task: int) -> TrunkPolicy:
        """The policy as the task acts, with modules of others."""
        stack = self._stack(self.composition.needed(task))
        return self.trunk.composing(lambda policy, batch: self.composition.distribution(
            policy, task, stack.features(policy, policy.inputs(batch)), batch))

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        composition = self.composition
        if task in composition.sources and composition.needed(task) not in ([], [task]):
            return self._composed(task), None
        return self.policy, self.bank.view(task, self.policy) if task in composition.modules_of else None

    def unused_parameters(self) -> int:
        """Heads of tasks without a module, and weights that are free."""
        heads = sum(p.numel() for task in self.composition.sources if task not in self.composition.modules_of
                    for p in self.policy.private(task).values())
        return heads + (self.bank.unused(self.policy) if isinstance(self.bank, Shares) else 0)

    def modules_added(self) -> list[int]:
        return list(self.composition.modules_of)

    def leans(self) -> dict[tuple[int, int], float]:
        composition = self.composition
        return {(task, source): float(weight) for task, sources in composition.sources.items()
                if task not in composition.modules_of or composition.leans(task)
                for source, weight in zip(sources, composition.acting_weights(task), strict=True)}

    def architecture(self) -> dict[str, Any]:
        learning = None if self.attention is None else self.attention.query.in_features
        return super().architecture() | {
            "bank": self.bank.architecture(), "composition": self.composition.architecture(), "attention": learning,
            "decisions": [[task, decision] for task, decision in self.decisions.items()],
        }

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.bank.rebuild(architecture["bank"])
        self.composition.rebuild(architecture["composition"])
        self.decisions = {int(task): decision for task, decision in architecture["decisions"]}
        if architecture["attention"] is not None:
            self.attention = self._new_attention(int(architecture["attention"]), 0)

