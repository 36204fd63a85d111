"""Plain variants of what the library does fast, written from the published algorithms. Nothing here is third-party code.

They are the other side of every ratio, so they do the same work and give the same numbers (checked before timing), in
the way the publications describe it: one window, one environment, one sample at a time, and no fused operation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.core.batch import Windows, map_fields
from perdure.core.policy import Policy
from perdure.core.spec import Box
from perdure.core.task import Data
from perdure.data.sampler import unscale_action
from perdure.nets.transformer import Block
from perdure.policies.decision_transformer import DecisionTransformer

FIELDS = ("obs", "action", "reward", "return_to_go", "timestep", "terminated", "truncated", "valid", "last_obs")


class PythonSampler:
    """The sampler of the Decision Transformer's code (Chen et al. 2021, arXiv 2106.01345): one window after the other.

    Every window is cut from its trajectory, its returns-to-go are summed up to the end of the episode, and it is padded;
    at the end all are joined.
    """

    def __init__(self, data: Data):
        lengths = np.asarray(data.lengths)
        ends = np.cumsum(lengths)
        cut = list(zip(ends - lengths, ends, strict=True))
        observations = np.asarray(data.array("observations"))
        self.observations = [observations[a + e : b + e + 1] for e, (a, b) in enumerate(cut)]
        self.actions, self.rewards, self.terminated, self.truncated = (
            [np.asarray(data.array(name))[a:b] for a, b in cut] for name in ("actions", "rewards", "terminated", "truncated")
        )
        self.train = np.asarray(data.episodes("train"))
        self.share = lengths[self.train] / lengths[self.train].sum()
        box = cast(Box, data.spec.action)
        self.low, self.high = np.asarray(box.low, dtype=np.float32), np.asarray(box.high, dtype=np.float32)

    def draw(self, n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """n pairs of episode (by length) and first step."""
        episodes = rng.choice(self.train, size=n, p=self.share)
        return [(int(e), int(rng.integers(len(self.rewards[e])))) for e in episodes]

    def windows(self, places: list[tuple[int, int]], length: int) -> dict[str, Tensor]:
        """Windows that start at the given places, with the fields of `perdure.core.batch.Windows`."""
        rows: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
        for episode, start in places:
            reward = self.rewards[episode][start : start + length]
            missing = length - len(reward)
            action = (self.actions[episode][start : start + length] - self.low) / (self.high - self.low) * 2 - 1
            obs = self.observations[episode][start : start + len(reward)]
            to_go = returns_to_go(self.rewards[episode][start:])[:length]
            rows["obs"].append(np.concatenate([obs, np.zeros((missing, *obs.shape[1:]), dtype=np.float32)]))
            rows["action"].append(np.concatenate([action, np.zeros((missing, action.shape[1]), dtype=np.float32)]))
            rows["reward"].append(np.concatenate([reward, np.zeros(missing, dtype=np.float32)]))
            rows["return_to_go"].append(np.concatenate([to_go, np.zeros(missing)]))
            for name, flags in (("terminated", self.terminated), ("truncated", self.truncated)):
                rows[name].append(np.concatenate([flags[episode][start : start + length], np.zeros(missing, dtype=bool)]))
            rows["last_obs"].append(self.observations[episode][start + len(reward)])
            rows["timestep"].append(np.concatenate([np.arange(start, start + len(reward)), np.zeros(missing, dtype=np.int64)]))
            rows["valid"].append(np.concatenate([np.ones(len(reward), dtype=bool), np.zeros(missing, dtype=bool)]))
        tensors = {name: torch.from_numpy(np.stack(values)) for name, values in rows.items()}
        return tensors | {"return_to_go": tensors["return_to_go"].float()}


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """(T,) -> (T,) undiscounted sums to the end, by the loop of the published sampler."""
    total = np.zeros(len(rewards))
    total[-1] = rewards[-1]
    for step in reversed(range(len(rewards) - 1)):
        total[step] = rewards[step] + total[step + 1]
    return total


class PlainTransformer:
    """The forward pass of arXiv 2106.01345 with the weights of the library's `dt`, without its shortcuts.

    Separate query, key and value products, attention written out with a mask tensor, dropout on attention weights as in
    GPT-2, and every block computes all tokens, of which only the observations' are read.
    """

    def __init__(self, policy: DecisionTransformer, task: int):
        self.policy, self.task, self.spec = policy, task, policy.specs[task]

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, L, A) actions in [-1, 1] from obs, action, return_to_go (B, L, ...) and timestep (B, L)."""
        p, t = self.policy, self.task
        mean, std = p.normalizer.get_buffer(f"mean_{t}"), p.normalizer.get_buffer(f"std_{t}")
        obs = ((batch["obs"] - mean) / std).clamp(-p.normalizer.LIMIT, p.normalizer.LIMIT)
        time = p.embed_time(batch["timestep"].clamp(max=p.config.longest_episode - 1))
        returns = p.embed_return((batch["return_to_go"] / p.return_scale(t)).unsqueeze(-1)) + time
        states = p.encoders[self.spec.obs_key](obs) + time
        actions = p.embed_actions[self.spec.action_key](batch["action"]) + time
        # (B, 3, L, D) -> (B, 3L, D)
        x = p.norm_in(torch.stack([returns, states, actions], dim=1).permute(0, 2, 1, 3).flatten(1, 2))
        size = x.shape[1]
        mask = torch.tril(torch.ones(size, size, dtype=torch.bool, device=x.device))
        for block in p.blocks:
            x = self._block(cast(Block, block), x, mask)
        x = p.norm_out(x).view(len(x), -1, 3, x.shape[-1]).permute(0, 2, 1, 3)
        return torch.tanh(p.bank.heads[p.bank.of_task[t]](x[:, 1]))

    def _block(self, block: Block, x: Tensor, mask: Tensor) -> Tensor:
        width, training = x.shape[-1], block.training
        normed = block.norm_attention(x)
        weights, biases = block.query_key_value.weight.chunk(3), block.query_key_value.bias.chunk(3)
        query, key, value = (
            F.linear(normed, w, b).view(*x.shape[:2], block.heads, -1).transpose(1, 2)
            for w, b in zip(weights, biases, strict=True)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // block.heads)
        scores = torch.where(mask, scores, torch.full_like(scores, torch.finfo(scores.dtype).min))
        attention = F.dropout(scores.softmax(-1), block.dropout, training)
        joined = (attention @ value).transpose(1, 2).reshape(x.shape)
        x = x + F.dropout(block.project(joined), block.dropout, training)
        hidden = block.activation(block.widen(block.norm_mlp(x)))
        return x + F.dropout(block.narrow(hidden), block.dropout, training)


class OneAtATime:
    """Acting in one environment as in the evaluation of arXiv 2106.01345: the history grows by concatenation, its last
    `context` steps are cut out, padded and encoded for every action."""

    def __init__(self, policy: DecisionTransformer, task: int):
        self.forward, self.spec, self.context = PlainTransformer(policy, task), policy.specs[task], policy.context
        self.obs = torch.zeros(0, *self.spec.obs.shape)
        self.action = torch.zeros(0, *cast(Box, self.spec.action).shape)
        self.return_to_go = torch.zeros(0)
        self.target = policy.target_return(task)

    @torch.no_grad()
    def act(self, obs: Tensor, reward: float) -> Tensor:
        """(A,) environment units, for obs (*O) and the reward of the previous step."""
        if len(self.obs):
            self.target -= reward
        self.obs = torch.cat([self.obs, obs.unsqueeze(0)])
        self.action = torch.cat([self.action, torch.zeros(1, self.action.shape[1])])
        self.return_to_go = torch.cat([self.return_to_go, torch.tensor([self.target])])
        steps = torch.arange(len(self.obs))
        cut = {"obs": self.obs, "action": self.action, "return_to_go": self.return_to_go, "timestep": steps}
        window = {name: value[-self.context :] for name, value in cut.items()}
        missing = self.context - len(window["obs"])
        padded = {name: torch.cat([v, v.new_zeros(missing, *v.shape[1:])]).unsqueeze(0) for name, v in window.items()}
        chosen = self.forward(padded)[0, self.context - missing - 1]
        self.action[-1] = chosen
        return unscale_action(chosen, self.spec)


def fisher_loop(policy: Policy, batch: Windows, names: list[str], empirical: bool) -> dict[str, Tensor]:
    """Mean squared gradient of each sample, one backward pass per sample and action channel (Kirkpatrick et al. 2017)."""
    parameters = dict(policy.named_parameters())
    chosen = [parameters[name] for name in names]
    total = [torch.zeros_like(p) for p in chosen]
    for i in range(len(batch)):
        row = slice(i, i + 1)
        one: Windows = map_fields(batch, lambda tensor, row=row: tensor[row])  # type: ignore[misc]
        output = policy(one).mean
        scalars = [0.5 * (output - one.action).square().sum()] if empirical else list(output[0, 0])
        for place, scalar in enumerate(scalars):
            gradients = torch.autograd.grad(scalar, chosen, retain_graph=place + 1 < len(scalars), allow_unused=True)
            for sum_, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    sum_ += gradient**2
    return {name: value / len(batch) for name, value in zip(names, total, strict=True)}


def penalty_by_autograd(parameters: Mapping[str, Tensor], anchors: Mapping[str, Tensor], importances: Mapping[str, Tensor],
                        strength: float) -> None:
    """Add the gradient of strength/2 * sum F (theta - anchor)^2 by building the penalty and calling backward."""
    loss = torch.zeros((), device=next(iter(anchors.values())).device)
    for name, anchor in anchors.items():
        loss = loss + (importances[name] * (parameters[name] - anchor) ** 2).sum()
    (strength / 2 * loss).backward()


def plain_adamw(parameters: Any, **recipe: Any) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) as a loop over tensors, without fused kernels."""
    return torch.optim.AdamW(parameters, fused=False, foreach=False, **recipe)
