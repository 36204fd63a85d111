"""The Panda stream: layouts, options and a missing simulator (always), and its simulator (where panda-gym is installed)."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from quick import quick

import perdure
from perdure.benchmarks import frozen, panda
from perdure.benchmarks.panda_env import HORIZON, RANGES, TASKS, PandaFactory, goals, raw_environment
from perdure.benchmarks.panda_layout import ABSENT, BLOCKS, Layout
from perdure.benchmarks.panda_source import PandaSource, measured
from perdure.core.errors import UsageError
from perdure.core.matrix import Episode
from perdure.data.collect import collect
from perdure.data.store import Dataset
from perdure.evaluate.rollout import rollout
from perdure.experiment import versions
from perdure.run_config import resolve
from perdure.streams import load_stream, outline

WITHOUT = "panda-gym is not installed: pip install 'perdure[panda]'"
simulated = pytest.mark.skipif(find_spec("panda_gym") is None, reason=WITHOUT)

OWN = {"reach": (13, 3), "push": (25, 3), "pick-and-place": (26, 4)}


def quiet(text):
    pass


def played(env, act, goal, noise=0.0, steps=HORIZON, seed=0):
    """Observations, rewards, successes, and how the episode ended; `act` takes the task's own observation."""
    generator = np.random.default_rng(seed)
    obs, _ = env.reset(options={"goal": goal})
    observations, rewards, successes, terminated, truncated = [obs], [], [], False, False
    for _ in range(steps):
        action = np.clip(act(obs), -1, 1)
        obs, reward, terminated, truncated, info = env.step(action + noise * generator.standard_normal(len(action)))
        observations.append(obs)
        rewards.append(reward)
        successes.append(info["success"])
        if terminated or truncated:
            break
    return np.stack(observations), np.asarray(rewards), successes, (terminated, truncated)


# -- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_published_sizes(task):
    spec = Layout(task, "separate").spec
    assert (spec.obs.size, spec.action.size) == OWN[task]
    compat = Layout(task, "compat").spec
    assert (compat.obs.size, compat.action.size) == (26, 4)
    assert compat.obs.names[: OWN[task][0]] == spec.obs.names


def test_aligned_observations_have_the_same_quantities_at_the_same_places():
    specs = [Layout(task).spec for task in TASKS]
    assert len({spec.obs.names for spec in specs}) == 1
    assert [spec.action.size for spec in specs] == [3, 3, 4]
    names, keys = specs[0].obs.names, len(BLOCKS)
    assert len(set(names)) == len(names) == 26 + keys
    for task in TASKS:
        own, aligned = Layout(task, "separate"), Layout(task)
        values = np.arange(1.0, 1 + own.spec.obs.size)
        laid = aligned.observations(np.stack([values, -values]))
        assert laid.shape == (2, len(names)) and laid.dtype == np.float32
        first = dict(zip(names, laid[0].tolist(), strict=True))
        assert {name: first[name] for name in own.spec.obs.names} == dict(zip(own.spec.obs.names, values.tolist(), strict=True))
        for key in BLOCKS:
            assert first[f"has_{key}"] == (key not in ABSENT[task])
        absent = [name for name in names[:-keys] if name not in own.spec.obs.names]
        assert all(first[name] == 0 for name in absent)
        assert (laid[0, -keys:] == laid[1, -keys:]).all()


@pytest.mark.parametrize("task", TASKS)
def test_compat_pads_at_the_end(task):
    layout, (size, count) = Layout(task, "compat"), OWN[task]
    laid = layout.observations(np.ones((3, size)))
    assert (laid[:, :size] == 1).all() and not laid[:, size:].any() and laid.shape == (3, 26)
    actions = layout.actions(np.full((2, count), 0.5))
    assert (actions[:, :count] == 0.5).all() and not actions[:, count:].any() and actions.shape == (2, 4)
    assert layout.executed(np.full(4, 7.0)).tolist() == [1.0] * count


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Layout("rech"), "there is no Panda task 'rech'; did you mean 'reach'"),
    (lambda: Layout("reach", "aligne"), "layout is 'aligne'; did you mean 'aligned'"),
    (lambda: PandaFactory("reach", "fixd"), "variant is 'fixd'; did you mean 'fixed'"),
    (lambda: raw_environment("flip"), "there is no Panda task 'flip'; known: reach"),
    (lambda: goals("rech"), "did you mean 'reach'"),
    (lambda: measured("rech"), "did you mean 'reach'"),
    (lambda: outline("panda3-v3", {"episodes": 1001}), "stream.episodes is 1001; a Panda task has goals for 2 to 1000"),
    (lambda: outline("panda3-v3", {"layout": "padded"}), "stream.layout"),
    (lambda: outline("panda3-v3", {"horizon": 100}), "stream.horizon|horizon"),
])  # fmt: skip
def test_wrong_values_are_refused_in_one_sentence(make, words):
    with pytest.raises(UsageError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


# -- goals, ladders, options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_goals_are_disjoint_and_in_range(task):
    lists = goals(task)
    assert {name: len(values) for name, values in lists.items()} == {**frozen.SIZES, "data": panda.MOST}
    every = np.asarray([goal for values in lists.values() for goal in values])
    assert len(np.unique(every, axis=0)) == len(every)
    low, high = np.asarray(list(RANGES[task].values())).T
    assert ((every >= low) & (every <= high)).all()


@pytest.mark.parametrize("task", TASKS)
def test_ladders_go_down(task):
    found = measured(task)
    successes = [row["success"] for row in found["levels"]]
    assert found["expert"] >= 0.95
    assert successes == sorted(successes, reverse=True)
    assert successes[0] >= 0.95 and successes[-1] <= 0.2
    assert len(PandaSource(task).ladder()) == 5


def test_what_the_options_change():
    plain = outline("panda3-v3", {})
    assert [task.name for task in plain] == list(TASKS) == list(panda.TEXTS)
    assert [(task.quality, task.episodes, task.steps) for task in plain] == [("expert", 1000, 50000)] * 3
    assert str(plain[0].folder).endswith("panda-v3/reach/fixed-expert-1000x50")
    assert [task.folder for task in outline("panda3-v3", {"layout": "compat"})] == [task.folder for task in plain]
    assert not {t.folder for t in outline("panda3-v3", {"variant": "published"})} & {t.folder for t in plain}
    assert [panda.variant_of(panda.Options(variant=v, layout=y)) for v, y in
            (("fixed", "aligned"), ("published", "aligned"), ("published", "compat"))] == [
        "", "published length", "published length, compat layout"]  # fmt: skip
    assert resolve("finetune", "panda3-v3").policy_config == resolve("finetune", "cw3-v3").policy_config


MISSING = """
import sys
sys.modules["panda_gym"] = None
from perdure.benchmarks.panda_env import PandaFactory
from perdure.core.errors import UsageError
sys.version_info = {version}
try:
    PandaFactory("push")()
except UsageError as problem:
    print(problem)
"""


@pytest.mark.parametrize(("version", "words"), [((3, 11, 7), ": pip install 'perdure"), ((3, 12, 1), "needs Python 3.11")])
def test_a_missing_simulator_is_one_sentence(version, words):
    done = subprocess.run([sys.executable, "-c", MISSING.format(version=version)], env={"PYTHONPATH": ":".join(sys.path)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith("panda-gym is not installed (panda_gym): ")
    assert words in done.stdout and done.stdout.count("\n") == 1


# -- the simulator ---------------------------------------------------------------------------------------------------


@simulated
@pytest.mark.parametrize("task", TASKS)
def test_an_episode_follows_from_goal_and_actions_alone(task):
    source, act = PandaSource(task), PandaSource(task).expert()
    first, second, third = source.goals()[:3]
    fresh, used = source.environment(), source.environment()
    played(used, act, second, noise=0.3, steps=30)  # left in the middle, perhaps with the cube in the hand
    played(used, act, third, steps=25)
    here, there = played(fresh, act, first, 0.2), played(used, act, first, 0.2)
    assert here[0].tobytes() == there[0].tobytes()
    assert here[1].tobytes() == there[1].tobytes()
    assert here[0].shape == (HORIZON + 1, OWN[task][0]) and here[3] == (False, True)
    for env in (fresh, used):
        env.close()
        env.close()  # a second time changes nothing


@simulated
@pytest.mark.parametrize("task", TASKS)
def test_the_first_observation_is_the_goal(task):
    env, layout = PandaFactory(task, layout="separate")(), Layout(task, "separate")
    goal = goals(task)["final"][0]
    obs, info = env.reset(options={"goal": goal})
    named = dict(zip(RANGES[task], goal, strict=True))
    at = dict(zip(layout.spec.obs.names, obs.tolist(), strict=True))
    for name, value in named.items():
        what, axis = name.split("_")
        key = "desired_goal" if what == "goal" else "object_position"
        assert at[f"{key}_{axis}"] == pytest.approx(value, abs=1e-6)
    assert at["time_left"] == 1 and info["success"] is False
    assert env.step(np.zeros(OWN[task][1]))[0][layout.own["time_left"]] == pytest.approx(1 - 1 / HORIZON)
    env.close()


@simulated
@pytest.mark.parametrize("task", TASKS)
def test_layouts_show_one_episode(task):
    actions = np.random.default_rng(0).uniform(-1, 1, (6, OWN[task][1]))
    seen = {}
    for name in ("separate", "aligned", "compat"):
        env, layout = PandaFactory(task, layout=name)(), Layout(task, name)
        obs = [env.reset(options={"goal": goals(task)["final"][0]})[0]]
        padding = np.ones(layout.spec.action.size - OWN[task][1])
        obs += [env.step(np.concatenate([action, padding]))[0] for action in actions]
        seen[name] = np.stack(obs)
        assert env.observation_space.shape == layout.spec.obs.shape == seen[name].shape[1:]
        assert env.action_space.shape == layout.spec.action.shape
        env.close()
    for name in ("aligned", "compat"):
        assert seen[name].tobytes() == Layout(task, name).observations(seen["separate"]).tobytes()


@simulated
@pytest.mark.parametrize("task", TASKS)
def test_both_variants(task):
    act, goal = PandaSource(task).expert(), goals(task)["final"][0]
    fixed, published = PandaSource(task).environment(), PandaSource(task, "published").environment()
    whole, cut = played(fixed, act, goal), played(published, act, goal)
    first = whole[2].index(True)
    assert whole[3] == (False, True) and len(whole[1]) == HORIZON
    assert cut[3] == (True, False) and cut[2] == whole[2][: first + 1]
    assert cut[1].tobytes() == whole[1][: first + 1].tobytes()
    assert (whole[1] < 0).all() and first + 1 > 5
    assert all(type(success) is bool for success in whole[2])
    fixed.close()
    published.close()


@simulated
@pytest.mark.parametrize(("goal", "words"), [
    (None, "got no goal; give options="), ((0.0, 0.1), "has shape \\[2\\]; it is goal_x"),
    ((0.0, 0.1, 0.0, 0.2), "has object_y 0.2; give -0.15 to 0.15 m"), ((float("nan"), 0, 0, 0), "has goal_x nan"),
])  # fmt: skip
def test_wrong_goals_are_refused(goal, words):
    env = PandaFactory("push")()
    with pytest.raises(UsageError, match=words):
        env.reset(options={"goal": goal})
    env.close()


@simulated
def test_pictures_and_silence(capfd):
    env = PandaFactory("pick-and-place")()
    env.reset(options={"goal": goals("pick-and-place")["final"][0]})
    frame = env.frame(48)
    assert frame.shape == (48, 48, 3) and frame.dtype == np.uint8 and frame.std() > 5
    env.close()
    assert capfd.readouterr() == ("", "")


@simulated
def test_a_dataset_does_not_depend_on_workers_and_its_card_has_success_and_return(tmp_path):
    folders = [collect(PandaSource("pick-and-place"), tmp_path / str(n), quality="mixed", episodes=6, seed=0, workers=n)
               for n in (0, 2)]
    one, other = map(Dataset.open, folders)
    assert one.digest == other.digest
    assert one.successes[0] and one.lengths.tolist() == [HORIZON] * 6
    assert one.card["behaviour"]["noise"] == [0, 1, 2, 3, 4, 0]
    assert (one.returns < 0).all()
    assert {"panda-gym", "pybullet"} <= set(one.card["versions"])


@simulated
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds(task):
    env, act = PandaSource(task).environment(), PandaSource(task).expert()
    found = [played(env, act, goal)[2] for goal in goals(task)["final"]]
    env.close()
    assert np.mean([any(successes) for successes in found]) >= 0.95
    assert np.median([successes.index(True) + 1 for successes in found if any(successes)]) > 8  # not over before it begins


@simulated
def test_a_stream_lays_its_recordings_out(tmp_path, monkeypatch):
    quick(monkeypatch, tmp_path)
    streams = {name: load_stream("panda3-v3", say=quiet, episodes=2, layout=name) for name in ("aligned", "separate", "compat")}
    for index, task in enumerate(TASKS):
        own = streams["separate"].tasks[index].data
        assert own.folder is not None
        for name in ("aligned", "compat"):
            data, layout = streams[name].tasks[index].data, Layout(task, name)
            assert data.array("observations").tobytes() == layout.observations(own.array("observations")).tobytes()
            assert data.array("actions").tobytes() == layout.actions(own.array("actions")).tobytes()
            assert (data.returns == own.returns).all() and data.card["goals"] == own.card["goals"]
            assert data.card["behaviour"] == own.card["behaviour"] and data.card["split"] == own.card["split"]
    assert streams["compat"].title == "panda3-v3 (compat layout)"
    assert {task.stops_at_success for task in streams["aligned"].tasks} == {False}
    assert {"panda-gym", "pybullet"} <= set(versions(streams["aligned"]))


class Expert:
    """A scripted expert as an actor, for observations in the task's own spaces."""

    def __init__(self, task):
        self.act_on = PandaSource(task).expert()

    def start(self, n):
        return {}

    def act(self, obs, carry, g, reward=None):
        import torch

        return torch.from_numpy(np.clip([self.act_on(row) for row in obs.numpy()], -1, 1).astype(np.float32)), carry


@simulated
def test_evaluation_reports_returns_and_does_not_depend_on_workers():
    factory, chosen = PandaFactory("reach", layout="separate"), goals("reach")["final"][:3]
    found = [rollout(Expert("reach"), factory, chosen, spec=Layout("reach", "separate").spec, seed=0, place=("test",), slots=2,
                     workers=n, stop_at_success=False) for n in (0, 2)]  # fmt: skip
    assert found[0] == found[1]
    assert all(isinstance(e, Episode) and e.success and e.length == HORIZON and e.raw_return < 0 for e in found[0])


@simulated
@pytest.mark.slow
def test_finetune_runs_from_nothing(tmp_path, monkeypatch):
    quick(monkeypatch, tmp_path)
    result = perdure.run(
        "finetune", "panda3-v3", quiet=True, stream_options={"episodes": 4}, method_options={"steps": 60, "batch": 32},
        policy_options={"width": 32}, evaluation={"episodes": 2, "shared": 1, "curve": 0, "slots": 2},
    )  # fmt: skip
    assert result.matrix.complete and result.matrix.tasks == TASKS
    returns = result.raw_returns()
    assert np.isfinite(returns[-1]).all() and (returns[-1] < 0).all()
    assert {e.length for cell in result.matrix.cells.values() for e in cell.episodes} == {HORIZON}
    from perdure.report.collect import collect as collected
    from perdure.report.model import build

    table = build(collected([result.folder]))
    assert "raw_return" in [column.key for column in table.columns]
    assert table.rows[0].entries["raw_return"].summary.mean == pytest.approx(returns[-1].mean())
