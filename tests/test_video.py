"""Clips of tiny toy runs, from the run folder to the index that the report reads; and what is said where nothing draws."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from perdure import video
from perdure.benchmarks.gym_env import GymFactory
from perdure.benchmarks.point_mass import PointMassFactory
from perdure.core.errors import UsageError
from perdure.core.files import read_json, write_json
from perdure.report.clips import MOMENTS
from perdure.run_config import RunConfig, load_config
from perdure.video import backends, film
from perdure.video.film import Filmed, opened, picture, webp
from perdure.video.studio import Studio
from tests import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose agents succeed after learning and forget; evaluated in three rows, so that row and key matter."""
    folder = tmp_path_factory.mktemp("video") / "run"
    tiny.execute(
        tiny.config(tasks=2, episodes=20, steps=120, batch=64, learning_rate=3e-3, evaluation={"episodes": 3, "slots": 3}), folder
    )
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def filmed(trained, tmp_path_factory):
    """A run with its clips, and what was said."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("filmed") / "run"))
    said: list[str] = []
    assert video.write_clips(folder, size=48, say=said.append) == folder / "clips"
    return folder, said


def first_episode(folder, learned, task):
    cells = read_json(folder / "scores.json")["cells"]
    return next(c["episodes"][0] for c in cells if (c["learned"], c["task"]) == (learned, task))


def test_clips_show_the_episodes_that_the_matrix_scored(filmed):
    folder, said = filmed
    clips = read_json(folder / "clips" / "index.json")["clips"]
    assert [(clip["task"], clip["when"]) for clip in clips] == [(f"corner-{i}", when) for i in (1, 2) for when in MOMENTS]
    learned = [0, 1, 2, 0, 2, 2]
    recorded = [first_episode(folder, row, place // 3) for place, row in enumerate(learned)]
    assert [clip["success"] for clip in clips] == [episode["success"] for episode in recorded]
    assert {True, False} == {clip["success"] for clip in clips}, "the run is too easy or too hard to show anything"
    assert not any("recorded" in sentence for sentence in said)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["agent", "clips", "config.json", "environment.json", "metrics.jsonl", "scores.json"]
    )


def test_a_clip_is_an_animation_as_long_as_its_episode(filmed):
    folder, _ = filmed
    for clip, learned in zip(read_json(folder / "clips" / "index.json")["clips"][:2], (0, 1), strict=True):
        length = first_episode(folder, learned, 0)["length"]
        with Image.open(folder / "clips" / clip["file"]) as image:
            assert image.size == (48, 48)
            assert 2 <= image.n_frames <= length + 1
            shown = 0
            for number in range(image.n_frames):
                image.seek(number)
                image.load()
                shown += image.info["duration"]
        assert shown == length * film.LONGEST_MS + film.HOLD_MS  # pictures that are equal are stored once


def test_made_once_and_again_where_something_changed(filmed):
    folder, _ = filmed
    before = (folder / "clips" / "index.json").stat().st_mtime_ns
    said: list[str] = []
    video.write_clips(folder, size=48, say=said.append)
    assert "already" in said[0]
    assert (folder / "clips" / "index.json").stat().st_mtime_ns == before
    wanted = read_json(folder / "clips" / "index.json")
    same = {name: wanted[name] for name in ("format", "size", "tasks", "scores")}
    assert video._made_already(folder / "clips", same)
    assert not video._made_already(folder / "clips", same | {"size": 50})
    assert not video._made_already(folder / "clips", same | {"scores": "sha256:0"})
    assert not video._made_already(folder, same), "no index there"


def test_the_next_backend_is_tried_and_another_outcome_than_the_recorded_one_is_said(run, monkeypatch):
    """The child crashes with the first backend only; scores.json claims that the untrained agent was quick."""
    monkeypatch.setattr(video, "candidates", lambda: ("egl", "osmesa"))
    crash = "import os; os.environ['MUJOCO_GL'] == 'egl' and os.kill(os.getpid(), 11); "
    monkeypatch.setattr(video, "BOOT", crash + video.BOOT)
    scores = read_json(run / "scores.json")
    for cell in scores["cells"]:
        if (cell["learned"], cell["task"]) == (0, 1):
            cell["episodes"][0] |= {"success": True, "length": 3, "score": 1.0}
    write_json(run / "scores.json", scores)
    said: list[str] = []
    assert video.write_clips(run, size=32, tasks=["corner-2"], say=said.append) == run / "clips"
    assert len(said) == 3
    assert "corner-2" in said[1]
    assert "success after 3 steps for the same episode" in said[1]
    assert {clip["task"] for clip in read_json(run / "clips" / "index.json")["clips"]} == {"corner-2"}


def test_a_joint_run_has_no_agent_in_between(tmp_path):
    tiny.execute(tiny.config("joint", tasks=2), tmp_path / "run")
    told: list[dict] = []
    Studio(tmp_path / "run", tmp_path, 32, told.append).work(["corner-1", "corner-2"])
    assert [message["clip"]["when"] for message in told] == ["before", "end of stream"] * 2


def test_a_task_with_data_only_is_left_out_with_the_reason(trained, tmp_path, monkeypatch):
    stream = tiny.stream_of(load_config(trained / "config.json"))
    blind = replace(stream, tasks=(replace(stream.tasks[0], env=None), stream.tasks[1]))
    monkeypatch.setattr(RunConfig, "load_stream", lambda config, say: blind)
    told: list[dict] = []
    Studio(trained, tmp_path, 32, told.append).work(["corner-1"])
    assert told == [{"task": "corner-1", "blind": "it has data only and no simulator", "drawing": False}]


@pytest.mark.parametrize(("code", "reason"), [
    ("import os; os.kill(os.getpid(), 11)", "signal 11"),
    ("import sys; sys.exit(5)", "exit code 5"),
    ("import time; time.sleep(60)", "said nothing for 0.5 s"),
])  # fmt: skip
def test_a_child_that_crashes_or_hangs_costs_the_clips_and_nothing_else(run, monkeypatch, code, reason):
    monkeypatch.setattr(video, "BOOT", code)
    monkeypatch.setattr(video, "PATIENCE_SECONDS", 0.5 if "sleep" in code else 30.0)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(backends, "find_library", lambda name: "there")
    before = sorted(path.name for path in run.iterdir())
    said: list[str] = []
    assert video.write_clips(run, say=said.append) is None
    assert len(said) == 2
    assert reason in said[1]
    assert "unset MUJOCO_GL" in said[1]
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_damaged_agent_is_named_and_old_clips_stay(run):
    (run / "clips").mkdir()
    (run / "clips" / "kept").touch()
    tensors = run / "agent" / "2" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    said: list[str] = []
    assert video.write_clips(run, say=said.append) is None
    assert "tensors.safetensors is damaged" in said[-1]
    assert (run / "clips" / "kept").exists()


def test_a_bad_renderer_setting_is_named_with_its_repair(run, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert list(backends.probe()) == ["nonsense"]
    assert "nonsense" in backends.probe()["nonsense"]
    assert "unset MUJOCO_GL" in backends.advice()


@pytest.mark.parametrize(("change", "words"), [
    (lambda run: {"tasks": ["corner-3"]}, "did you mean 'corner-"),
    (lambda run: {"size": 5000}, "32 to 1024"),
    (lambda run: {"size": "240"}, "32 to 1024"),
    (lambda run: (run / "config.json").unlink() or {}, "no run folder"),
    (lambda run: (run / "scores.json").unlink() or {}, "not finished"),
    (lambda run: write_json(run / "scores.json", read_json(run / "scores.json") | {"complete": False}) or {}, "not finished"),
])  # fmt: skip
def test_wrong_use_is_one_sentence(run, change, words):
    options = change(run)
    with pytest.raises(UsageError, match=words):
        video.write_clips(run, say=lambda text: None, **options)


def test_the_point_mass_draws_itself_upright():
    env = PointMassFactory((0.8, 0.8))()
    env.reset(options={"goal": [-0.8, -0.8]})
    first = env.frame(60).astype(int)
    assert first.shape == (60, 60, 3)
    blue, green = (np.argwhere((first - 255 != 0).any(2) & (first.argmax(2) == channel)).mean(0) for channel in (2, 1))
    assert blue[0] > 40 > 20 > green[0], "y points upwards: the mass starts below, the target is above"
    assert blue[1] < 20 < 40 < green[1]
    env.step(np.array([1.0, 1.0], dtype=np.float32))
    assert (env.frame(60) != first).any()
    for target in ((0.5,), (0.5, -0.5, 0.1)):
        other = PointMassFactory(target)()
        other.reset(seed=0)
        assert other.frame(33).shape == (33, 33, 3)


def test_the_camera_keeps_first_and_last_picture():
    env = Filmed(PointMassFactory((0.8, 0.8), horizon=20)(), size=32, horizon=250, stop_at_success=True)
    assert env.stride == 3
    env.reset(options={"goal": [-0.9, -0.9]})
    for _ in range(20):
        _, _, _, truncated, _ = env.step(np.zeros(2, dtype=np.float32))
    assert truncated
    assert len(env.frames) == 1 + 20 // 3 + 1
    env.reset(options={"goal": [0.8, 0.6]})
    env.step(np.array([0.0, 1.0], dtype=np.float32))
    assert len(env.frames) == 2, "a success is the end of the episode, so its picture is taken"


def test_a_large_clip_is_kept_below_a_megabyte(monkeypatch):
    monkeypatch.setattr(film, "LARGEST", 30_000)
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    assert len(webp(list(noise), 200, 2)) <= 30_000


class Blank(gymnasium.Env):
    """Has no pictures."""


def test_an_environment_without_pictures_says_so():
    with pytest.raises(UsageError, match="draws no pictures"):
        picture(Blank(), 64)


def test_a_gymnasium_environment_is_asked_for_its_pictures(monkeypatch):
    env = opened(GymFactory("CartPole-v1"))
    assert env.render_mode == "rgb_array"
    drawn = np.zeros((400, 600, 3), dtype=np.uint8)
    monkeypatch.setattr(type(env), "render", lambda self: drawn)
    assert picture(env, 60).shape == (40, 60, 3)


def test_no_torch_in_the_parent_of_a_child_that_may_crash():
    code = "import sys, perdure.video, perdure.doctor; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})
    assert json.loads(done.stdout) is False
