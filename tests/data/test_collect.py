"""Collected data depend on the seed and on nothing else: not on workers, interruptions, what came before."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from perdure.core.errors import GuardError, UsageError
from perdure.core.spec import Box, Spec
from perdure.data.collect import collect, levels
from perdure.data.roll import Level, episode_generator, read_shard, roll_episode, shard_path
from perdure.data.store import Dataset


class PointEnv(gymnasium.Env):
    """A point on a line that is to come to the goal."""

    def reset(self, *, seed=None, options=None):
        self.goal, self.place = options["goal"][0], 0.0
        return np.array([self.place, self.goal], np.float32), {"success": False}

    def step(self, action):
        if self.goal == 13.0:
            raise ValueError("this goal breaks the environment")
        if self.goal == 14.0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.goal == 15.0:
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.02)
            raise ValueError("the parent was killed")
        assert abs(action[0]) <= 2
        self.place += float(action[0])
        success = abs(self.place - self.goal) < 0.5
        return (
            np.array([self.place, self.goal], np.float32),
            -abs(self.place - self.goal),
            False,
            False,
            {"success": success},
        )


@dataclass(frozen=True)
class PointSource:
    """Task source whose fourth goal may be replaced by one that makes trouble."""

    trouble: float = 4.0
    name: str = "point"
    horizon: int = 12
    licence: str = "none"
    origin: str = "a test"
    version: str = "1"

    @property
    def spec(self):
        return Spec(Box((2,)), Box((1,), low=(-2.0,), high=(2.0,)))

    def environment(self):
        return PointEnv()

    def expert(self, env=None):
        return lambda obs: obs[1:] - obs[:1]

    def goals(self):
        return [(self.trouble,) if k == 3 else (1 + 0.3 * k,) for k in range(40)]

    def ladder(self):
        return [Level(), Level(noise=0.2), Level(noise=0.5), Level(noise=0.5, random=0.5), Level(random=1.0)]

    def versions(self):
        return {"point": self.version}


def content(folder):
    data = Dataset.open(folder)
    return data.digest, {
        key: value for key, value in data.card.items() if key not in ("created_by", "card_digest")
    }


def run(folder, source=None, **changes):
    settings = {"quality": "mixed", "episodes": 23, "seed": 5, "workers": 0} | changes
    return collect(source or PointSource(), folder, **settings)


def test_workers_do_not_change_the_data(tmp_path):
    folders = [run(tmp_path / str(workers), workers=workers) for workers in (0, 1, 2)]
    assert content(folders[0]) == content(folders[1]) == content(folders[2])
    assert content(run(tmp_path / "other", seed=6))[0] != content(folders[0])[0]


def test_the_dataset_is_what_was_asked_for(tmp_path):
    calls = []
    data = Dataset.open(run(tmp_path / "d", episodes=40, progress=lambda *call: calls.append(call)))
    assert data.lengths.tolist() == [12] * 40
    assert data.card["goals"] == [list(goal) for goal in PointSource().goals()]
    noise = data.card["behaviour"]["noise"]
    assert [noise.count(level) for level in range(5)] == [8] * 5
    assert len({noise[e] for e in np.flatnonzero(data.holdout)}) == 4
    assert [call[:2] for call in calls] == [(done, 40) for done in range(1, 41)]
    assert calls[-1][2] > 0
    best = [data.successes[e] for e in range(40) if noise[e] == 0]
    assert all(best)
    assert data.array("truncated").sum() == 40
    assert not data.array("terminated").any()
    assert not list(tmp_path.glob("*.partial"))


def test_the_executed_action_is_stored():
    source, level = PointSource(), Level(noise=0.5)
    played = roll_episode(
        PointEnv(), source.expert(), (2.0,), level, episode_generator(0, "x", 0), spec=source.spec, horizon=12
    )
    places = np.concatenate([[0.0], np.cumsum(played.actions[:, 0], dtype=np.float64)])
    np.testing.assert_allclose(played.observations[:, 0], places, rtol=1e-5, atol=1e-6)
    assert np.abs(played.actions).max() <= 2
    assert played.actions.dtype == np.float32


def test_after_success_ends_the_episode(tmp_path):
    data = Dataset.open(run(tmp_path / "d", quality="expert", after_success=2))
    assert all(data.successes)
    assert data.lengths.max() < 12
    played = data.trajectory(0)
    assert (
        abs(played.observations[-3, 0] - played.goal[0])
        < 0.5
        <= abs(played.observations[-4, 0] - played.goal[0])
    )


def test_tries_repeat_a_failure_with_fresh_noise():
    source = PointSource()

    def succeeds(level):
        play = [
            roll_episode(
                PointEnv(),
                source.expert(),
                (2.0,),
                level,
                episode_generator(0, "x", e),
                spec=source.spec,
                horizon=3,
            )
            for e in range(40)
        ]
        return sum(bool(trajectory.success) for trajectory in play)

    once, often = succeeds(Level(random=1.0)), succeeds(Level(random=1.0, tries=10))
    assert once < 30
    assert often > 35


def test_qualities_take_their_part_of_the_ladder():
    source = PointSource()
    assert levels("expert", source) == ([0], [Level()])
    assert levels("mixed", source)[0] == [0, 1, 2, 3, 4]
    assert levels("suboptimal", source)[0] == [2, 3, 3, 4, 4]


def test_a_killed_collection_goes_on(tmp_path):
    whole = run(tmp_path / "whole", PointSource(3.5), quality="expert")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from test_collect import PointSource, run; "
        "run(sys.argv[3], PointSource(15.0), quality='expert', workers=2)"
    )
    here = str(Path(__file__).parent)
    child = subprocess.Popen(
        [sys.executable, "-c", code, here, str(Path(here).parents[1]), str(tmp_path / "cut")]
    )
    partial = tmp_path / "cut.partial"
    deadline = time.monotonic() + 60
    while (
        not all(shard_path(partial, e).exists() for e in range(23) if e != 3) and time.monotonic() < deadline
    ):
        time.sleep(0.05)  # until only the episode that hangs is missing
    child.kill()
    child.wait()
    time.sleep(0.5)  # its workers end by themselves
    plan = json.loads((partial / "plan.json").read_text())
    with pytest.raises(UsageError, match="was begun with goals"):
        run(tmp_path / "cut", PointSource(3.5), quality="expert")
    fresh = tmp_path / "for-its-plan"
    run(fresh, PointSource(3.5), quality="expert")
    plan["goals"] = Dataset.open(fresh).card["behaviour"]["plan"][
        "goals"
    ]  # the goal that hangs becomes a good one
    (partial / "plan.json").write_text(json.dumps(plan))
    shard_path(partial, 7).write_bytes(shard_path(partial, 7).read_bytes()[:-9])
    shard_path(partial, 8).unlink()
    calls = []
    run(tmp_path / "cut", PointSource(3.5), quality="expert", progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == [21, 22, 23]
    assert content(tmp_path / "cut") == content(whole)


def test_a_finished_collection_is_returned_and_never_replaced(tmp_path):
    folder = run(tmp_path / "d")
    before = content(folder)
    for source in PointSource(), PointSource(version="2"):
        assert run(folder, source, progress=lambda *call: pytest.fail("rolled again")) == folder
    for change, field in (
        ({"seed": 6}, "seed"),
        ({"episodes": 24}, "episodes"),
        ({"quality": "suboptimal"}, "quality"),
    ):
        with pytest.raises(UsageError, match=f"with {field}"):
            run(folder, **change)
    assert content(folder) == before


def test_a_begun_collection_refuses_other_settings(tmp_path):
    with pytest.raises(GuardError):
        run(tmp_path / "d", PointSource(13.0))
    with pytest.raises(UsageError, match="begun with seed 5"):
        run(tmp_path / "d", PointSource(13.0), seed=6)
    with pytest.raises(UsageError, match="begun with versions"):
        run(tmp_path / "d", PointSource(13.0, version="2"))


@pytest.mark.parametrize(("trouble", "words"), [(13.0, "this goal breaks"), (14.0, "ended with code -9")])
def test_what_fails_in_a_worker_is_said_in_one_sentence(tmp_path, trouble, words):
    with pytest.raises(GuardError, match=words):
        run(tmp_path / "d", PointSource(trouble), workers=1)
    assert read_shard(shard_path(tmp_path / "d.partial", 2)) is not None
    assert not (tmp_path / "d").exists()


def test_two_commands_do_not_write_one_folder(tmp_path):
    import fcntl

    partial = tmp_path / "d.partial"
    partial.mkdir()
    with open(partial / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another command"):
            run(tmp_path / "d")
    run(tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quality": "expret"}, "did you mean 'expert'"),
        ({"episodes": 0}, "episodes is 0"),
        ({"episodes": 41}, "has 40 goals"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"after_success": -1}, "after_success is -1"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "d", **change)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        run(tmp_path / "file" / "d")


def test_metaworld_data_do_not_depend_on_workers(tmp_path):
    pytest.importorskip("metaworld")
    from perdure.benchmarks.continual_world import TASKS
    from perdure.benchmarks.metaworld_source import MetaWorldSource, measured

    folders = [
        collect(
            MetaWorldSource("handle-press-side"),
            tmp_path / str(n),
            quality="mixed",
            episodes=6,
            seed=0,
            workers=n,
        )
        for n in (0, 2)
    ]
    assert content(folders[0]) == content(folders[1])
    data = Dataset.open(folders[0])
    assert data.successes[0]
    assert data.lengths.tolist() == [200] * 6
    for task in TASKS:
        successes = [row["success"] for row in measured(task)["levels"]]
        assert len(successes) == 5, task
        assert successes[0] >= 0.9, task
        assert successes[-1] <= 0.3, task
