"""The phases in which a task learns its subnetwork; how it begins is the method's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import Parameter

from perdure.continual.pool import biases_of, maskable, used
from perdure.continual.subnetworks import Masks
from perdure.core.batch import average
from perdure.core.errors import UsageError
from perdure.core.method import MethodConfig, Phase, Step
from perdure.core.rng import keyed


@dataclass(frozen=True)
class SubnetworkConfig(MethodConfig):
    """What the methods that learn a subnetwork per task share."""

    keep_ratio: float = 0.33
    """Share of each tensor's eligible weights that a task keeps."""
    biases: Literal["task", "masked"] = "task"
    """A copy per task, or shared out like the weights."""
    norms: Literal["task", "frozen"] = "task"
    """Norms and time-step embeddings: a copy per task, or frozen after the first task."""
    clusters: int = 0
    """Values that the weights which a task adds to a tensor may take (k-means), 2 to 256; 0 leaves them free."""
    cluster_share: float = 0.1
    """Share of the task's steps that fine-tunes these values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"method.keep_ratio is {self.keep_ratio}; give a share above 0 and at most 1")
        if self.clusters and not 2 <= self.clusters <= 256:
            raise UsageError(f"method.clusters is {self.clusters}; give 2 to 256, or 0 for none")
        if not 0 < self.cluster_share < 1:
            raise UsageError(f"method.cluster_share is {self.cluster_share}; give a share between 0 and 1")


def open_subnetwork(
    method: Any, access: Any, copy: int, share: float, taken: Masks, source: int | None = None, of_free: bool = True
) -> None:
    """Give the task that is opened a place in a copy, scores, and an optimizer over all that it trains.

    Args:
        share: of every tensor's entries that are not `taken`; without `of_free`, of all its entries as far as these allow.
        source: an earlier task from whose tensors its own begin; None: the one before it.
    """
    policy, pool, config, t = method.policy, method.pool, method.config, access.index
    needed = used(policy, access.current.windows(policy.context, 2, Step(method.seed, t, "train", 0)))
    masked = maskable(policy, needed, config.biases == "masked")
    rest = {name: p for name, p in needed.items() if name not in masked}
    own = rest if config.norms == "task" else biases_of(policy, rest)
    before = pool.small.of(t - 1 if source is None else source)
    with keyed(method.seed, "copy", copy):
        initial = dict(method.new_policy().named_parameters()) if copy else {}
    fixed = {name: initial.get(name, p).to(p.device) for name, p in rest.items() if name not in own}
    pool.open(t, copy, masked, {name: before.get(name, p) for name, p in own.items()}, fixed, method.seed)
    pool.masks.open(t, masked, share, taken, method.generator("scores", t), of_free)
    weights = {f"weight {name}": p for name, p in pool.weights(policy, t).items()}
    scores = {f"score {name}": p for name, p in pool.masks.current().items()}
    method.optimizer("policy", weights | scores | policy.private(t) | pool.small.of(t) | pool.trained_unmasked(policy, t))


def subnetwork_phases(
    method: Any, access: Any, start: Callable[[], None], taken: Callable[[], Masks], after: Callable[[], None] = lambda: None
) -> list[Phase]:
    """Weights and scores together, then the mask is kept, and the weights that it adds are clustered if the config says so.

    Args:
        start: opens the task with `open_subnetwork`.
        taken: weights that the task may not choose.
        after: what else the method does once the subnetwork is finished.
    """
    policy, pool, config, t = method.policy, method.pool, method.config, access.index
    # these follow from the masks and are made when a process first needs them
    weights: dict[str, Parameter] = {}
    movable: dict[str, Tensor] = {}
    barred: Masks = {}
    keep: dict[str, Tensor] = {}
    mask: Masks = {}
    added: Masks = {}

    def train(step: Step) -> Mapping[str, Tensor]:
        if not weights:
            weights.update(pool.weights(policy, t))
            frozen = pool.occupied(pool.copy_of[t])
            movable.update({name: (~entries).to(weights[name].dtype) for name, entries in frozen.items() if name in weights})
            barred.update(taken())
            keep.update(pool.keep(t, frozen))
        view = pool.masks.view(weights, pool.masks.choose(barred), movable)
        batch = access.current.windows(policy.context, config.batch, step)
        loss = average(policy.loss, batch, weights={**view, **pool.unmasked(policy, t), **pool.small.of(t)})
        return {"fit": method.descend("policy", loss, keep=keep)}

    def finish() -> None:
        pool.finish(t, policy, pool.masks.choose(taken()), method.seed)
        method.forget_optimizers()  # the scores that they held are gone
        weights.clear()
        if not tuned:
            after()

    def cluster() -> None:
        pool.cluster(t, policy, config.clusters)
        centroids = {f"centroids {name}": p for name, p in pool.books.trained().items()}
        method.optimizer("policy", centroids | policy.private(t) | pool.small.of(t))

    def tune(step: Step) -> Mapping[str, Tensor]:
        if not mask:
            weights.update(pool.weights(policy, t))
            mask.update(pool.masks.mask(t))
            added.update(pool.added(t))
        view = pool.clustered(weights, added, mask)
        batch = access.current.windows(policy.context, config.batch, step)
        weights_now = {**view, **pool.unmasked(policy, t), **pool.small.of(t)}
        fit = method.descend("policy", average(policy.loss, batch, weights=weights_now))
        pool.write(weights, added)
        return {"fit": fit}

    def settle() -> None:
        pool.books.close(t)
        method.forget_optimizers()
        after()

    tuned = max(1, round(config.cluster_share * config.steps)) if config.clusters else 0
    learning = Phase("train", config.steps - tuned, train, begin=start, end=finish)
    return [learning, Phase("cluster", tuned, tune, begin=cluster, end=settle)] if tuned else [learning]

