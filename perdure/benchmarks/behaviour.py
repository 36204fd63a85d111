"""Behaviour policies that ship with the package: small networks trained with PPO by `tools/train_behaviour.py`.

A network sees an observation and what is asked for, and gives the mean of a Gaussian over actions, from which it acts; its
checkpoints of one training lie in one file. NumPy only, so that collecting data needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError, nearest
from perdure.core.files import read_json

FOLDER = Path(__file__).parent / "behaviours"

CARD = FOLDER / "card.json"

LIMIT = 10.0
"""Normalised inputs are clipped to this, as in training."""


@cache
def card() -> dict[str, Any]:
    """By training: its settings, and for every checkpoint the environment steps behind it and the returns that it reaches."""
    return read_json(CARD)


def facts(training: str) -> dict[str, Any]:
    """What the card says of one training.

    Raises:
        UsageError: the package has no such training.
    """
    known = card()["trainings"]
    if training not in known:
        raise UsageError(f"there are no behaviour policies '{training}'{nearest(training, known)}; known: {', '.join(known)}")
    return known[training]


@cache
def _weights(training: str) -> Mapping[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(FOLDER / f"{training}.safetensors")


class Network:
    """One checkpoint."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """`mean` and `std` (I,) of the inputs, `weight_i` (in, out) and `bias_i` (out,) of every layer, `log_std` (A,)."""
        doubles = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
        self.mean, self.std, self.deviation = doubles["mean"], doubles["std"], np.exp(doubles["log_std"])
        count = sum(name.startswith("weight_") for name in doubles)
        self.layers = [(doubles[f"weight_{i}"], doubles[f"bias_{i}"]) for i in range(count)]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """(I,) -> (A,), the mean of the action, which may leave the bounds."""
        x = np.clip((inputs - self.mean) / self.std, -LIMIT, LIMIT)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self.layers[-1]
        return x @ weight + bias


def network(training: str, checkpoint: str) -> Network:
    """A checkpoint of a training.

    Raises:
        UsageError: there is none of that name.
    """
    known = facts(training)["checkpoints"]
    if checkpoint not in known:
        raise UsageError(f"the training {training} has no checkpoint '{checkpoint}'; known: {', '.join(known)}")
    prefix = f"{checkpoint}."
    arrays = {name.removeprefix(prefix): value for name, value in _weights(training).items() if name.startswith(prefix)}
    return Network(arrays)


def player(act: Network, aim: tuple[float, ...], env: Any, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Acts in `env`, which has `steps` and `episode`: a sample of the network's actions, keyed by the episode's number.

    Args:
        aim: what is asked for; the network's inputs after the observation.
        size: numbers of the observation that the network reads, the first ones.
    """
    wanted = np.asarray(aim, np.float64)
    rng = np.random.default_rng(0)

    def expert(obs: np.ndarray) -> np.ndarray:
        nonlocal rng
        if env.steps == 0:
            rng = np.random.default_rng(env.episode)
        mean = act(np.concatenate([obs[:size].astype(np.float64), wanted]))
        return mean + act.deviation * rng.standard_normal(len(mean))

    return expert
