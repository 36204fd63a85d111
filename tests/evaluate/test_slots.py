import json
import socket
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from point_envs import GridFactory, PointFactory

from perdure.core.errors import UsageError
from perdure.evaluate.slots import Reset, Slots, describe, rebuild, receive, send


def test_a_factory_survives_json():
    factory = PointFactory(horizon=7, sizes=(3, 4))
    again = rebuild(json.loads(json.dumps(describe(factory))))
    assert again == factory and type(again) is PointFactory and hash(again) == hash(factory)


@dataclass(frozen=True)
class HoldsAnArray:
    value: object
    horizon: int = 5


class NoDataclass:
    horizon = 5


def test_factories_that_cannot_travel_are_refused():
    with pytest.raises(UsageError, match="fields that JSON cannot hold"):
        describe(HoldsAnArray(np.zeros(2)))
    with pytest.raises(UsageError, match="fields that JSON cannot hold"):
        describe(HoldsAnArray([1, 2]))
    with pytest.raises(UsageError, match="not a dataclass"):
        describe(NoDataclass())

    @dataclass(frozen=True)
    class Local:
        horizon: int = 5

    with pytest.raises(UsageError, match="define it at the top of a module"):
        describe(Local())


def test_messages_keep_every_bit():
    here, there = socket.socketpair()
    arrays = [np.array([[1.5, np.nan]], np.float32), np.array(7, np.int64), np.zeros((2, 0), np.uint8)]
    with here, there:
        send(here, {"slots": [1, 2]}, arrays)
        send(here, {"more": True})
        header, received = receive(there)
        assert header["slots"] == [1, 2]
        for a, b in zip(arrays, received, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        assert receive(there)[0]["more"] is True
        here.close()
        with pytest.raises(EOFError):
            receive(there)


def test_observations_become_float32_and_images_stay():
    slots = Slots(PointFactory())
    result = slots.run(0, Reset(3, (0.5, 0.25), 0))
    assert (
        result.obs.dtype == np.float32 and result.obs[2:].tolist() == [0.5, 0.25] and result.success is None
    )
    assert slots.run(0, np.zeros(2, np.float32)).success is False
    grid = Slots(GridFactory())
    assert grid.run(0, Reset(0, None, 0)).obs.dtype == np.uint8
    assert grid.run(0, np.array(2)).success is None


def test_worker_processes_load_no_torch():
    code = (
        "import sys, perdure.evaluate.workers, perdure.evaluate.slots, perdure.benchmarks.metaworld_env\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
