"""Transformer block: against a plain formula, causal, and trimmed exactly."""

import pytest
import torch

from perdure.nets.transformer import Block, state_token_mask


def block(activation="relu", dropout=0.0):
    torch.manual_seed(0)
    return Block(8, 2, dropout, activation, 20)


def plain(net, x):
    """Attention by its formula, one head and one position at a time."""
    _, length, width = x.shape
    q, k, v = net.query_key_value(net.norm_attention(x)).split(width, dim=-1)
    read, size = torch.zeros_like(x), width // net.heads
    for head in range(net.heads):
        at = slice(head * size, (head + 1) * size)
        for t in range(length):
            scores = (q[:, t, at].unsqueeze(1) * k[:, : t + 1, at]).sum(-1) / size**0.5
            read[:, t, at] = (scores.softmax(-1).unsqueeze(-1) * v[:, : t + 1, at]).sum(1)
    x = x + net.project(read)
    return x + net.narrow(net.activation(net.widen(net.norm_mlp(x))))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_it_is_pre_norm_causal_attention(activation):
    net, x = block(activation), torch.randn(3, 7, 8)
    torch.testing.assert_close(net(x), plain(net, x), rtol=1e-5, atol=1e-6)


def test_states_only_equals_the_middle_tokens_of_the_whole_block():
    net, x = block(), torch.randn(3, 12, 8)
    torch.testing.assert_close(net.states_only(x, state_token_mask(4)), net(x)[:, 1::3], rtol=1e-5, atol=1e-6)


def test_mask_of_shorter_windows_is_a_corner_of_the_long_one():
    assert torch.equal(state_token_mask(5)[:2, :6], state_token_mask(2))
    assert state_token_mask(2).tolist() == [
        [True, True, False, False, False, False],
        [True, True, True, True, True, False],
    ]


def test_dropout_acts_in_training_only():
    net, x = block(dropout=0.5), torch.randn(2, 6, 8)
    torch.manual_seed(0)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
