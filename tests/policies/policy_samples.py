"""Policies with open tasks of every kind of space, and random windows for them."""

from __future__ import annotations

import torch

from perdure.core.batch import Windows
from perdure.core.policy import Policy, Stats
from perdure.core.spec import Box, Discrete, Spec
from perdure.policies.bc import BC, BCConfig
from perdure.policies.decision_transformer import DecisionTransformer, DTConfig

VECTOR = Spec(Box((3,)), Box((2,), low=(-2.0, 0.0), high=(2.0, 1.0)))
CHOICE = Spec(Box((3,)), Discrete(4))
IMAGE = Spec(Box((1, 36, 36), dtype="uint8"), Box((2,), low=(-2.0, 0.0), high=(2.0, 1.0)))
IMAGE_CHOICE = Spec(Box((3, 40, 36), dtype="uint8"), Discrete(3))
SPACES = {"vector": VECTOR, "choice": CHOICE, "image": IMAGE, "image-choice": IMAGE_CHOICE}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, **options: object) -> Policy:
    torch.manual_seed(5)
    if name == "bc":
        return BC(BCConfig(**{"width": 12, "layers": 2, **options})).eval()
    return DecisionTransformer(
        DTConfig(**{"width": 12, "layers": 2, "attention_heads": 2, "context": 5, **options})
    ).eval()


def opened(name: str, *specs: Spec, **options: object) -> Policy:
    """A policy with one task per spec, each with statistics of its own."""
    policy = make(name, **options)
    for task, spec in enumerate(specs):
        g = generator(task)
        size = spec.obs.size
        policy.add_task(
            task,
            spec,
            Stats(torch.randn(size, generator=g), torch.rand(size, generator=g) + 0.5, 2.0 + task, 3.0 + task),
        )
    return policy


def windows(
    policy: Policy, spec: Spec, task: int = 0, n: int = 4, length: int | None = None, seed: int = 0
) -> Windows:
    """Random full windows."""
    g, length = generator(seed + 10), length or policy.context
    lead = (n, length)
    if spec.obs.dtype == "uint8":
        obs = torch.randint(0, 256, (*lead, *spec.obs.shape), generator=g, dtype=torch.uint8)
    else:
        obs = torch.randn(*lead, *spec.obs.shape, generator=g)
    if spec.discrete:
        action = torch.randint(0, spec.action.n, lead, generator=g)
    else:
        action = torch.rand(*lead, spec.action.size, generator=g) * 2 - 1
    flags = torch.zeros(lead, dtype=torch.bool)
    return Windows(
        obs=obs,
        action=action,
        reward=torch.randn(lead, generator=g),
        return_to_go=torch.randn(lead, generator=g) * 3,
        timestep=torch.arange(length).expand(lead) + 2,
        terminated=flags,
        truncated=flags,
        valid=~flags,
        last_obs=obs[:, -1],
        task=torch.full((n,), task),
        weight=torch.ones(n),
        tasks=(task,),
    )
