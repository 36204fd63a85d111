"""Whole commands and examples in a fraction of their time: what is left out here changes no result."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.evaluate import evaluator


def quick(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in `folder`, with data and cache below it; no worker processes, no waiting for the disk, no early collection."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PERDURE_DATA", raising=False)
    monkeypatch.setenv("PERDURE_CACHE", str(folder / "cache"))
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("gc.collect", lambda: 0)
    pools = evaluator.PoolCache
    monkeypatch.setattr(evaluator, "PoolCache", lambda slots, workers: pools(slots, 0))
