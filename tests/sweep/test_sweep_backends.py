"""Real workers: both backends give the bits of single runs, whoever is killed; and what a backend refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from sweep_samples import Heard, small

from perdure.core.errors import UsageError
from perdure.core.lock import claimed
from perdure.sweep import worker
from perdure.sweep.backends import Resources, choose
from perdure.sweep.driver import Sweep
from perdure.sweep.on_ray import OnRay
from perdure.sweep.processes import Processes
from perdure.sweep.show import Silent

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
BACKENDS = ["processes", pytest.param("ray", marks=needs_ray)]


def opened(kind, parallel=2, **options):
    return choose(kind, "", Resources(parallel=parallel, **options), lambda text: None)


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_sweep_has_the_bits_of_single_runs(kind, place):
    planned = small("finetune packnet")
    entries = Sweep(planned, Path("runs"), opened(kind), Silent()).execute()
    assert [(entry.state, entry.sentence) for entry in entries] == [("done", "")] * 2
    for run in planned:
        tiny.execute(run.config, place / "single" / run.key)
        assert tiny.folder_digests(run.folder) == tiny.folder_digests(place / "single" / run.key)
        assert json.loads((run.folder / "environment.json").read_bytes())["fingerprint"]["threads"] == 1
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["sweep.log", "toy"]


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_killed_worker_is_replaced_and_its_run_resumes(kind, place, monkeypatch):
    planned = small(steps=1500)
    sweep = Sweep(planned, Path("runs"), opened(kind, 1), Heard())
    victims = []

    def watch(self):
        plain(self)
        status = sweep.entries[planned[0].key].status
        if status.get("share", 0) > 0 and not victims:
            victims.append(status["pid"])
            os.kill(status["pid"], signal.SIGKILL)

    plain = Sweep._watch
    monkeypatch.setattr(Sweep, "_watch", watch)
    entries = sweep.execute()
    assert victims
    assert entries[0].state == "done"
    assert entries[0].losses == 1
    assert any(text.startswith("lost: finetune on toy, seed 0") for text in sweep.show.texts)


def test_workers_end_with_their_driver(place):
    """The driver dies without a word; its worker saves and ends."""
    program = f"""import sys
sys.path[:0] = {sys.path!r}
from test_sweep_backends import small, Silent, Sweep, opened, Path
Sweep(small(steps=100000), Path("runs"), opened("processes", 1), Silent()).execute()"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=place)
    pid = seen(place, process)
    process.kill()
    process.wait()
    until = time.monotonic() + worker.FAREWELL - 5  # after which it would be ended without having saved
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
    assert list(place.glob("runs/toy/*/*/resume/0*")), "it saved before it ended"
    with claimed(small(steps=100000)[0].folder):  # nobody holds it
        pass


def seen(place, process):
    """The worker's process id, once it learns."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None
        for path in (place / "runs" / ".sweep").glob("*.json"):
            status = json.loads(path.read_bytes())
            if status["share"] > 0:
                return status["pid"]
        time.sleep(0.1)
    raise AssertionError("no worker was seen")


def test_places_on_gpus_are_shared_out(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    backend = Processes(6, Resources(gpus=0.3))
    assert [backend._environment(slot, 1)["CUDA_VISIBLE_DEVICES"] for slot in range(6)] == ["0", "0", "0", "1", "1", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [backend._environment(slot, 1)["CUDA_VISIBLE_DEVICES"] for slot in (0, 5)] == ["4", "7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("perdure.doctor.usable_cores", lambda: 16.0)
    assert Resources(gpus=0.3).fit() == 6
    assert Resources(gpus=0.3, parallel=4).fit() == 4
    assert Resources(cpus=3).fit() == 5


@pytest.mark.parametrize(("kind", "address", "resources", "fragments"), [
    ("processes", "a:1", {}, ("--address is a:1", "stays on this machine")),
    ("auto", "", {"cpus": 4096.0}, ("--cpus is 4096",)),
    ("auto", "", {"gpus": 1.5}, ("--gpus is 1.5", "such as 0.25")),
    ("auto", "", {"parallel": 0}, ("--parallel is 0", "from 1")),
    ("auto", "", {"threads": 0}, ("--threads is 0", "from 1")),
])  # fmt: skip
def test_backends_that_cannot_be(kind, address, resources, fragments):
    with pytest.raises(UsageError) as caught:
        choose(kind, address, Resources(**resources), lambda text: None)
    assert all(fragment in str(caught.value) for fragment in fragments)


def test_without_ray_the_runs_are_processes(monkeypatch):
    monkeypatch.setattr("perdure.sweep.backends.find_spec", lambda name: None)
    said = []
    assert isinstance(choose("auto", "", Resources(), said.append)(), Processes)
    assert "pip install 'perdure[ray]'" in said[0]
    with pytest.raises(UsageError, match="--backend is ray, but Ray is not installed"):
        choose("ray", "", Resources(), said.append)


def test_what_a_signal_handler_raises_is_not_hidden_by_ray():
    class Terminated(BaseException):
        pass

    def wait(*_, **__):
        raise SystemError("returned a result with an exception set") from Terminated()

    backend = object.__new__(OnRay)
    backend.refs, backend.ray = {"ref": "key"}, SimpleNamespace(wait=wait)
    with pytest.raises(Terminated):
        backend.ended(0.1)


@needs_ray
@pytest.mark.parametrize(("address", "reason"), [
    ("closed", "nothing came within"), ("chatty", "nothing came within"), ("no.such.host:1", ""),
    ("head:x", "head:x; give HOST:PORT"), ("ray://h:1", "ray://h:1; give HOST:PORT"), ("6379", "6379; give HOST:PORT"),
])  # fmt: skip
def test_a_cluster_that_does_not_answer_is_named_within_ten_seconds(address, reason):
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def chat():
        connection, _ = listening.accept()
        with connection:
            connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # as a gateway that speaks HTTP/2 begins
            connection.recv(1000)

    if address == "closed":
        listening.close()
    if address == "chatty":
        threading.Thread(target=chat, daemon=True).start()
    address = f"127.0.0.1:{port}" if address in ("closed", "chatty") else address
    began = time.monotonic()
    with pytest.raises(UsageError, match=f"--address is {address}") as caught:
        choose("auto", address, Resources(), lambda text: None)
    assert time.monotonic() - began < 10
    assert reason in str(caught.value)
    listening.close()
