"""lwf: learning without forgetting, the old heads keep saying of the new data what they said before the task began.

Paper      Li and Hoiem 2016, ECCV (arXiv 1606.09282)
Objective  L_t(theta) + strength * sum over old heads j of KL(what head j said || what head j says) on the task's own data;
           for unit variances that is half the squared distance of the means, the scale of L_t
Keeps      nothing but the policy; while a task is learned, a frozen copy of it
Needs      nothing beyond the current data; task id at test only if heads are per task
Differs    no warm-up of the new head; old outputs are computed batch by batch, not recorded in advance; the data are seen through
           the new task's normaliser; heads of other observation or action spaces have nothing to say and are left out.
           `compat`: as in the code released with CompoFormer, where old heads do not learn and no temperature is used
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.continual.compat import refuse_replaced
from perdure.core.batch import Windows, average
from perdure.core.config import not_negative, positive
from perdure.core.errors import UsageError
from perdure.core.method import Method, MethodConfig, Phase, Step
from perdure.core.policy import ActionDist
from perdure.core.rng import keyed
from perdure.core.task import Task
from perdure.policies.base import TrunkPolicy


@dataclass(frozen=True)
class LwFConfig(MethodConfig):
    """Learning without forgetting."""

    strength: float = 1.0
    """Weight of the old heads' divergence (the paper's lambda_o)."""
    temperature: float = 2.0
    """Divides the logits of discrete actions before they are compared (T, 2 in the paper); means are compared as they are."""
    compat: bool = False
    """As in the code released with CompoFormer: old heads stay as they are and only the trunk answers for them; temperature 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "method", "strength")
        positive(self, "method", "temperature")
        refuse_replaced(self, "temperature")


class LwF(Method):
    """Learning without forgetting."""

    Config = LwFConfig
    tuned = "strength"
    grid = (0.3, 1.0, 3.0, 10.0, 30.0)

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        if not isinstance(self.policy, TrunkPolicy):
            raise UsageError(f"the policy is {type(self.policy).__name__}; lwf needs one with trunk and heads, such as bc or dt")
        self.old: TrunkPolicy | None = None
        """The policy as it was when the present task began."""

    def phases(self, task: Task, access: Any) -> list[Phase]:
        def start() -> None:
            if task.index and self.config.strength:
                self._freeze(self.policy.architecture()).load_state_dict(self.policy.state_dict())
            self.open_task(task, access)
            old = {} if self.config.compat else {n: p for t in self.policy.tasks() for n, p in self.policy.private(t).items()}
            self.optimizer("policy", self.policy.shared() | self.policy.private(task.index) | old)

        def train(step: Step) -> Mapping[str, Tensor]:
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            heads = self._old_heads(batch)
            if self.old is None or not heads:
                return {"fit": self.descend("policy", average(self.policy.loss, batch))}
            fit, apart = self._losses(batch, self.old, heads)
            loss = average(lambda windows: fit + self.config.strength * apart, batch)
            self.descend("policy", loss)
            return {"fit": fit.detach().mean(), "distil": apart.detach().mean()}

        def thaw() -> None:
            self.old = None

        return [Phase("train", self.config.steps, train, begin=start, end=thaw)]

    def _net(self) -> TrunkPolicy:
        return cast(TrunkPolicy, self.policy)

    def _freeze(self, architecture: dict[str, Any]) -> TrunkPolicy:
        """Make the copy; its values come later."""
        with keyed(self.seed, "old"):
            self.old = cast(TrunkPolicy, self.new_policy())
            self.old.rebuild(architecture)
        return self.old.requires_grad_(False).to(next(self.policy.parameters()).device).eval()

    def train(self, mode: bool = True) -> LwF:
        super().train(mode)
        if self.old is not None:
            self.old.eval()  # the copy answers without dropout
        return self

    def _old_heads(self, batch: Windows) -> tuple[int, ...]:
        """One task for each old head of the batch's spaces."""
        if self.old is None:
            return ()
        here = self._net().specs[batch.tasks[0]]
        same = [t for t, spec in self.old.specs.items() if (spec.obs_key, spec.action_key) == (here.obs_key, here.action_key)]
        return tuple({self.old.bank.of_task[t]: t for t in same}.values())

    def _losses(self, batch: Windows, old: TrunkPolicy, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(B,) loss of the task and (B,) summed divergence of the old heads, with one pass through each trunk."""
        net = self._net()
        inputs = net.inputs(batch)
        features = net.features(inputs)
        with torch.no_grad():
            wanted = self._answers(old, old.features(inputs), heads)
        given = self._answers(old if self.config.compat else net, features, heads)
        apart = given.divergence(wanted).sum(-1).view(batch.valid.shape)  # (B * L, K) -> (B, L)
        fit = net.distribution(features, batch.task, batch.tasks).negative_log_likelihood(batch.action)
        steps = batch.valid.sum(-1)
        return (fit * batch.valid).sum(-1) / steps, (apart * batch.valid).sum(-1) / steps

    def _answers(self, policy: TrunkPolicy, features: Tensor, heads: tuple[int, ...]) -> ActionDist:
        """(B, L, D) features -> what all K heads say of each, (B * L, K, ...), by one product for all of them."""
        names = [policy.bank.of_task[t] for t in heads]
        layers = [cast(nn.Linear, policy.bank.heads[name]) for name in names]
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        raw = F.linear(features.flatten(0, 1), weight, bias).unflatten(-1, (len(heads), -1))  # (B * L, K * size) -> (.., K, size)
        if policy.specs[heads[0]].discrete:
            return ActionDist(logits=raw if self.config.compat else raw / self.config.temperature)
        mean = torch.tanh(raw)
        if policy.config.std == "fixed":
            return ActionDist(mean=mean, log_std=torch.zeros_like(mean))
        log_std = torch.stack([policy.log_stds[name] for name in names]).clamp(-5, 2)  # (K, size)
        return ActionDist(mean=mean, log_std=log_std.expand_as(mean))

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"old": None if self.old is None else self.old.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        if architecture["old"] is not None:
            self._freeze(architecture["old"])
