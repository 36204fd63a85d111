import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from point_envs import FaultyFactory, MissingFactory, PointFactory

from perdure.core.errors import GuardError, UsageError
from perdure.evaluate.slots import Reset
from perdure.evaluate.workers import EnvPool, PoolCache

ACTION = np.array([0.5, -0.25], np.float32)
QUICK = 1.5
"""Deadline in seconds: long for these environments, short for a test."""


def play(pool, steps=8, first_goal=2.0):
    """All slots, `steps` steps; slot 0 has the goal at which faulty environments fail. Results per step."""
    commands = [Reset(s, (first_goal if s == 0 else 1.0, 0.5), s) for s in range(pool.slots)]
    return [pool.step(commands)] + [
        pool.step([ACTION * (s + 1) for s in range(pool.slots)]) for _ in range(steps)
    ]


def equal(a, b):
    return all(
        x[1:] == y[1:] and x.obs.tobytes() == y.obs.tobytes()
        for row, other in zip(a, b, strict=True)
        for x, y in zip(row, other, strict=True)
    )


def state(pid):
    """(state letter, parent) of a process; Z where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return fields[0], int(fields[1])


def children():
    """Process ids of this process's children that still run."""
    states = {int(path.name): state(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
    return {pid for pid, (letter, parent) in states.items() if parent == os.getpid() and letter != "Z"}


def alive(pid):
    return state(pid)[0] != "Z"


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="reads process states from /proc"
)


@pytest.fixture(scope="module")
def reference():
    with EnvPool(PointFactory(), 3, 0) as pool:
        return play(pool)


@needs_proc
def test_workers_give_what_this_process_gives(reference):
    before = children()
    with EnvPool(PointFactory(), 3, 2) as pool:
        assert equal(play(pool), reference)
        running = children()
        assert len(running - before) == 2
        assert equal(play(pool), reference)
        assert children() == running, "a second rollout starts no processes"
    assert children() == before


def test_idle_slots_give_none():
    with EnvPool(PointFactory(), 3, 0) as pool:
        results = pool.step([None, Reset(0, None, 0), None])
        assert [r is None for r in results] == [True, False, True]
        with pytest.raises(UsageError, match="slot 0 got an action but runs no episode"):
            pool.step([ACTION, None, None])


@pytest.mark.parametrize("kind", ["exit", "kill", "hang"])
def test_a_lost_worker_is_replaced_and_its_episodes_go_on_as_if_nothing_was(kind, tmp_path, reference):
    with EnvPool(FaultyFactory(kind, str(tmp_path)), 3, 2, deadline=QUICK) as pool:
        assert equal(play(pool), reference)
        assert pool.replaced == 1


@pytest.mark.parametrize("ahead", [0, 2])
def test_episodes_of_different_age_are_repeated_each_to_its_own_step(ahead, tmp_path):
    """The slot that fails (0) and its companion on the same worker began at different calls."""

    def late(pool):
        begin = [Reset(s, (2.0 if s == 0 else 1.0, 0.5), s) for s in range(2)]
        commands = [[begin[0] if ahead == 0 else None, begin[1] if ahead == 2 else None]]
        commands += [[ACTION if c is not None else None for c in commands[0]]] * 3
        commands += [[begin[0] if ahead == 2 else ACTION, begin[1] if ahead == 0 else -ACTION]]
        commands += [[ACTION, -ACTION]] * 6
        return [r for row in commands for r in pool.step(row) if r is not None]

    with EnvPool(FaultyFactory("exit", str(tmp_path)), 2, 1, deadline=QUICK) as pool:
        results = late(pool)
        assert pool.replaced == 1
    with EnvPool(PointFactory(), 2, 0) as pool:
        assert equal([results], [late(pool)])


@needs_proc
@pytest.mark.parametrize("kind, words", [("exit", "ended with exit code 7"), ("kill", "ended by signal 9")])
def test_an_episode_that_loses_its_worker_again_and_again_is_named(kind, words, tmp_path):
    before = children()
    with (
        EnvPool(FaultyFactory(kind, str(tmp_path), times=99), 1, 1, deadline=QUICK) as pool,
        pytest.raises(
            GuardError, match=rf"FaultyFactory.*failed 4 times in episode 0 .*goal \(2.0, 0.5\).*{words}"
        ),
    ):
        play(pool)
    assert children() == before


def test_an_environment_that_cannot_be_repeated_is_named(tmp_path):
    with (
        EnvPool(FaultyFactory("drift", str(tmp_path)), 1, 1, deadline=QUICK) as pool,
        pytest.raises(GuardError, match="went another way when episode 0"),
    ):
        play(pool)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "kind, words",
    [
        ("raise", r"raised ValueError: the arm fell off \(.*point_envs.py:\d+\)"),
        ("nan", "returned an observation with NaN or infinity"),
        ("reward", "returned the reward nan"),
        ("shape", r"returned an observation of shape \[3\] where its space has \[4\]"),
    ],
)
def test_a_broken_environment_is_named_and_the_pool_works_again(kind, words, workers, tmp_path, reference):
    with EnvPool(FaultyFactory(kind, str(tmp_path)), 3, workers, deadline=QUICK) as pool:
        with pytest.raises(GuardError, match=f"FaultyFactory.* {words} in episode 0"):
            play(pool)
        assert equal(play(pool), reference)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_package_is_wrong_use(workers):
    with (
        EnvPool(MissingFactory(), 2, workers) as pool,
        pytest.raises(UsageError, match="pip install 'perdure"),
    ):
        pool.step([Reset(0, None, 0), None])


@needs_proc
def test_the_heartbeat_can_interrupt_a_hang_long_before_the_deadline(tmp_path):
    before = children()
    beats = []

    def heartbeat():
        beats.append(time.monotonic())
        if len(beats) > 3:
            raise InterruptedError

    with EnvPool(FaultyFactory("hang", str(tmp_path)), 1, 1, deadline=60.0) as pool:
        play(pool, steps=4)
        start = time.monotonic()
        with pytest.raises(InterruptedError):
            pool.step([ACTION], heartbeat)
        assert time.monotonic() - start < 5
    assert children() == before


def test_wrong_arguments():
    for arguments, words in [
        ((0, 1), "slots is 0"),
        ((2, -1), "workers is -1"),
        ((2, 1, 0.0), "deadline is 0.0"),
    ]:
        with pytest.raises(UsageError, match=words):
            EnvPool(PointFactory(), *arguments)


def test_the_cache_keeps_the_pools_used_last():
    with PoolCache(slots=1, workers=0, most=2) as cache:
        a, b = cache.get(PointFactory(1)), cache.get(PointFactory(2))
        assert cache.get(PointFactory(1)) is a
        cache.get(PointFactory(3))
        assert cache.get(PointFactory(1)) is a
        assert cache.get(PointFactory(2)) is not b


@needs_proc
def test_workers_of_a_pool_that_is_closed_go_over_to_the_new_one():
    with EnvPool(PointFactory(3), 3, 0) as pool:
        expected = play(pool, steps=3)
    before = children()
    with PoolCache(slots=3, workers=2, most=1) as cache:
        play(cache.get(PointFactory(2)), steps=2)
        workers = children() - before
        assert len(workers) == 2
        assert equal(play(cache.get(PointFactory(3)), steps=3), expected)
        assert children() - before == workers
        os.kill(min(workers), signal.SIGKILL)
        assert equal(play(cache.get(PointFactory(3)), steps=3), expected)
        cache.get(PointFactory(2))
        for worker in children() - before:
            os.kill(worker, signal.SIGKILL)
        play(cache.get(PointFactory(2)), steps=2)  # workers that died while they waited are replaced
    assert children() == before


PARENT = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from point_envs import FaultyFactory
from perdure.evaluate.slots import Reset
from perdure.evaluate.workers import EnvPool
import numpy as np
pool = EnvPool(FaultyFactory("hang", {folder!r}), 2, 2, deadline=600.0)
pool.step([Reset(0, (2.0, 0.5), 0), Reset(0, (1.0, 0.5), 1)])
for _ in range(4):
    pool.step([np.zeros(2, np.float32)] * 2)
print(*[worker._process.pid for worker in pool._workers], flush=True)
pool.step([np.zeros(2, np.float32)] * 2)
"""


@needs_proc
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent_not_even_a_hung_one(sent, tmp_path):
    tests, root = str(Path(__file__).parent), str(Path(__file__).parents[2])
    code = PARENT.format(tests=tests, root=root, folder=str(tmp_path))
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(alive(pid) for pid in workers)
        time.sleep(0.2)
        parent.send_signal(sent)
        parent.wait(5)
    end = time.monotonic() + 5
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def test_a_script_without_a_main_guard_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]\n"
        "from point_envs import PointFactory\n"
        "from perdure.evaluate.slots import Reset\n"
        "from perdure.evaluate.workers import EnvPool\n"
        "print(EnvPool(PointFactory(), 1, 1).step([Reset(0, (1.0, 0.5), 0)])[0].obs[2:].tolist())\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[1.0, 0.5]", 0), done.stderr
