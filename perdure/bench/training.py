"""The training step with its data: share of the machine's ceiling, against a plain variant, and in bf16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from perdure.bench.machine import PRODUCT_FLOP, product
from perdure.bench.measure import Bench, Equality, Figure, Target, check_equal, operations
from perdure.bench.reference import PlainTransformer, PythonSampler, plain_adamw
from perdure.bench.workload import ACTIONS, SPEC, Learner, batch, named_sizes, open_policy, recipe, stream
from perdure.core.batch import average
from perdure.core.policy import Policy
from perdure.data.access import Views
from perdure.policies.bc import BC
from perdure.policies.decision_transformer import DecisionTransformer


def flop(policy: Policy, n: int) -> float:
    """Floating-point operations of one training step on n samples: matrix products and causal attention, backward included.

    A product costs two operations per weight and row forward and twice that backward (once where its input needs no
    gradient). Attention counts the positions that may be read only.
    """
    obs, actions, width = SPEC.obs.size, ACTIONS, policy.config.width
    if isinstance(policy, BC):
        inner = (policy.config.layers - 1) * width * width + width * actions
        return 2.0 * n * (3 * inner + 2 * obs * width)
    assert isinstance(policy, DecisionTransformer)
    length, size = policy.context, 3 * policy.context
    first = length * (1 + obs + actions) * width
    blocks = (policy.config.layers - 1) * size * 12 * width * width
    last = size * 2 * width * width + length * 10 * width * width  # keys and values of all tokens, the rest of states only
    read = (policy.config.layers - 1) * size * (size + 1) // 2 + sum(3 * i + 2 for i in range(length))
    attention = 2 * read * width  # scores and weighted sums, each one multiply-add per channel and pair
    return 2.0 * n * (2 * first + 3 * (blocks + last + attention + length * width * actions))


def equal_losses(policy: DecisionTransformer, views: Views) -> Equality:
    """Loss and gradients of the library's and the plain forward on one batch without dropout."""
    policy.eval()
    windows = batch(policy, views, 8)
    plain = PlainTransformer(policy, 0)
    sides: list[list[Tensor]] = []
    for loss in (average(policy.loss, windows), plain_loss(plain, windows.__dict__)):
        policy.zero_grad()
        loss.backward()
        sides.append([loss.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters())])
    policy.zero_grad()
    policy.train()
    return check_equal("loss and gradients of one batch", sides[0], sides[1], 1e-3)


def plain_loss(forward: PlainTransformer, fields: dict[str, Tensor]) -> Tensor:
    """Half the summed squared error of the valid steps of each window, mean over windows."""
    error = 0.5 * (fields["action"] - forward(fields)).square().sum(-1)
    return ((error * fields["valid"]).sum(-1) / fields["valid"].sum(-1)).mean()


def plain_step(policy: DecisionTransformer, views: Views, training: dict[str, float]) -> Callable[[], object]:
    """A training step put together from the plain variants: sampler, forward, clipping and optimizer."""
    forward, sampler = PlainTransformer(policy, 0), PythonSampler(views.stream.tasks[0].data)
    moved = plain_adamw(policy.parameters(), lr=training["learning_rate"])
    rng, device = np.random.default_rng(0), views.views[0].device

    def step() -> None:
        windows = sampler.windows(sampler.draw(int(training["batch"]), rng), policy.context)
        moved.zero_grad()
        plain_loss(forward, {name: value.to(device) for name, value in windows.items()}).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), training["clip"], foreach=False)
        moved.step()

    return step


@torch.no_grad()
def bf16_distance(policy: Policy, views: Views) -> float:
    """Root mean square difference of the actions in bf16 and fp32 with the same weights, relative to the actions' own."""
    policy.eval()
    windows = batch(policy, views, 256)
    exact = policy(windows).output()
    with torch.autocast(exact.device.type, torch.bfloat16):
        fast = policy(windows).output().float()
    policy.train()
    return float((fast - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def training(bench: Bench) -> list[Figure]:
    """Both policies at both sizes; the target is the Decision Transformer at paper size."""
    views = Views(stream(bench.scale), bench.device)
    figures = []
    for name, profile in named_sizes():
        exact, fast = (Learner("finetune", name, profile, bench.scale, views, precision=kind) for kind in ("fp32", "bf16"))
        policy, values = exact.method.policy, recipe(name, profile, bench.scale)
        work, distance = flop(policy, values["batch"]), bf16_distance(policy, views)
        sides = {"fp32": exact.step, "bf16": fast.step, "ceiling": product(torch.float32, bench.device)}
        equality = None
        if name == "dt":
            other = open_policy(name, profile, bench.scale, views, bench.device)
            assert isinstance(other, DecisionTransformer)
            equality = equal_losses(other, views)
            sides["plain"] = plain_step(other, views, values)
        timed = bench.alternate(sides)
        milliseconds = {side: timed.milliseconds(side, bench.clock).median for side in sides}
        title, target = f"training step, {name} {profile}", Target(60) if (name, profile) == ("dt", "paper") else None
        figures.append(Figure(
            f"{title}: share of the fp32 ceiling in the same rounds", "%",
            timed.ratio("ceiling", "fp32", factor=100 * work / PRODUCT_FLOP), target,
            details={"ours_ms": milliseconds["fp32"], "gflop": work / 1e9, "ours_operations": operations(exact.step),
                     "share_of_best_rate_percent": 100 * work / 1e6 / milliseconds["fp32"] / bench.ceiling},
        ))  # fmt: skip
        if equality is not None:
            figures.append(Figure(
                f"{title} over a plain one", "x", timed.ratio("plain", "fp32"), None, equality,
                {"ours_ms": milliseconds["fp32"], "reference_ms": milliseconds["plain"],
                 "reference_operations": operations(sides["plain"])},
            ))  # fmt: skip
        figures.append(Figure(
            f"{title}: bf16 autocast (fast mode)", "x", timed.ratio("fp32", "bf16"),
            details={"ours_ms": milliseconds["bf16"], "reference_ms": milliseconds["fp32"],
                     "output_distance_percent": 100 * distance},
        ))  # fmt: skip
    return figures
