"""Versions of installed simulators, with one sentence where a package is not there. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

from perdure.core.errors import UsageError


def versions_of(*packages: str, missing: Callable[[str], UsageError]) -> dict[str, str]:
    """Package -> version; `missing` makes the error that names a package which is not installed."""
    try:
        return {name: metadata.version(name) for name in packages}
    except metadata.PackageNotFoundError as problem:
        raise missing(problem.name or packages[0]) from None
