"""The Atari stream: options, players and a missing emulator (always), and its emulator (where the extra is installed)."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from perdure.api import run
from perdure.benchmarks import atari, atari_source
from perdure.benchmarks.atari_env import ACTIONS, MINIMAL, AtariFactory
from perdure.benchmarks.atari_source import LADDER, PLAYERS, REFERENCES, AtariSource, weak
from perdure.core.errors import UsageError
from perdure.data.roll import Level, episode_generator, roll_episode
from perdure.data.sampler import Sampler
from perdure.evaluate.rollout import rollout
from perdure.run_config import resolve
from perdure.streams import load_stream, outline

WITHOUT = "the Atari emulator is not installed: pip install 'perdure[atari]'"
emulated = pytest.mark.skipif(find_spec("ale_py") is None or find_spec("cv2") is None, reason=WITHOUT)


def quiet(text):
    pass


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Options of a small stream whose data lie in a folder of the test's own."""
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))
    return {"episodes": 2, "horizon": 40}


# -- without the emulator --------------------------------------------------------------------------------------------


def test_every_game_has_all_that_the_stream_needs():
    games = list(MINIMAL)
    assert list(atari.TEXTS) == list(REFERENCES) == list(PLAYERS) == games == list(atari.ORDERS["atari5-v5"])
    assert all(set(names) <= set(ACTIONS) and names[0] == "NOOP" for names in MINIMAL.values())
    assert not any(weak(game) for game in games), "and the cards would say so"


def test_a_weak_player_is_called_so(monkeypatch):
    random, person = REFERENCES["alien"]
    assert "weak" not in AtariSource("alien").origin
    for points in ({"random": 200.0, "player": 399.0}, {"random": 1.0, "player": random + 0.04 * (person - random)}):
        monkeypatch.setattr(atari_source, "measured", lambda game, points=points: points)
        assert weak("alien") and AtariSource("alien").origin.endswith("a weak player")


def test_episodes_of_data_and_evaluation_are_different_ones():
    lists = atari.goals()
    used = [*lists.final, *lists.curve, *lists.probe]
    assert len(set(used)) == len(used) == 70
    assert not set(used) & set(AtariSource("boxing").goals())


@pytest.mark.parametrize(("options", "words"), [
    ({"episodes": 1}, "stream.episodes is 1; give 2 to 1000"),
    ({"horizon": 0}, "stream.horizon is 0; give 1 to 27000 decisions"),
    ({"actions": "few"}, "stream.actions"),
    ({"quality": "medium"}, "stream.quality"),
])  # fmt: skip
def test_wrong_options_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        outline("atari5-v5", options)


def test_wrong_factories_are_named():
    with pytest.raises(UsageError, match="no Atari game 'boxin' here"):
        AtariFactory("boxin")
    with pytest.raises(UsageError, match="actions is 'all'"):
        AtariFactory("boxing", actions="all")
    with pytest.raises(UsageError, match="horizon is 0"):
        AtariFactory("boxing", horizon=0)


def test_the_outline_names_folders_that_layouts_share():
    plain = outline("atari5-v5", {})
    assert str(plain[0].folder).endswith("atari-v5/breakout/expert-20x1000")
    assert [task.folder for task in outline("atari5-v5", {"actions": "minimal"})] == [task.folder for task in plain]
    assert not {t.folder for t in outline("atari5-v5", {"quality": "mixed"})} & {t.folder for t in plain}
    assert resolve("finetune", "atari5-v5", policy="dt").policy_config["context"] == 8
    assert resolve("finetune", "atari5-v5", policy="dt").method_config["batch"] == 16


def test_what_the_players_want():
    memory = np.zeros(128, int)
    breakout = PLAYERS["breakout"]()
    assert breakout.act(memory) == "FIRE", "no ball"
    memory[[72, 99, 101]] = 100, 160, 80
    assert breakout.act(memory) == "RIGHT"
    memory[99] = 80
    assert breakout.act(memory) == "LEFT"
    boxing, memory = PLAYERS["boxing"](), np.zeros(128, int)
    memory[[32, 33, 34, 35]] = 20, 100, 50, 50
    assert boxing.act(memory) == "DOWNRIGHT", "towards the other, and aside"
    memory[33] = 40
    assert boxing.act(memory) == "DOWNFIRE" and boxing.act(memory) == "DOWN", "a punch every other time"
    one = PLAYERS["atlantis"]()
    assert [one.act(memory) for _ in range(4)] == ["NOOP", "LEFTFIRE", "NOOP", "RIGHTFIRE"]


@pytest.mark.parametrize("game", MINIMAL)
def test_players_choose_known_actions_in_any_memory(game):
    rng, player = np.random.default_rng(0), PLAYERS[game](3)
    chosen = {player.act(rng.integers(0, 256, 128)) for _ in range(300)}
    assert chosen <= set(MINIMAL[game]) and len(chosen) > 1


def test_discrete_actions_are_disturbed_in_the_share_that_the_level_says():
    class Env:
        def reset(self, **_):
            return np.zeros((1, 4, 4), np.uint8), {}

        def step(self, action):
            return np.zeros((1, 4, 4), np.uint8), 0.0, False, False, {}

    spec = AtariFactory("breakout").spec

    def share(level):
        one = roll_episode(Env(), lambda obs: 2, (0.0,), level, episode_generator(0, "x", 0), spec=spec, horizon=4000)
        return (one.actions != 2).mean()

    assert share(Level()) == 0
    assert share(LADDER[3]) == pytest.approx(0.3 * 17 / 18, abs=0.03)
    assert share(Level(random=0.5)) == pytest.approx(0.5 * 17 / 18, abs=0.03)


def test_without_the_emulator_one_sentence_says_so():
    code = """
import sys
sys.modules["ale_py"] = None
from perdure.benchmarks.atari_env import AtariFactory
from perdure.core.errors import UsageError
try:
    AtariFactory("boxing")()
except UsageError as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "the Arcade Learning Environment is not installed (ale_py): pip install 'perdure[atari]'"


# -- with it ---------------------------------------------------------------------------------------------------------


def played(env, goal, actions):
    obs, _ = env.reset(options={"goal": goal})
    seen, rewards = [obs], []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(seen), rewards, (terminated, truncated)


@emulated
@pytest.mark.parametrize("game", MINIMAL)
def test_the_actions_are_those_of_the_emulator(game):
    for kind in ("full", "minimal"):
        env = AtariFactory(game, actions=kind)()
        assert env._env.unwrapped.get_action_meanings() == list(env.factory.names)
        env.close()


@emulated
def test_an_episode_is_named_by_its_number():
    env, other = AtariFactory("breakout", 60)(), AtariFactory("breakout", 60)()
    actions = [1, *([2, 3] * 40)]
    one, rewards, ends = played(env, [7.0], actions)
    assert one.shape == (61, 4, 84, 84) and one.dtype == np.uint8 and len(rewards) == 60 and ends == (False, True)
    played(env, [8.0], actions[:20])
    np.testing.assert_array_equal(played(env, [7.0], actions)[0], one)
    np.testing.assert_array_equal(played(other, [7.0], actions)[0], one)
    assert not np.array_equal(played(env, [8.0], actions)[0], one)
    np.testing.assert_array_equal(env.reset(seed=7)[0], env.reset(options={"goal": [7]})[0])
    for goal in ([1.5], [-1], [1, 2], [float("nan")], [float("inf")], ["a"], 3):
        with pytest.raises(UsageError, match="it is one whole number"):
            env.reset(options={"goal": goal})
    assert env.frame(50).shape == (50, 50, 3)


@emulated
def test_frames_are_stacked_as_they_were_stored():
    whole, single = AtariFactory("boxing", 30)(), AtariFactory("boxing", 30, frames=1)()
    actions = [i % 18 for i in range(12)]
    stacked, frames = played(whole, [3], actions)[0], played(single, [3], actions)[0]
    for t, obs in enumerate(stacked):
        np.testing.assert_array_equal(obs, np.concatenate([frames[max(t - back, 0)] for back in (3, 2, 1, 0)]))


@emulated
def test_the_stream_reads_what_its_environments_show(short):
    stream = load_stream("atari5-v5", say=quiet, **short)
    assert [task.name for task in stream.tasks] == list(MINIMAL)
    few = load_stream("atari5-v5", say=quiet, actions="minimal", **short)
    assert few.title == "atari5-v5 (minimal actions, 40 decisions)" and stream.title == "atari5-v5 (40 decisions)"
    task = stream.tasks[0]
    assert task.data.array("observations").shape[1:] == (1, 84, 84), "every frame is stored once"
    one, env = task.data.trajectory(0), task.env()
    seen, rewards, _ = played(env, one.goal, one.actions)
    batch = Sampler(task.data, 0).windows_at(torch.arange(len(one.actions)), 1)
    np.testing.assert_array_equal(batch.obs[:, 0], seen[:-1])
    np.testing.assert_array_equal(one.rewards, rewards)
    names, own = ACTIONS, MINIMAL["breakout"]
    assert [names[a] for a in task.data.array("actions")] == [own[a] for a in few.tasks[0].data.array("actions")]
    assert task.score.score(None, 30.5) == 1 and task.score.score(None, 1.7) == 0


@emulated
def test_a_run_reports_raw_clipped_and_normalised_scores(short, tmp_path, capsys):
    method, evaluation = {"steps": 2, "batch": 2}, {"episodes": 2, "shared": 2, "curve": 0, "slots": 2}
    result = run("finetune", "atari5-v5", policy="dt", stream_options=short, method_options=method, evaluation=evaluation,
                 out=tmp_path / "run")
    cell = result.matrix.cells[5, 3]
    low, high = REFERENCES["boxing"]
    for episode in cell.episodes:
        assert episode.score == pytest.approx((episode.raw_return - low) / (high - low))
        assert abs(episode.clipped_return) <= abs(episode.raw_return)


@emulated
def test_equal_episodes_are_counted_once():
    class Still:
        def start(self, n):
            return {}

        def act(self, obs, carry, g, reward=None):
            return torch.zeros(len(obs), dtype=torch.int64), carry

    factory = AtariFactory("breakout", 20)
    episodes = rollout(Still(), factory, atari.goals().final[:3], spec=factory.spec, seed=0, place=("x",), slots=3, workers=0,
                       scale=atari.scale("breakout"))
    assert len({episode.trace for episode in episodes}) == 1, "without a ball nothing happens"
