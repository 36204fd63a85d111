"""Behaviour policies from files: the network, who acts in which quality, and data that do not contain what was asked for."""

from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save

from perdure.benchmarks import behaviour
from perdure.benchmarks.behaviour import Network, network, player
from perdure.benchmarks.mujoco_source import MujocoSource, training_of
from perdure.core.errors import UsageError
from perdure.core.files import write_json
from perdure.data.collect import collect
from perdure.data.roll import Level
from perdure.data.store import Dataset

pytest.importorskip("mujoco")


def arrays(seed, inputs=18, actions=6):
    rng = np.random.default_rng(seed)
    sizes = [inputs, 5, actions]
    layers = {f"weight_{i}": rng.normal(size=(a, b)) for i, (a, b) in enumerate(pairwise(sizes))}
    biases = {f"bias_{i}": rng.normal(size=b) for i, b in enumerate(sizes[1:])}
    values = {"mean": rng.normal(size=inputs), "std": rng.uniform(1, 2, inputs), "log_std": np.full(actions, -1.0)}
    return {name: value.astype(np.float32) for name, value in (layers | biases | values).items()}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Three checkpoints of cheetah-vel, of which nobody knows what they can do."""
    every = {f"{name}.{part}": value for seed, name in enumerate(("steps-1", "steps-2", "steps-3"))
             for part, value in arrays(seed).items()}
    (tmp_path / "cheetah-vel.safetensors").write_bytes(save(every))
    write_json(tmp_path / "card.json", {"trainings": {"cheetah-vel": {
        "levels": {"medium": "steps-2", "expert": "steps-3"}, "checkpoints": {"steps-1": {}, "steps-2": {}, "steps-3": {}},
    }}})  # fmt: skip
    monkeypatch.setattr(behaviour, "FOLDER", tmp_path)
    monkeypatch.setattr(behaviour, "CARD", tmp_path / "card.json")
    behaviour.card.cache_clear()
    behaviour._weights.cache_clear()
    yield tmp_path
    behaviour.card.cache_clear()
    behaviour._weights.cache_clear()


def test_a_network_is_a_tanh_perceptron_of_normalised_inputs():
    made = arrays(0)
    inputs = np.random.default_rng(9).normal(size=18) * 30
    hidden = np.tanh(np.clip((inputs - made["mean"]) / made["std"], -10, 10) @ made["weight_0"] + made["bias_0"])
    np.testing.assert_allclose(Network(made)(inputs), hidden @ made["weight_1"] + made["bias_1"], rtol=1e-6)


def test_what_is_asked_for_comes_after_the_observation_and_noise_is_the_episodes(trained):
    act, env = network("cheetah-vel", "steps-1"), type("Env", (), {"steps": 0, "episode": 4})()
    obs = np.arange(20, dtype=np.float32)
    expert = player(act, (0.45,), env, 17)
    first = expert(obs)
    mean = act(np.concatenate([obs[:17], [0.45]]))
    noise = np.random.default_rng(4).standard_normal(6) * np.exp(-1.0)
    np.testing.assert_allclose(first, mean + noise)
    assert np.array_equal(player(act, (0.45,), env, 17)(obs), first)
    env.episode = 5
    assert not np.array_equal(player(act, (0.45,), env, 17)(obs), first)


def test_qualities_are_made_of_checkpoints(trained):
    found = MujocoSource("cheetah-vel", "velocity-0.45").qualities()
    by = {name: [level.behaviour for level in levels] for name, levels in found.items()}
    assert by == {"random": [""], "medium": ["steps-2"], "expert": ["steps-3"], "medium-replay": ["steps-2", "steps-1"],
                  "full-replay": ["steps-3", "steps-2", "steps-1"], "medium-expert": ["steps-3", "steps-2"]}  # fmt: skip
    assert found["random"] == [Level(random=1.0)]


def test_one_training_for_a_family_and_one_for_each_body():
    assert training_of("ant-dir", "ant-10") == "ant-dir" and training_of("bodies", "hopper") == "hopper"


def test_data_take_turns_and_do_not_say_what_was_asked_for(trained, tmp_path):
    one, other = (MujocoSource("cheetah-vel", task) for task in ("velocity-0.45", "velocity-1.2"))
    made = {}
    for source in (one, other):
        folder = collect(source, tmp_path / source.task, quality="medium-expert", episodes=4, seed=0, workers=0)
        made[source.task] = Dataset.open(folder)
    data = made["velocity-0.45"]
    assert [data.trajectory(e).level for e in range(4)] == [0.0, 1.0, 0.0, 1.0]
    assert data.spec.obs.size == 17 and "policies of cheetah-vel" in data.card["behaviour"]["policy"]
    begins = [made[name].trajectory(0).observations[0] for name in made]
    assert np.array_equal(*begins), "before the first action nothing tells the tasks apart"
    again = collect(one, tmp_path / "again", quality="medium-expert", episodes=4, seed=0, workers=0)
    assert Dataset.open(again).digest == data.digest


@pytest.mark.parametrize(("call", "words"), [
    (lambda folder: network("cheetah-vel", "steps-9"), "has no checkpoint 'steps-9'"),
    (lambda folder: network("cheetahs", "steps-1"), "there are no behaviour policies 'cheetahs'"),
    (lambda folder: collect(MujocoSource("cheetah-vel", "velocity-0.45"), folder / "x", quality="mixed", episodes=2, seed=0,
                            workers=0),
     "quality is 'mixed'; it is one of random, medium"),
])  # fmt: skip
def test_names_that_are_not_there(trained, call, words):
    with pytest.raises(UsageError, match=words):
        call(trained)
