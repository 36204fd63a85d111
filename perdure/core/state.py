"""A method's state as tensors and JSON: what a checkpoint holds and how it comes back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perdure.core.errors import UsageError
from perdure.core.method import Method

RESUME_PREFIX = "resume."
"""A method's submodule `resume` holds what only the current task needs; it stays out of the published agent."""

OPTIMIZER_PREFIX = "optimizer/"


def capture(method: Method) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """(JSON, {"agent": tensors, "resume": tensors}) from which `restore` makes an equal method."""
    agent: dict[str, Tensor] = {}
    resume: dict[str, Tensor] = {}
    for name, tensor in method.state_dict().items():
        (resume if name.startswith(RESUME_PREFIX) else agent)[name] = tensor
    for name, optimizer in method.optimizers.items():
        for parameter, full in zip(optimizer.param_groups[0]["params"], method.recipes[name]["parameters"], strict=True):
            for field, value in optimizer.state[parameter].items():
                resume[f"{OPTIMIZER_PREFIX}{name}/{full}/{field}"] = value
    meta = {"architecture": method.architecture(), "optimizers": method.recipes}
    return meta, {"agent": agent, "resume": resume}


def restore(method: Method, meta: dict[str, Any], tensors: dict[str, dict[str, Tensor]], device: torch.device) -> None:
    """Bring a fresh method, made with the same config, policy and seed, to the captured state.

    Raises:
        UsageError: the state is that of another version of the method.
    """
    resume = tensors.get("resume", {})
    modules = {name: value for name, value in resume.items() if not name.startswith(OPTIMIZER_PREFIX)}
    try:
        method.rebuild(meta["architecture"])
        method.load_state_dict(tensors["agent"] | modules)
    except (KeyError, RuntimeError) as problem:
        what = f"field {problem}" if isinstance(problem, KeyError) else str(problem).splitlines()[-1].strip()
        raise UsageError(f"the saved state of {type(method).__name__} does not fit this version of it ({what}); go on with the"
                         " version that wrote it, or remove the run's folder and start again") from None
    method.to(device)
    by_name = dict(method.named_parameters())
    for name, recipe in meta.get("optimizers", {}).items():
        parameters = {full: by_name[full] for full in recipe["parameters"]}
        method.optimizer(name, parameters, **recipe["recipe"])
        optimizer = method.optimizers[name]
        for full, parameter in parameters.items():
            prefix = f"{OPTIMIZER_PREFIX}{name}/{full}/"
            state = {key.removeprefix(prefix): value for key, value in resume.items() if key.startswith(prefix)}
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
