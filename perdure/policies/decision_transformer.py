"""dt: Decision Transformer, a causal transformer over (return-to-go, observation, action) triples.

Paper      Chen et al. 2021 (arXiv 2106.01345), sec. 3; sizes of the `paper` profile as in the code of CompoFormer (Hu et al.
           2024, arXiv 2411.11364)
Objective  negative log-likelihood of the logged action, read from the observation token of each step
Differs    windows are right-padded, so the causal flag replaces mask tensors; the last block computes only the tokens that
           are read; no dropout inside attention; return scale and target per task come from the data (95 % quantile of the
           returns), where the code above divides all tasks by 1000 and asks for 4500; the time-step embedding is trained; the
           loss is half the squared error summed over action channels and averaged over each window's own steps, where the paper
           averages over all valid steps and channels of a batch (a factor that matters to the clipping only)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn

from perdure.core.batch import Windows
from perdure.core.config import one_or_more
from perdure.core.errors import UsageError
from perdure.core.policy import Carry, Weights
from perdure.core.spec import Discrete, Spec
from perdure.data.sampler import unscale_action
from perdure.nets.transformer import ACTIVATIONS, Block, state_token_mask
from perdure.policies.base import Inputs, PolicyConfig, TrunkPolicy

ENCODED = "encoded"
"""What an actor calls the encoded images in its carry and its batches."""


@dataclass(frozen=True)
class DTConfig(PolicyConfig):
    """Decision Transformer."""

    width: int = 64
    """Size of a token."""
    layers: int = 2
    """Transformer blocks."""
    attention_heads: int = 2
    """Per block."""
    context: int = 10
    """Steps of history in the window (three tokens each)."""
    dropout: float = 0.1
    """After attention and MLP."""
    activation: Literal["relu", "gelu"] = "relu"
    """Inside the MLP."""
    mlp_width: int = 0
    """Units inside the MLP; 0: four times the width."""
    longest_episode: int = 1000
    """Time steps with an embedding of their own; later ones share the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_or_more(self, "policy", "width", "layers", "attention_heads", "context", "longest_episode")
        if self.mlp_width < 0:
            raise UsageError(f"policy.mlp_width is {self.mlp_width}; give 1 or more, or 0 for four times the width")
        if self.width % self.attention_heads:
            raise UsageError(f"policy.width is {self.width} and policy.attention_heads {self.attention_heads}; the width must be"
                             " a multiple of the heads")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"policy.dropout is {self.dropout}; give 0 or a share below 1")
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"policy.activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}")


class DecisionTransformer(TrunkPolicy):
    """Return-conditioned sequence policy."""

    Config = DTConfig
    return_conditioned = True
    PROFILES: dict[str, dict[str, dict[str, Any]]] = {
        "cpu": {"policy": {}, "training": {"steps": 5000, "batch": 32, "learning_rate": 1e-3, "clip": 0.25}},
        "paper": {
            # code of CompoFormer: dt/, runs/cw10.sh
            "policy": {"width": 256, "layers": 6, "attention_heads": 8, "context": 20},
            "training": {"steps": 50_000, "batch": 32, "learning_rate": 1e-4, "weight_decay": 1e-4, "clip": 0.25},
        },
    }

    def __init__(self, config: DTConfig):
        super().__init__(config, config.width)
        self.context = config.context
        width = config.width
        self.embed_return = nn.Linear(1, width)
        self.embed_time = nn.Embedding(config.longest_episode, width)
        nn.init.normal_(self.embed_time.weight, std=0.02)
        self.embed_actions = nn.ModuleDict()
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, config.attention_heads, config.dropout, config.activation, config.mlp_width or 4 * width)
            for _ in range(config.layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.may_read: Tensor
        self.register_buffer("may_read", state_token_mask(config.context), persistent=False)

    def _open(self, task: int, spec: Spec) -> None:
        super()._open(task, spec)
        if spec.action_key not in self.embed_actions:
            size = spec.action
            self.embed_actions[spec.action_key] = (
                nn.Embedding(size.n, self.width) if isinstance(size, Discrete) else nn.Linear(size.size, self.width)
            )

    def inputs(self, batch: Windows) -> Inputs:
        scale = self._scales(batch.task, batch.tasks)
        return Inputs(self._normalised(batch.obs, batch.task, batch.tasks), self.specs[batch.tasks[0]], batch.action,
                      batch.return_to_go / scale, batch.timestep, batch.extra.get(ENCODED))

    def hidden(self, inputs: Inputs, lateral: Sequence[Tensor] | None = None) -> list[Tensor]:
        assert inputs.returns is not None and inputs.timestep is not None
        length = inputs.timestep.shape[1]
        # three tokens (B, L, D) per step -> (B, 3L, D), in the order return, observation, action
        tokens = torch.stack([
            self.embed_return(inputs.returns.unsqueeze(-1)),
            self.encoders[inputs.spec.obs_key](inputs.obs) if inputs.encoded is None else inputs.encoded,
            self.embed_actions[inputs.spec.action_key](inputs.action),
        ], dim=2)  # fmt: skip
        time = self.embed_time(inputs.timestep.clamp(max=self.config.longest_episode - 1))
        x = self.norm_in((tokens + time.unsqueeze(2)).flatten(1, 2))
        outputs = [x]
        for block in self.blocks[:-1]:
            x = block(x) if lateral is None else block(x) + lateral[len(outputs) - 1]
            outputs.append(x)
        outputs[-1] = x[:, 1::3]  # (B, 3L, D) -> (B, L, D): the last block computes only the observation tokens
        states = cast(Block, self.blocks[-1]).states_only(x, self.may_read[:length, : 3 * length])
        features = self.norm_out(states if lateral is None else states + lateral[-2])
        return [*outputs, features if lateral is None else features + lateral[-1]]

    def hidden_widths(self) -> list[int]:
        return [self.width] * (self.config.layers + 1)

    def _scales(self, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """Return scale of each sample, (B, 1), or one number for a single task."""
        if len(tasks) == 1:
            return self.get_buffer(f"returns_{tasks[0]}")[0]
        lookup = torch.zeros(max(tasks) + 1, dtype=torch.int64, device=task.device)
        lookup[torch.tensor(tasks, device=task.device)] = torch.arange(len(tasks), device=task.device)
        return torch.stack([self.get_buffer(f"returns_{t}")[0] for t in tasks])[lookup[task]].unsqueeze(1)

    def actor(self, task: int | None, weights: Weights | None = None) -> DTActor:
        if task is None:
            task = self.tasks()[-1]
        return DTActor(self.folded(weights), task)


class DTActor:
    """Reads the last `context` steps again at every step, which is exact; the carry holds them, images as the encoder made
    them (a convolution costs more than all else)."""

    def __init__(self, policy: DecisionTransformer, task: int):
        self.policy, self.task = policy, task
        self.spec = policy.specs[task]
        plain = policy.side is None and policy.composed is None  # what is added inside may read the images
        encodes = self.spec.obs.dtype == "uint8" and plain
        self.seen = ENCODED if encodes else "obs"

    def start(self, n: int) -> Carry:
        device, length = self.policy.may_read.device, self.policy.context
        discrete = self.spec.discrete
        action = (n, length) if discrete else (n, length, self.spec.action.size)
        shape = (self.policy.width,) if self.seen == ENCODED else self.spec.obs.shape
        kind = torch.uint8 if self.spec.obs.dtype == "uint8" and self.seen == "obs" else torch.float32
        return {
            self.seen: torch.zeros(n, length, *shape, dtype=kind, device=device),
            "action": torch.zeros(action, dtype=torch.int64 if discrete else torch.float32, device=device),
            "return_to_go": torch.zeros(n, length, device=device),
            "timestep": torch.zeros(n, length, dtype=torch.int64, device=device),
            "target": torch.full((n,), self.policy.target_return(self.task), device=device),
            "elapsed": torch.zeros(n, dtype=torch.int64, device=device),
        }

    @torch.no_grad()
    def act(self, obs: Tensor, carry: Carry, g: Generator, reward: Tensor | None = None) -> tuple[Tensor, Carry]:
        n, length = len(obs), self.policy.context
        rows = torch.arange(n, device=obs.device)
        elapsed = carry["elapsed"]
        target = carry["target"] if reward is None else carry["target"] - reward * (elapsed > 0)
        place = elapsed.clamp(max=length - 1)
        full = elapsed >= length
        seen = self.policy.encoders[self.spec.obs_key](obs) if self.seen == ENCODED else obs
        new = {self.seen: seen, "return_to_go": target, "timestep": elapsed}
        window = {}
        for name in (self.seen, "action", "return_to_go", "timestep"):
            old = carry[name]
            shift = full.view(n, *[1] * (old.dim() - 1))
            window[name] = torch.where(shift, old.roll(-1, dims=1), old)  # full windows drop their first step
        for name, value in new.items():
            window[name][rows, place] = value.to(window[name].dtype)
        task = torch.full((n,), self.task, device=obs.device)
        batch = _windows(window, task, self.task)
        out = self.policy(batch).best()[rows, place]
        window["action"][rows, place] = out
        return unscale_action(out, self.spec), window | {"target": target, "elapsed": elapsed + 1}

def _windows(window: Carry, task: Tensor, index: int) -> Windows:
    """A batch with the fields that the policy reads; the others are not known while acting."""
    n, length = window["timestep"].shape
    empty = torch.zeros(n, length, dtype=torch.bool, device=task.device)
    encoded = {ENCODED: window[ENCODED]} if ENCODED in window else {}
    obs = torch.zeros(n, length, 0, dtype=torch.uint8, device=task.device) if encoded else window["obs"]
    return Windows(
        obs=obs, action=window["action"], reward=window["return_to_go"], return_to_go=window["return_to_go"],
        timestep=window["timestep"], terminated=empty, truncated=empty, valid=~empty, last_obs=obs[:, -1],
        task=task, weight=torch.ones(n, device=task.device), tasks=(index,), extra=encoded,
    )  # fmt: skip

