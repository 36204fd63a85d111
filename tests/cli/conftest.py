"""Every command runs in a folder of its own, with data and cache below it. Makes `cli_samples` importable."""

import sys
from pathlib import Path

import pytest

from perdure.cli import main

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def perdure(capsys):
    """Run one command in this process; returns (exit code, standard output, lines of standard error)."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run
