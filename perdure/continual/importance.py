"""Importance of every weight from per-sample gradients, never from a batch mean: Fisher diagonals and output sensitivities.

A mean gradient vanishes at convergence, per-sample squares and magnitudes do not. For a network in which every layer
reads each sample once they are exactly products of activations and output gradients, squared or absolute, at the cost of
one backward pass per root. Sequence models use vmap over samples; for the Fisher diagonal with one random cotangent each,
which has the same expectation (Hutchinson's estimator applied to the Gauss-Newton matrix).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from perdure.core.batch import Windows, tensor_fields
from perdure.core.policy import ActionDist, Policy

Kind = Literal["expected", "empirical", "sensitivity"]

CHUNK = 32
"""Samples whose gradients are held at once by `per_sample`: a copy of the weights for each."""


def fisher_diagonal(policy: Policy, batch: Windows, parameters: Mapping[str, Tensor], g: Generator,
                    kind: Kind = "expected") -> dict[str, Tensor]:
    """Mean over the batch of the squared per-sample gradients, by parameter name.

    `expected`: over the model's own output distribution, which for a unit-variance Gaussian is
    E_x sum_d (d mu_d / d theta)^2, the Gauss-Newton diagonal. `empirical`: over the logged actions.
    """
    own = policy.fisher(batch, parameters, g)
    return _estimate(policy, batch, parameters, g, kind) if own is None else own


def output_sensitivity(policy: Policy, batch: Windows, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean over the batch of |d ||f(x)||^2 / d theta| per sample (Aljundi et al. 2018); f is the mean, or the logits."""
    return _estimate(policy, batch, parameters, Generator(), "sensitivity")


def _estimate(policy: Policy, batch: Windows, parameters: Mapping[str, Tensor], g: Generator, kind: Kind) -> dict[str, Tensor]:
    training = policy.training
    policy.eval()
    simple = policy.once_per_sample and all(
        isinstance(m, nn.Linear | nn.LayerNorm) for m in policy.modules() if next(m.parameters(recurse=False), None) is not None
        and not isinstance(m, nn.ParameterDict)
    )
    compute = factored if simple else per_sample
    result = compute(policy, batch, parameters, g, kind)
    policy.train(training)
    return result


def _roots(out: ActionDist, batch: Windows, kind: Kind) -> list[Tensor]:
    """Cotangents of the output, one backward pass each."""
    if kind == "expected":
        return list(out.fisher_roots())
    return [out.error_root(batch.action) if kind == "empirical" else 2 * out.output().detach()]


def _size(kind: Kind) -> Callable[[Tensor], Tensor]:
    """What is summed of a gradient; of a product it is the product of its factors'."""
    return torch.abs if kind == "sensitivity" else torch.square


def factored(policy: Policy, batch: Windows, parameters: Mapping[str, Tensor], g: Generator, kind: Kind) -> dict[str, Tensor]:
    """Exact for linear layers and layer norms that read each sample once: sizes of inputs times sizes of gradients."""
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    hooks = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.append((name, module, inputs[0].detach(), output))

    for name, module in policy.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            hooks.append(module.register_forward_hook(watch(name)))
    try:
        out = policy(batch)
    finally:
        for hook in hooks:
            hook.remove()
    roots, size = _roots(out, batch, kind), _size(kind)
    outputs = [output for _, _, _, output in seen]
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for place, root in enumerate(roots):
        gradients = torch.autograd.grad(out.output(), outputs, root, retain_graph=place + 1 < len(roots), allow_unused=True)
        for (name, module, x, _), gradient in zip(seen, gradients, strict=True):
            if gradient is not None and f"{name}.weight" in total:
                outer = size(gradient.flatten(0, -2))  # (B, ..., out) -> (n, out)
                inner = size(_normed(module, x).flatten(0, -2))  # (B, ..., in) -> (n, in)
                weight = outer.T @ inner if isinstance(module, nn.Linear) else (outer * inner).sum(0)
                total[f"{name}.weight"] += weight
                total[f"{name}.bias"] += outer.sum(0)
    return {name: value / len(batch) for name, value in total.items()}


def _normed(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight of the module multiplies: the input, or the normalised input of a layer norm."""
    return nn.functional.layer_norm(x, module.normalized_shape) if isinstance(module, nn.LayerNorm) else x


def per_sample(policy: Policy, batch: Windows, parameters: Mapping[str, Tensor], g: Generator, kind: Kind) -> dict[str, Tensor]:
    """Sizes of each sample's gradient by vmap, one cotangent per sample, for `expected` a random one; for every policy."""
    with torch.no_grad():
        out: ActionDist = policy(batch)
        root = out.random_root(g) if kind == "expected" else _roots(out, batch, kind)[0]
        root = root * batch.valid.unsqueeze(-1)
    values = {name: p.detach() for name, p in parameters.items()}
    names = tensor_fields(batch)

    def scalar(weights: dict[str, Tensor], cotangent: Tensor, *sample: Tensor) -> Tensor:
        rows: dict[str, Any] = {name: value.unsqueeze(0) for name, value in zip(names, sample, strict=True)}
        one = replace(batch, **rows)
        return (functional_call(policy, weights, (one,)).output() * cotangent.unsqueeze(0)).sum()

    size = _size(kind)
    tensors = [root, *(batch.__dict__[name] for name in names)]
    gradients = vmap(grad(scalar), in_dims=(None, *(0 for _ in tensors)))
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no batching rule for vmap
        for rows in zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True):
            for name, value in gradients(values, *rows).items():
                total[name] += size(value.detach()).sum(0)
    return {name: value / len(batch) for name, value in total.items()}
