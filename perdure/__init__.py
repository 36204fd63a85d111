"""perdure: continual offline reinforcement learning. One agent, a stream of tasks, nothing forgotten."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "run": "perdure.api", "plan": "perdure.api", "load_stream": "perdure.api", "load_agent": "perdure.api",
    "write_report": "perdure.report.write", "Result": "perdure.api", "Agent": "perdure.api",
    "Dataset": "perdure.data.store", "Trajectory": "perdure.data.trajectory", "write_dataset": "perdure.data.store",
    "Spec": "perdure.core.spec", "Box": "perdure.core.spec", "Discrete": "perdure.core.spec",
    "Task": "perdure.core.task", "Stream": "perdure.core.task", "Protocol": "perdure.core.task", "Goals": "perdure.core.task",
    "Method": "perdure.core.method", "MethodConfig": "perdure.core.method", "Phase": "perdure.core.method",
    "Need": "perdure.core.method", "Policy": "perdure.core.policy", "ScoreMatrix": "perdure.core.matrix",
    "UsageError": "perdure.core.errors", "GuardError": "perdure.core.errors",
}  # fmt: skip

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that environment workers never import torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    return import_module(_PUBLIC[name]).__dict__[name]


def __dir__() -> list[str]:
    return __all__
