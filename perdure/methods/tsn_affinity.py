"""tsn_affinity: sparse subnetworks; a new task shares weights with the earlier task that its data are nearest to, if any is near.

Paper      Zurek et al. 2026 (arXiv 2604.25898), whose body could not be read: `compat` are the formulas of the authors' code
Objective  as tsn; before task t its distance to every earlier task is measured (continual/affinity.py) and compared with a
           threshold: a near task lends its subnetwork, otherwise the task gets weights of its own
Keeps      as tsn, and per task the mean and variance of its encoder's outputs, and of its first observations, step by step,
           with `task_id inferred`, and statistics of its data; no observation.
           Copies of all weights are added where nothing is near and no room is left (`growth room`), or whenever nothing is near
           (`growth copy`)
Needs      task id at test, or none with `task_id inferred`
Differs    thresholds are relative to what the earlier task reaches on its own held-out data and to a constant prediction, where
           the code has absolute ones that were tuned on the test sequences; the latent distance is a mean over dimensions that
           vary; hybrid adds both ratios for any number of earlier tasks; a near task's weights and free ones may be chosen, not
           those of others in its copy; a far task takes free weights of a copy before a new copy is made; the first scores of a
           lent subnetwork lead by a share of what the optimizer can move; the head starts as that of the near task; distances are
           measured to the tasks alone whose data look most alike (continual/task_index.py); routing has randomness of its own;
           the task can be inferred at test time from the first observations. Tasks are compared, and inferred, among those of
           the same observation and action spaces; a task of others is far from all. `compat`: as released, but heads stay per
           task and outside the masks, where the code has one masked head for all
Status     see docs/reproduction.md
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from perdure.continual.affinity import (
    Latent,
    action_affinity,
    constant_affinity,
    latent,
    latent_affinity,
    released_latent_affinity,
)
from perdure.continual.compat import set_released
from perdure.continual.inference import DrawingActor, InferringActor, Start, start_of
from perdure.continual.pool import SubnetworkPool
from perdure.continual.routing import Decision, Distances, nearest_source, ratio, raw_distance, released_source
from perdure.continual.subnetwork_phases import SubnetworkConfig, open_subnetwork, subnetwork_phases
from perdure.continual.subnetworks import Masks
from perdure.continual.task_index import TaskIndex, signature_of
from perdure.core.batch import Windows
from perdure.core.config import positive
from perdure.core.errors import UsageError
from perdure.core.method import Method, Need, Phase, Step
from perdure.core.policy import Actor, Policy, Weights
from perdure.core.spec import Discrete
from perdure.core.task import Task
from perdure.policies.base import TrunkPolicy

RELEASED = {"growth": "copy", "biases": "masked", "norms": "frozen"}
"""What `compat` sets."""

LEAST_NEW = 0.05
"""Of a mask's weights: a task that could train fewer is warned of."""

RELEASED_LEAD, RELEASED_NOISE = 2.0, 0.02
"""Scores of a lent subnetwork in the authors' code: N(0, 0.02), plus 2 where its mask is."""


@dataclass(frozen=True)
class TSNAffinityConfig(SubnetworkConfig):
    """Sparse subnetworks with affinity routing."""

    router: Literal["action", "latent", "hybrid", "never", "always", "oracle", "random"] = "action"
    """How the earlier task is found. never: all share one copy, always: every task has its own, oracle: tasks of the same
    description share (uses the task's words), random: any earlier task or none, by chance."""
    growth: Literal["room", "copy"] = "room"
    """Where nothing is near: free weights of a copy that has room, else a new copy; or always a new copy."""
    tolerance: float = 0.5
    """Of router action: 0 asks of an earlier subnetwork what it reaches on its own data, 1 to be as good as a constant."""
    latent_tolerance: float = 1.0
    """Of router latent: nats per dimension above the divergence within the earlier task."""
    mix: float = 0.7
    """Weight of the actions in router hybrid."""
    warm_start: float = 0.1
    """Lead of the scores of a lent subnetwork, as a share of the way that the optimizer can move a score."""
    routing_batches: int = 4
    """Batches of the new task on which distances are measured."""
    routing_batch: int = 64
    """Windows in each."""
    candidates: int = 16
    """Distances are measured to this many earlier tasks at most: those whose data have the most similar statistics."""
    max_copies: int | None = None
    """With so many copies, a far task shares the nearest one's."""
    task_id: Literal["given", "inferred", "random"] = "given"
    """At test time: given, inferred from the first observations of the episode, or drawn by chance, to compare that with."""
    inference_steps: int = 10
    """How many observations these are."""
    compat: bool = False
    """As in the authors' code: absolute thresholds, sums over latent dimensions, whole copies, biases masked, norms and time-step
    embeddings frozen after the first task, and a lead of 2 for lent scores."""
    action_threshold: float = 0.35
    """Of `compat`: mean squared error, or nats (10 in the authors' Atari runs)."""
    latent_threshold: float = 25.0
    """Of `compat`: nats, summed over dimensions (35 in their Atari runs)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        set_released(self, RELEASED)
        positive(self, "method", "tolerance", "latent_tolerance", "action_threshold", "latent_threshold", "routing_batches",
                 "routing_batch", "candidates", "inference_steps")
        if not 0 <= self.mix <= 1 or not 0 <= self.warm_start <= 1:
            raise UsageError(f"method.mix is {self.mix} and method.warm_start {self.warm_start}; give shares from 0 to 1")
        if self.max_copies is not None and self.max_copies < 1:
            raise UsageError(f"method.max_copies is {self.max_copies}; give 1 or more, or none")
        if self.max_copies is not None and self.router == "always":
            raise UsageError(f"method.max_copies is {self.max_copies} and method.router 'always'; give max_copies none, as every"
                             " task has a copy of its own")


class TSNAffinity(Method):
    """Sparse subnetworks with affinity routing."""

    Config = TSNAffinityConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        self.pool = SubnetworkPool(self)
        self.profiles = nn.Module()
        self.indexes = nn.ModuleDict()
        """Spaces -> `TaskIndex` of the finished tasks that have them."""
        self.facts: dict[int, dict[str, Any]] = {}
        """Task -> its spaces, its decision, its error and divergence on held-out data, and its words if they are used."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        asked = {Need.TASK_ID: config.task_id == "given", Need.TEXT: config.router == "oracle"}
        return frozenset(need for need, wanted in asked.items() if wanted)

    @classmethod
    def infers_task(cls, config: Any) -> bool:
        return bool(config.task_id != "given")

    def phases(self, task: Task, access: Any) -> list[Phase]:
        t = task.index

        def start() -> None:
            self.open_task(task, access)
            decision = self._decide(t, access)
            words = {"text": access.text()} if self.config.router == "oracle" else {}
            self.facts[t] = decision.to_json() | words | {"spaces": access.current.sampler.spaces}
            self.facts[t] |= self._place(decision)
            copy, source = self.facts[t]["copy"], self.facts[t]["source"]
            open_subnetwork(self, access, copy, self.config.keep_ratio, self._taken(t), source, of_free=False)
            if source is not None:
                self._warm_start(t, source)

        return subnetwork_phases(self, access, start, lambda: self._taken(t), after=lambda: self._describe(t, access))

    # -- routing --------------------------------------------------------------------------------------------

    def _decide(self, t: int, access: Any) -> Decision:
        """Which earlier task is near enough to the new one."""
        router = self.config.router
        spaces = access.current.sampler.spaces
        known = [s for s in self.pool.masks.finished() if self.facts[s]["spaces"] == spaces]
        if not known or router == "always":
            return Decision(None, None)
        if router == "random":
            choice = int(torch.randint(len(known) + 1, (), generator=self.generator("route", t)))
            return Decision([*known, None][choice], known[0])
        if router == "oracle":
            return Decision(next((s for s in known if self.facts[s]["text"] == access.text()), None), known[0])
        batches = [access.current.windows(self.policy.context, self.config.routing_batch, Step(self.seed, t, "route", i))
                   for i in range(self.config.routing_batches)]
        if self.config.compat and router != "never":
            return self._released(router, known, batches)
        kind, config = "action" if router == "never" else router, self.config
        candidates = self._index(spaces).near(self._signature(batches, t), config.candidates)
        distances = {s: self._distances(s, batches) for s in candidates}
        ratios = {s: ratio(kind, d, config.tolerance, config.latent_tolerance, config.mix) for s, d in distances.items()}
        raw = {s: raw_distance(kind, d, config.latent_tolerance, config.mix) for s, d in distances.items()}
        nearest = min(raw, key=lambda s: (raw[s], s))
        return Decision(nearest if router == "never" else nearest_source(ratios, raw), nearest, ratios, distances)

    def _index(self, spaces: str) -> TaskIndex:
        if spaces not in self.indexes:
            self.indexes[spaces] = TaskIndex()
        return cast(TaskIndex, self.indexes[spaces])

    def _signature(self, batches: list[Windows], task: int) -> Tensor:
        space = cast(TrunkPolicy, self.policy).specs[task].action
        return signature_of(batches, space.n if isinstance(space, Discrete) else 0)

    def _distances(self, source: int, batches: list[Windows]) -> Distances:
        weights = self._weights(source)
        self.policy.eval()
        action = action_affinity(self.policy, batches, source, weights) / max(constant_affinity(batches), 1e-6)
        near = latent_affinity(latent(self.policy, batches, source, weights), self._latent(source))
        self.policy.train()
        return Distances(action, near, self.facts[source]["own_action"], self.facts[source]["own_latent"])

    def _released(self, router: str, known: list[int], batches: list[Windows]) -> Decision:
        """The rules of the authors' code."""
        self.policy.eval()
        actions = {s: action_affinity(self.policy, batches, s, self._weights(s), among_all=True) for s in known}
        latents = {s: released_latent_affinity(latent(self.policy, batches, s, self._weights(s)), self._latent(s)) for s in known}
        self.policy.train()
        best, near = released_source(router, actions, latents, self.config.action_threshold, self.config.latent_threshold)
        own = {s: (self.facts[s]["own_action"], self.facts[s]["own_latent"]) for s in known}
        distances = {s: Distances(actions[s], latents[s], *own[s]) for s in known}
        return Decision(best if near else None, best, distances=distances)

    def _place(self, decision: Decision) -> dict[str, Any]:
        """The copy that the task belongs to, where one more than there are makes a new one; whose weights it is lent; and whether
        it may take any weight of the copy.
        """
        if self.config.router == "never":
            return {"copy": 0, "source": decision.source, "crowded": True}
        if decision.source is not None:
            whole = self.config.growth == "copy"
            return {"copy": self.pool.copy_of[decision.source], "source": decision.source, "crowded": whole}
        if not self.pool.masks.finished():
            return {"copy": 0, "source": None, "crowded": False}
        room = self._room()
        if room is not None:
            return {"copy": room, "source": None, "crowded": False}
        if self.config.max_copies is None or self.copies() < self.config.max_copies:
            return {"copy": self.copies(), "source": None, "crowded": False}
        nearest = decision.nearest
        return {"copy": 0 if nearest is None else self.pool.copy_of[nearest], "source": nearest, "crowded": True}

    def _room(self) -> int | None:
        """The first copy in which every tensor has `keep_ratio` of its weights free, if such room is used."""
        if self.config.growth == "copy" or self.config.router == "always":
            return None
        for copy in range(self.copies()):
            occupied = self.pool.occupied(copy).values()
            if all(float(mask.float().mean()) <= 1 - self.config.keep_ratio for mask in occupied):
                return copy
        return None

    def _taken(self, t: int) -> Masks:
        """Weights that the task may not choose: in a copy that it shares with a near task, those of all others."""
        facts = self.facts[t]
        if facts["crowded"]:
            return {}
        occupied = self.pool.occupied(facts["copy"], before=t)
        if facts["source"] is None:
            return occupied
        lent = self.pool.masks.mask(facts["source"])
        return {name: mask & ~lent[name] if name in lent else mask for name, mask in occupied.items()}

    def _warm_start(self, t: int, source: int) -> None:
        """Scores that choose the near task's subnetwork, until training overtakes their lead; and its head."""
        reach = self.config.learning_rate * self.config.steps
        lead, noise = self.config.warm_start * reach, 0.01 * self.config.warm_start * reach
        if self.config.compat:
            lead, noise = RELEASED_LEAD, RELEASED_NOISE
        if lead > reach:
            warnings.warn(f"the lead of task {t + 1}'s scores is {lead:g} and the optimizer moves a score by {reach:g} at most,"
                          " so that its mask hardly changes; give more steps or a higher learning rate", stacklevel=2)
        lent, g = self.pool.masks.mask(source), self.generator("warm start", t)
        with torch.no_grad():
            for name, score in self.pool.masks.current().items():
                score.copy_(noise * torch.randn(score.shape, generator=g))
                if name in lent:
                    score.add_(lead * lent[name])
            mine, theirs = self.policy.private(t), self.policy.private(source)
            for p, other in zip(mine.values(), theirs.values(), strict=False):
                p.copy_(other)

    # -- what is kept of a task -----------------------------------------------------------------------------

    def _describe(self, t: int, access: Any) -> None:
        """Statistics of the task's latent states, and what it reaches on data that it did not learn from."""
        view, n = access.current, self.config.routing_batch
        held = "holdout" if len(view.sampler.starts["holdout"].step) else "train"

        def drawn(split: Any, purpose: str) -> list[Windows]:
            return [view.windows(self.policy.context, n, Step(self.seed, t, purpose, i), split)
                    for i in range(self.config.routing_batches)]

        weights = self._weights(t)
        self.policy.eval()
        described = drawn("train", "describe")
        own = latent(self.policy, described, t, weights)
        held_out = drawn(held, "held-out")
        error = action_affinity(self.policy, held_out, t, weights) / max(constant_affinity(held_out), 1e-6)
        again = latent_affinity(latent(self.policy, held_out, t, weights), own)
        self.policy.train()
        self.profiles.register_buffer(f"task-{t}", torch.stack([own.mean, own.variance]))
        if self.config.task_id != "given":
            begin = start_of(view.sampler, self.config.inference_steps)
            self.profiles.register_buffer(f"start-{t}", torch.stack([begin.mean, begin.std]).float())
        self._index(self.facts[t]["spaces"]).add(t, self._signature(described, t))
        self.facts[t] |= {"own_action": error, "own_latent": again, "new_share": self._new_share(t)}

    def _new_share(self, t: int) -> float:
        """Of the weights in the task's mask, those that it trained itself."""
        new, chosen = (sum(int(mask.sum()) for mask in part.values()) for part in (self.pool.added(t), self.pool.masks.mask(t)))
        if new < LEAST_NEW * chosen:
            warnings.warn(f"task {t + 1} could train {new} of the {chosen} weights in its mask, the others are frozen; give it"
                          " room with a smaller warm_start, or weights of its own with a smaller tolerance", stacklevel=2)
        return new / chosen

    def _latent(self, task: int) -> Latent:
        return Latent(*self.profiles.get_buffer(f"task-{task}"))

    def _weights(self, task: int) -> Weights:
        """Of a finished task."""
        return self.pool.view(self.policy, task, {})

    # -- acting and saving ----------------------------------------------------------------------------------

    def actor(self, task: int) -> Actor:
        """Of the task; where it is to be inferred, of whichever finished task of these spaces fits the observations best. While a
        task is learned, its learning curve is its own.
        """
        described = {t for t in self.facts if hasattr(self.profiles, f"start-{t}")}
        if task not in described:
            return super().actor(task)
        known = [t for t in self.facts if t in described and self.facts[t]["spaces"] == self.facts[task]["spaces"]]
        actors = {t: super(TSNAffinity, self).actor(t) for t in known}
        starts = {t: Start(*self.profiles.get_buffer(f"start-{t}")) for t in known}
        kind = DrawingActor if self.config.task_id == "random" else InferringActor
        return kind(actors, starts, self.config.inference_steps)

    def model(self, task: int) -> tuple[Policy, Weights | None]:
        learning = task in self.facts and task not in self.pool.masks.finished()
        return self.policy, self.pool.view(self.policy, task, self._taken(task) if learning else {})

    def unused_parameters(self) -> int:
        return self.pool.unused(self.policy)

    def copies(self) -> int:
        return len(self.pool.copies) + 1

    def leans(self) -> dict[tuple[int, int], float]:
        return {(task, facts["source"]): 1.0 for task, facts in self.facts.items() if facts["source"] is not None}

    def architecture(self) -> dict[str, Any]:
        profiles = {name: list(value.shape) for name, value in self.profiles.named_buffers()}
        indexes = {spaces: index.architecture() for spaces, index in self.indexes.items()}
        return super().architecture() | {"pool": self.pool.architecture(), "profiles": profiles, "indexes": indexes,
                                         "facts": [[task, facts] for task, facts in self.facts.items()]}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.pool.rebuild(architecture["pool"])
        for name, shape in architecture["profiles"].items():
            self.profiles.register_buffer(name, torch.zeros(shape, dtype=torch.float32 if "start" in name else torch.float64))
        for spaces, index in architecture["indexes"].items():
            self._index(spaces).rebuild(index)
        self.facts = {int(task): facts for task, facts in architecture["facts"]}
