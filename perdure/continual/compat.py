"""What `compat` options share: importances as the code released with CompoFormer takes them, and what becomes of other options.

An option whose released value can be written as a value of its own is set to it, so that the config says what runs
(`set_released`); one that the released code has no place for must be left out (`refuse_replaced`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from perdure.core.batch import Windows
from perdure.core.errors import UsageError
from perdure.core.method import MethodConfig
from perdure.core.policy import Policy

RELEASED_WINDOWS = 32
"""Windows of the one batch that importances come from in that code."""


def batch_gradient(policy: Policy, batch: Windows, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the batch's mean error over valid steps and channels (likelihood of discrete actions), dropout as it is.

    Its square and its magnitude are the importances of that code; at a minimum both are about 0.
    """
    out = policy(batch)
    error = out.error(batch.action) if out.logits is None else out.negative_log_likelihood(batch.action)
    loss = (error * batch.valid).sum() / batch.valid.sum()
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(parameters.items(), gradients, strict=True)}


def refuse_replaced(config: MethodConfig, *names: str) -> None:
    """Refuse options that `compat` would silently replace.

    Raises:
        UsageError: one of them is not at its default while `compat` is on.
    """
    default = {field.name: field.default for field in fields(config)}
    for name in names:
        value = config.__dict__[name]
        if config.__dict__["compat"] and value != default[name]:
            raise UsageError(f"method.{name} is {value!r} and method.compat true, which replaces it; leave out one of the two")


def set_released(config: MethodConfig, released: Mapping[str, Any]) -> None:
    """Set the options that `compat` stands for, if it is on. `build` refuses those that were given at their default.

    Raises:
        UsageError: one of them was given another value.
    """
    if not config.__dict__["compat"]:
        return
    default = {field.name: field.default for field in fields(config)}
    for name, value in released.items():
        if config.__dict__[name] not in (value, default[name]):
            raise UsageError(f"method.{name} is {config.__dict__[name]!r} and method.compat true, which replaces it by {value!r};"
                             " give that, or leave out one of the two")
        object.__setattr__(config, name, value)
