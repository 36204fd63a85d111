"""Every sweep works in a folder of its own. Makes `sweep_samples` importable."""

import sys
from pathlib import Path

import pytest

from perdure.core.threads import VARIABLES

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))  # a job in this process sets it, and the threads
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nothing but a power cut could notice
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    return tmp_path
