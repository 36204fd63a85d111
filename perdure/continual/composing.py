"""Composing: what a task draws, loses and errs by while its place among earlier modules is learned."""

from __future__ import annotations

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
from perdure.core.spec import Discrete
from perdure.policies.base import TrunkPolicy

HELD_OUT, EPISODES = 4096, 64
"""Windows and episodes at most that an error is measured on."""

LEAST = 0.01
"""Share of the error of a constant action that counts as none."""

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

    def errors(self, predict: Callable[[Windows], Sequence[ActionDist]]) -> Tensor:
        """(M,) held-out error of the actions of each of `predict`'s answers: the geometric mean over episodes of the mean in one.

        Answers are thus compared by the ratio of their errors in each episode, as by likelihood where every episode has noise of
        its own: in data of mixed quality a plain mean would be that of the noisiest episodes, which say least.
        """
        least = LEAST * self._episode_errors(lambda windows: [self.constant(windows)]).mean()
        return self._episode_errors(predict).clamp_min(max(float(least), 1e-12)).log().mean(0).exp()

    @torch.no_grad()
    def _episode_errors(self, predict: Callable[[Windows], Sequence[ActionDist]]) -> Tensor:
        """(E, M) float64, of every answer in every held-out episode."""
        self.policy.eval()
        sampler, held = self.view.sampler, self._held_out()
        wrong, steps = [], []
        for part in held.split(max(1, min(256, AT_ONCE // (self.policy.context * sampler.spec.obs.size)))):
            windows = sampler.windows_at(part, self.policy.context)
            errors = [(way.error(windows.action) * windows.valid).sum(1) for way in predict(windows)]
            wrong.append(torch.stack(errors, 1).double())
            steps.append(windows.valid.sum(1, keepdim=True).double())
        self.policy.train()
        _, episode = sampler.episode[held].unique(return_inverse=True)
        among = one_hot(episode).double().T
        return among @ torch.cat(wrong) / (among @ torch.cat(steps))

    def best_alone(self) -> tuple[Tensor, float]:
        """(M,) weights of the one earlier module whose actions have the lowest held-out error, and that error.

        A mixture of actions has a lower one, because the noise that finished modules fit averages out in it, and acts worse: on
        window-close and push recorded once more (cwpairs-v3), 0.73 and 0.23 success of 30 episodes against 1.00 and 0.87 of the
        one module.
        """
        errors = self.errors(self.parts)
        best = errors.argmin()
        return one_hot(best, len(errors)).float(), float(errors[best])

    def constant(self, windows: Windows) -> ActionDist:
        """The best constant action of the training split."""
        sampler = self.view.sampler
        actions, shape = sampler.action[sampler.starts["train"].step], windows.action.shape
        if isinstance(sampler.spec.action, Discrete):
            return ActionDist(logits=one_hot(actions.mode().values, sampler.spec.action.n).float().expand(*shape, -1))
        return ActionDist(mean=actions.mean(0).expand(shape))

    def _held_out(self) -> Tensor:
        """Flat steps of held-out episodes, evenly spaced where there are many; of the training split where none is held out."""
        sampler = self.view.sampler
        split = sampler.starts["holdout" if len(sampler.starts["holdout"].step) else "train"]
        episode = sampler.episode[split.step]
        return _spaced(split.step[torch.isin(episode, _spaced(episode.unique(), EPISODES))], HELD_OUT)


def _spaced(values: Tensor, most: int) -> Tensor:
    """At most so many of them, evenly spaced."""
    return values[torch.linspace(0, len(values) - 1, min(len(values), most), device=values.device).long()]
