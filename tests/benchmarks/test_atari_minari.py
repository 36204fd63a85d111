"""Minari's Atari episodes become the stream's data: a folder as `minari download` leaves it, in each of its formats."""

import json
from importlib.util import find_spec

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from PIL import Image

from perdure.benchmarks.atari_env import ACTIONS, MINIMAL, AtariFactory
from perdure.core.errors import UsageError
from perdure.data.convert.minari_atari import grey
from perdure.streams import load_stream, outline

LENGTHS = (7, 12)
HORIZON = 10


def screens(game, episode):
    """(T+1, 210, 160, 3): grey bars that move, a colour per game."""
    steps = LENGTHS[episode] + 1
    made = np.zeros((steps, 210, 160, 3), np.uint8)
    for t in range(steps):
        made[t, :, 8 * t : 8 * t + 40] = (40 * list(MINIMAL).index(game), 100 + 50 * episode, 10 * t)
    return made


def save(root, game, data_format="hdf5", jpeg=False, actions=None):
    names = MINIMAL[game] if actions is None else actions
    folder = root / "atari" / game / "expert-v0" / "data"
    folder.parent.mkdir(parents=True)
    storage = MinariStorage.new(folder, observation_space=spaces.Box(0, 255, (210, 160, 3), np.uint8),
                                action_space=spaces.Discrete(len(names)), data_format=data_format, jpeg_encoding=jpeg)
    storage.update_episodes([
        EpisodeBuffer(id=e, observations=screens(game, e), actions=np.arange(length) % len(names),
                      rewards=np.full(length, 7.0 + e), terminations=np.eye(1, length, length - 1, dtype=bool)[0],
                      truncations=np.zeros(length, bool))
        for e, length in enumerate(LENGTHS)
    ])  # fmt: skip
    return folder


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def load(**options):
    said = []
    return load_stream("atari5-v5", say=said.append, quality="minari", horizon=HORIZON, **options), said


def close(frames, wanted, most):
    return np.abs(np.asarray(frames).astype(int) - wanted.astype(int)).max() <= most


def test_the_downloaded_folder_becomes_the_stream_and_is_then_not_needed(place):
    for game in MINIMAL:
        save(place, game)
    stream, said = load()
    assert len(said) == 5 and "breakout" in said[0]
    for task in stream.tasks:
        data = task.data
        assert data.lengths.tolist() == [7, 10], "cut at the horizon"
        assert task.spec.action.n == data.spec.action.n == 18
        cut = data.trajectory(1)
        assert not cut.terminated.any() and cut.truncated.tolist() == [False] * 9 + [True]
        whole = data.trajectory(0)
        assert whole.terminated[-1] and not whole.truncated.any()
        assert (whole.rewards == 7).all() and (cut.rewards == 8).all(), "points, not their signs"
        for e in (0, 1):
            wanted = np.stack([grey(screen) for screen in screens(task.name, e)])[: len(data.trajectory(e).actions) + 1]
            assert np.array_equal(np.asarray(data.trajectory(e).observations)[:, -1], wanted)
        names = [ACTIONS[a] for a in data.trajectory(0).actions]
        assert names == [MINIMAL[task.name][t % len(MINIMAL[task.name])] for t in range(7)], "by name, not by number"
        assert task.env.pixels == "published" and data.card["quality"] == "minari"
    for folder in place.rglob("main_data.hdf5"):
        folder.unlink()
    again, said = load()
    assert not said and again.tasks[0].data.digest == stream.tasks[0].data.digest
    assert stream.variant == "10 decisions, published frames"


@pytest.mark.parametrize("kind", [("hdf5", True), ("arrow", False), ("arrow", True)])
def test_every_format_that_minari_has_gives_the_same_frames(place, kind):
    for game in MINIMAL:
        save(place, game, *kind) if game == "alien" else save(place, game)
    stream, _ = load(actions="minimal")
    task = stream.tasks[1]
    assert [t.spec.action.n for t in stream.tasks] == [4, 18, 4, 18, 18]
    wanted = np.stack([grey(screen) for screen in screens("alien", 1)])[:11]
    assert close(task.data.trajectory(1).observations[:, -1], wanted, 40 if kind[1] else 0), "but for what JPEG loses"


def test_frames_are_luma_and_bilinear():
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 3), np.uint8)
    luma = np.round(screen @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    wanted = np.asarray(Image.fromarray(luma).resize((84, 84), Image.Resampling.BILINEAR))
    assert close(grey(screen), wanted, 1)


def message(**options):
    with pytest.raises(UsageError) as caught:
        load(**options)
    return str(caught.value)


def test_what_is_not_downloaded_is_named_before_anything_is_converted(place, tmp_path):
    for game in ("breakout", "alien"):
        save(place, game)
    assert message().endswith("get it with: minari download atari/atlantis/expert-v0")
    assert not (tmp_path / "data").exists()
    assert [task.source for task in outline("atari5-v5", {"quality": "minari"})] == [None] * 5


def damage(file, change):
    with h5py.File(file, "a") as opened:
        change(opened)


@pytest.mark.parametrize(("change", "wanted"), [
    (lambda file: file.move("episode_1", "elsewhere"), "episode 1 is missing"),
    (lambda file: file["episode_0"].pop("rewards"), "episode 0 has no array 'rewards'"),
    (lambda file: file.__setitem__("episode_2", h5py.SoftLink("/episode_0")), None),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence(place, change, wanted):
    for game in MINIMAL:
        folder = save(place, game)
    damage(place / "atari" / "breakout" / "expert-v0" / "data" / "main_data.hdf5", change)
    said = message()
    assert (wanted or "soft or external link") in said and "\n" not in said
    assert folder.exists()


def test_another_games_actions_are_refused(place):
    for game in MINIMAL:
        save(place, game, actions=ACTIONS if game == "breakout" else None)
    assert "breakout has 4 actions" in message()


def test_a_space_that_would_be_built_from_code_is_refused(place):
    for game in MINIMAL:
        folder = save(place, game)
    facts = json.loads((folder / "metadata.json").read_text())
    del facts["observation_space"]
    (folder / "metadata.json").write_text(json.dumps(facts))
    assert "observation_space is missing" in message()


@pytest.mark.skipif(find_spec("ale_py") is None, reason="the Atari emulator is not installed: pip install 'perdure[atari]'")
def test_the_emulator_makes_frames_as_the_data_have_them():
    env = AtariFactory("breakout", pixels="published")()
    obs, _ = env.reset(options={"goal": (3.0,)})
    assert obs.shape == (4, 84, 84) and (obs == obs[0]).all(), "the first frame, four times"
    for action in (1, 3, 3, 4):
        obs, *_ = env.step(action)
    assert np.array_equal(obs[-1], grey(env._console.getScreenRGB()))
    other = AtariFactory("breakout")()
    other.reset(options={"goal": (3.0,)})
    for action in (1, 3, 3, 4):
        seen, *_ = other.step(action)
    assert (seen[-1] != obs[-1]).any()
