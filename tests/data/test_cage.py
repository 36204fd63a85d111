"""The limited child process: every end of it is one sentence, and its limits hold."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from foreign_samples import save_episode

from perdure.core.errors import UsageError
from perdure.data.convert import cage, caged, import_dataset
from perdure.data.convert.cage import Limits

OUTCOMES = {
    -signal.SIGKILL: "more than 7 seconds",
    -signal.SIGXCPU: "more than 7 seconds",
    -signal.SIGALRM: "more than 7 seconds",
    -signal.SIGSEGV: "crashed with SIGSEGV",
    cage.EXIT_MEMORY: "more than 99 MB of memory",
    9: r"ended with code 9 \('ImportError: x'\)",
    1: r"ended with code 1",
    0: "malformed",
}


@pytest.mark.parametrize("code", OUTCOMES)
def test_every_end_of_the_child_is_one_sentence(tmp_path, code):
    (tmp_path / "stderr").write_text("Traceback\nImportError: x\n")
    (tmp_path / "result.json").write_text('{"episode_lengths": ["3"]}')
    with pytest.raises(UsageError, match=OUTCOMES[code]) as caught:
        cage.outcome(code, tmp_path / "a.npz", tmp_path, Limits(memory_mb=99, seconds=7))
    assert "a.npz" in str(caught.value)


def test_a_child_that_hangs_is_killed(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    save_episode(tmp_path / "a.npz")
    monkeypatch.setattr(cage.sys, "executable", str(script))
    monkeypatch.setattr(cage, "GRACE_SECONDS", -0.8)
    with pytest.raises(UsageError, match="more than 1 seconds"):
        import_dataset(tmp_path / "a.npz", tmp_path / "out", name="x", limits=Limits(seconds=1))
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "python"]


def test_limits_hold_in_the_child(tmp_path):
    """Memory ends as MemoryError, time as a signal, files at their size."""
    program = (
        "import sys; from perdure.data.convert.caged import restrict, Limits; restrict(Limits(512, 1, 1))\n"
        "try: bytearray(2**30); print('no limit')\n"
        "except MemoryError: print('memory')\n"
        "try: open('big', 'wb').write(bytes(2**21)); print('no limit')\n"
        "except OSError: print('file')\n"
        "while True: pass"
    )
    command = [sys.executable, "-P", "-u", "-c", program]
    child = subprocess.run(
        command, env=cage.child_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert child.stdout.split() == ["memory", "file"]
    assert child.returncode in (
        -signal.SIGALRM,
        -signal.SIGXCPU,
        -signal.SIGKILL,
    )


def test_memory_limit_reaches_the_user(tmp_path):
    save_episode(tmp_path / "a.npz", 2000, observations=np.random.default_rng(0).normal(size=(2001, 3000)))
    with pytest.raises(UsageError, match=r"limits\.memory_mb"):
        import_dataset(tmp_path / "a.npz", tmp_path / "out", name="x", limits=Limits(memory_mb=120))


@pytest.mark.parametrize("field", ["memory_mb", "seconds", "file_mb"])
def test_limits_are_checked(field):
    with pytest.raises(UsageError, match=f"limits.{field} is 0"):
        Limits(**{field: 0})


def test_a_reader_out_of_memory_says_so(tmp_path, monkeypatch):
    def greedy(request):
        raise MemoryError

    monkeypatch.setattr(caged, "read", greedy)
    assert caged.serve({"path": "a.npz", "format": "npz", "folder": str(tmp_path)}) == cage.EXIT_MEMORY
    assert os.listdir(tmp_path) == []
