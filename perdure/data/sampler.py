"""Windows and transitions of one dataset by one gather from flat arrays on the training device.

Everything that does not depend on the draw (returns-to-go, time steps, scaled actions, episode ends) is computed
once when a task is opened.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from perdure.core.batch import Transitions, Windows
from perdure.core.spec import Box, Spec
from perdure.core.task import Data

Split = Literal["train", "holdout", "all"]
Draw = Literal["steps", "episodes"]


def scale_action(action: Tensor, spec: Spec) -> Tensor:
    """(…, A) environment units -> [-1, 1] by the bounds; discrete actions stay as they are."""
    if not isinstance(spec.action, Box):
        return action
    low, high = (torch.tensor(b, dtype=torch.float32, device=action.device) for b in (spec.action.low, spec.action.high))
    return (action - low) / (high - low) * 2 - 1


def unscale_action(action: Tensor, spec: Spec) -> Tensor:
    """(…, A) in [-1, 1] -> environment units within the bounds."""
    if not isinstance(spec.action, Box):
        return action
    low, high = (torch.tensor(b, dtype=torch.float32, device=action.device) for b in (spec.action.low, spec.action.high))
    return torch.minimum(torch.maximum((action + 1) / 2 * (high - low) + low, low), high)


@dataclass(frozen=True)
class Starts:
    """The steps at which a window may start, and the first of them and the number per episode."""

    step: Tensor
    """(K,) int64 flat step indices of the split."""
    first: Tensor
    """(E',) int64 first flat step of each episode of the split."""
    length: Tensor
    """(E',) int64."""


class Sampler:
    """Keyed random windows and transitions of one task's dataset."""

    def __init__(self, data: Data, task: int, device: str | torch.device = "cpu"):
        self.task = task
        self.device = torch.device(device)
        self.spec = data.spec
        self.stack = data.spec.obs.stack
        self.spaces = data.spec.key + (f" stack {self.stack}" if self.stack > 1 else "")
        lengths = np.asarray(data.lengths, dtype=np.int64)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        episode = np.repeat(np.arange(len(lengths)), lengths)
        rewards = data.array("rewards").astype(np.float64)
        total = np.cumsum(rewards)
        before = total[ends - 1][episode]
        return_to_go = before - total + rewards

        def put(array: np.ndarray, kind: torch.dtype) -> Tensor:
            return torch.tensor(array, dtype=kind, device=self.device)  # a copy: the array is a read-only map

        images = data.spec.obs.dtype == "uint8"
        self.obs = self._images(data) if images else put(data.array("observations"), torch.float32)
        """(S + E, *F) frames as stored; `_seen` makes observations of them."""
        actions = put(data.array("actions"), torch.int64 if data.spec.discrete else torch.float32)
        self.action = scale_action(actions, data.spec)
        self.reward = put(rewards, torch.float32)
        self.return_to_go = put(return_to_go, torch.float32)
        self.timestep = put(np.arange(ends[-1]) - starts[episode], torch.int64)
        self.terminated = put(data.array("terminated"), torch.bool)
        self.truncated = put(data.array("truncated"), torch.bool)
        self.end = put(ends[episode], torch.int64)
        """(S,) flat index one past the last step of each step's episode."""
        self.episode = put(episode, torch.int64)
        """(S,) also the shift from step to observation: an episode has one observation more than steps."""
        self.derived: dict[str, Tensor] = {}
        """(S,) values of every step that a policy works out of the data; windows carry those of their first step in `extra`."""
        splits: tuple[Split, ...] = ("train", "holdout", "all")
        self.starts = {split: self._starts(data, split, starts, lengths) for split in splits}

    def _images(self, data: Data) -> Tensor:
        """The frames; on the CPU the memory map itself, which is only ever read."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(data.array("observations")).to(self.device)

    def _seen(self, index: Tensor, start: Tensor) -> Tensor:
        """Observations (B*L, *O) at flat frame positions (B*L,), of windows that start at the flat steps (B,)."""
        if self.stack == 1:
            return self.obs.index_select(0, index)
        first = (start + self.episode[start] - self.timestep[start]).repeat_interleave(len(index) // len(start))
        back = torch.arange(1 - self.stack, 1, device=self.device)
        frames = torch.maximum(index.unsqueeze(1) + back, first.unsqueeze(1))  # (B*L, stack), oldest first
        return self.obs.index_select(0, frames.view(-1)).view(-1, *self.spec.obs.shape)

    def _starts(self, data: Data, split: Split, starts: np.ndarray, lengths: np.ndarray) -> Starts:
        chosen = np.asarray(data.episodes(split), dtype=np.int64)
        steps = [np.arange(starts[e], starts[e] + lengths[e]) for e in chosen]
        flat = np.concatenate(steps) if steps else np.zeros(0, dtype=np.int64)
        tensors = (torch.from_numpy(a).to(self.device) for a in (flat, starts[chosen], lengths[chosen]))
        return Starts(*tensors)

    def count(self, split: Split = "train") -> int:
        """Transitions in a split."""
        return len(self.starts[split].step)

    def draw_steps(self, n: int, g: Generator, split: Split = "train", by: Draw = "steps") -> Tensor:
        """(n,) flat step indices: `steps` is uniform over steps (so episodes count by length), `episodes` over episodes."""
        starts = self.starts[split]
        if by == "steps":
            return starts.step[torch.randint(len(starts.step), (n,), generator=g, device=self.device)]
        episode = torch.randint(len(starts.first), (n,), generator=g, device=self.device)
        share = torch.rand(n, generator=g, device=self.device, dtype=torch.float64)
        return starts.first[episode] + (share * starts.length[episode]).long()

    def windows(self, length: int, n: int, g: Generator, split: Split = "train", by: Draw = "steps") -> Windows:
        """n windows of `length` steps, starting at random steps and right-padded past the end of the episode."""
        return self.windows_at(self.draw_steps(n, g, split, by), length)

    def windows_at(self, start: Tensor, length: int) -> Windows:
        """Windows that start at the given flat steps (B,)."""
        n = len(start)
        end, shift = self.end.index_select(0, start), self.episode.index_select(0, start)
        if length == 1:
            step, obs_index = start, start + shift
            valid = torch.ones(n, 1, dtype=torch.bool, device=self.device)
        else:
            steps = start.unsqueeze(1) + torch.arange(length, device=self.device)  # (B, L)
            valid = steps < end.unsqueeze(1)
            steps = torch.minimum(steps, (end - 1).unsqueeze(1))
            step, obs_index = steps.view(-1), (steps + shift.unsqueeze(1)).view(-1)
        last = torch.minimum(start + length, end)

        def take(values: Tensor) -> Tensor:
            return values.index_select(0, step).view(n, length, *values.shape[1:])  # (B*L, ...) -> (B, L, ...)

        return Windows(
            obs=self._seen(obs_index, start).view(n, length, *self.spec.obs.shape),
            action=take(self.action),
            reward=take(self.reward),
            return_to_go=take(self.return_to_go),
            timestep=take(self.timestep),
            terminated=take(self.terminated),
            truncated=take(self.truncated),
            valid=valid,
            last_obs=self._seen(last + shift, start),
            task=torch.full((n,), self.task, device=self.device),
            weight=torch.ones(n, device=self.device),
            tasks=(self.task,),
            spaces=self.spaces,
            extra={name: values.index_select(0, start) for name, values in self.derived.items()},
        )

    def transitions(self, n: int, g: Generator, split: Split = "train", by: Draw = "steps") -> Transitions:
        """n single transitions."""
        return self.transitions_at(self.draw_steps(n, g, split, by))

    def transitions_at(self, step: Tensor) -> Transitions:
        """Transitions at the given flat steps (B,)."""
        index = step + self.episode[step]
        return Transitions(
            obs=self._seen(index, step),
            action=self.action[step],
            reward=self.reward[step],
            next_obs=self._seen(index + 1, step),
            terminated=self.terminated[step],
            task=torch.full((len(step),), self.task, device=self.device),
            weight=torch.ones(len(step), device=self.device),
            tasks=(self.task,),
            spaces=self.spaces,
        )
