"""Makes `dataset_samples` importable and keeps the cache of verified datasets out of the user's home."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PERDURE_CACHE", str(folder))
    return folder
