"""Composing: what a task draws, loses and errs by while its place among earlier modules is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from perdure.continual.composition import Composition, Stack, features_of, mixed
from perdure.continual.earlier_features import EarlierFeatures
from perdure.core.batch import Windows, average
from perdure.core.method import Step
from perdure.core.policy import ActionDist, Weights, loss_of
from perdure.policies.base import TrunkPolicy

HELD_OUT = 4096
"""Windows at most that an error is measured on."""

BEST = 1 / 3
"""Share of the held-out episodes that errors are measured on, those of the highest return: what the task is to do, and where data
are of mixed quality the actions with the least noise."""

AT_ONCE = 2**22
"""Numbers of the observations in one forward pass of it."""

EARLIER = "earlier"
"""What a batch calls the mixture of the features of earlier modules."""


class Composing:
    """Of one task. What it holds follows from finished modules and is made when a process first needs it."""

    def __init__(self, policy: TrunkPolicy, composition: Composition, access: Any, stack: Callable[[Sequence[int]], Stack],
                 batch: int, cache_bytes: int):
        """`stack` makes the stack of these tasks' modules; the cache of what they make of the data has `cache_bytes`."""
        self.policy, self.composition, self.task = policy, composition, access.index
        self.view, self.batch, self.cache_bytes = access.current, batch, cache_bytes
        self.new_stack = stack
        self.stack: Stack | None = None
        self.cache: EarlierFeatures | None = None

    def features(self, windows: Windows) -> dict[int, Tensor]:
        """What every module before the task makes of them."""
        if self.stack is None:
            self.stack = self.new_stack(self.composition.sources[self.task])
        return self.stack.features(self.policy, self.policy.inputs(windows))

    def parts(self, windows: Windows) -> list[ActionDist]:
        """What each of these modules would do."""
        return self.composition.parts(self.policy, self.task, self.features(windows), windows)

    def mixture(self, windows: Windows) -> ActionDist:
        """What the task does without a module of its own."""
        return self.composition.mixture(self.policy, self.task, self.features(windows), windows)

    def mixture_loss(self, step: Step, weights: Tensor) -> Tensor:
        """Of the actions of earlier modules with these weights, through which alone gradients flow."""
        windows = self.view.windows(self.policy.context, self.batch, step)
        with torch.no_grad():
            parts = self.parts(windows)
        return average(lambda batch: loss_of(mixed(parts, weights), batch), windows)

    def draw(self, step: Step) -> Windows:
        """A batch with what earlier modules make of it, where the task's own reads that."""
        start = self.view.draw_steps(self.batch, step)
        windows = self.view.sampler.windows_at(start, self.policy.context)
        if not self.composition.leans(self.task):
            return windows
        if self.cache is None:
            self.cache = EarlierFeatures(self.view.sampler, self.policy.context, self._earlier, self.cache_bytes)
        return replace(windows, extra={EARLIER: self.cache.of(start, windows)})

    def _earlier(self, windows: Windows) -> Tensor:
        return self.composition.earlier(self.task, self.features(windows))

    def loss(self, batch: Windows, weights: Weights) -> Tensor:
        """(B,) of what `draw` drew, by the task's own module, which sees `weights`."""
        own = features_of(self.policy, self.policy.inputs(batch), weights)
        return loss_of(self.composition.joined(self.policy, self.task, batch.extra.get(EARLIER), own, batch), batch)

    @torch.no_grad()
    def errors(self, predict: Callable[[Windows], Sequence[ActionDist]]) -> Tensor:
        """(M,) mean held-out error of the actions of each of `predict`'s answers."""
        self.policy.eval()
        wrong, count = [], 0
        one = self.policy.context * self.view.sampler.spec.obs.size
        for part in self._held_out().split(max(1, min(256, AT_ONCE // one))):
            windows = self.view.sampler.windows_at(part, self.policy.context)
            wrong.append(torch.stack([(way.error(windows.action) * windows.valid).sum() for way in predict(windows)]).double())
            count += int(windows.valid.sum())
        self.policy.train()
        return torch.stack(wrong).sum(0) / count

    def best_alone(self) -> tuple[Tensor, float]:
        """(M,) weights of the one earlier module whose actions have the lowest held-out error, and that error.

        A mixture of actions has a lower one, because the noise that finished modules fit averages out in it, and acts worse: on
        window-close and push recorded once more (cwpairs-v3), 0.73 and 0.23 success of 30 episodes against 1.00 and 0.87 of the
        one module.
        """
        errors = self.errors(self.parts)
        best = errors.argmin()
        return one_hot(best, len(errors)).float(), float(errors[best])

    def constant_error(self) -> float:
        """Held-out error of the best constant action of the training split."""
        sampler = self.view.sampler
        train, held = sampler.action[sampler.starts["train"].step], sampler.action[self._held_out()]
        if sampler.spec.discrete:
            return float((held != train.mode().values).double().mean())
        return float((held - train.mean(0)).double().square().mean())

    def _held_out(self) -> Tensor:
        """Flat steps of the best held-out episodes, evenly spaced where there are many; of the training split where none is held
        out."""
        sampler = self.view.sampler
        split = sampler.starts["holdout" if len(sampler.starts["holdout"].step) else "train"]
        episode = sampler.episode[split.step]
        present = episode.unique()
        returns = torch.as_tensor(self.view.task.data.returns, device=present.device)[present]
        best = present[returns.argsort(descending=True, stable=True)[: math.ceil(BEST * len(present))]]
        steps = split.step[torch.isin(episode, best)]
        return steps[torch.linspace(0, len(steps) - 1, min(len(steps), HELD_OUT), device=steps.device).long()]
