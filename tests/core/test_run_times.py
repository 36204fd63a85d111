"""What a run says about its time, over a stop."""

import signal
import time

import pytest
from tiny import config, execute, watch

from perdure.core.errors import Interrupted
from perdure.core.files import read_json


def test_the_times_before_a_stop_are_kept(tmp_path):
    """Here an update before it takes 30 ms of CPU time."""
    def slow(task, phase, place):
        until = time.process_time() + 0.03
        while isinstance(place, int) and time.process_time() < until:
            pass
        if (task, phase, place) == (0, "retrain", 0):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        execute(config("packnet"), tmp_path / "run", change=lambda method: watch(method, slow))
    execute(config("packnet"), tmp_path / "run")
    spent = read_json(tmp_path / "run" / "environment.json")
    assert spent["phase_cpu_seconds"]["dense"] > 0.1
    assert sum(spent["phase_cpu_seconds"].values()) == pytest.approx(spent["train_cpu_seconds"], abs=0.05)
