"""Causal transformer blocks: packed projections, fused causal attention, and a last block that computes only what is read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class Block(nn.Module):
    """Pre-norm transformer block (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int, dropout: float, activation: str, hidden: int):
        """`hidden` units in the MLP."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.activation = ACTIVATIONS[activation]
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D), each position reading itself and what is before it."""
        query, key, value = self._split(self.query_key_value(self.norm_attention(x)), 3)
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._rest(x, read)

    def states_only(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, 3L, D) -> (B, L, D): only the middle token of each triple is computed. `mask` (L, 3L) bool: what it may read."""
        width = x.shape[-1]
        normed = self.norm_attention(x)
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        (query,) = self._split(F.linear(normed[:, 1::3], weight[:width], bias[:width]), 1)
        key, value = self._split(F.linear(normed, weight[width:], bias[width:]), 2)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self._rest(x[:, 1::3], read)

    def _split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        batch, length, size = packed.shape
        # (B, S, parts * D) -> (parts, B, heads, S, D / heads)
        return packed.view(batch, length, parts, self.heads, size // parts // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def _rest(self, x: Tensor, read: Tensor) -> Tensor:
        joined = read.transpose(1, 2).flatten(2)  # (B, heads, S, D / heads) -> (B, S, D)
        x = x + F.dropout(self.project(joined), self.dropout, self.training)
        hidden = self.activation(self.widen(self.norm_mlp(x)))
        return x + F.dropout(self.narrow(hidden), self.dropout, self.training)


def state_token_mask(length: int) -> Tensor:
    """(L, 3L) bool: the state token of step i (position 3i + 1) may read positions 0 to 3i + 1."""
    return torch.arange(3 * length).unsqueeze(0) <= 3 * torch.arange(length).unsqueeze(1) + 1
