"""Streams from TOML files: what they may say, what they become, and when they count as another stream."""

import numpy as np
import pytest

from perdure.benchmarks.custom import Options, outline, stream, with_content
from perdure.core.errors import UsageError
from perdure.core.spec import Box, Spec
from perdure.data.store import write_dataset
from perdure.data.trajectory import Trajectory
from perdure.run_config import resolve
from perdure.streams import load_stream

SPEC = Spec(Box((3,)), Box((1,), low=(-2.0,), high=(2.0,)))
DATA_ONLY = "[[task]]\nname = 'logs'\ndata = 'set'\n"
PENDULUM = "[[task]]\nname = 'swing'\ndata = 'set'\nenv = 'Pendulum-v1'\n"
RETURN = "score = 'return'\nlow = -1600\nhigh = -150\n"


def dataset(folder, episodes=3, steps=6, success=None, seed=0):
    rng = np.random.default_rng(seed)
    ends = np.arange(steps) == steps - 1
    rolled = [
        Trajectory(rng.normal(size=(steps + 1, 3)), rng.uniform(-1, 1, (steps, 1)), rng.normal(size=steps), ~ends & ends, ends,
                   success=success)
        for _ in range(episodes)
    ]  # fmt: skip
    write_dataset(folder, rolled, name="sample", spec=SPEC, quality="expert", behaviour={"policy": "random"}, licence="MIT",
                  source="a test")  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "cache"))
    dataset(tmp_path / "streams" / "set")
    return tmp_path


def written(place, text):
    (place / "streams" / "kitchen.toml").write_text(text)
    return str(place / "streams" / "kitchen.toml")


def quiet(text):
    pass


def test_a_stream_of_an_environment_and_of_logs(place):
    dataset(place / "data" / "pend" / "named", steps=9)
    head = "[stream]\nname = 'kitchen'\nversion = 3\ntask_id_at_test = false\n"
    named = "[[task]]\nname = 'named'\ndata = 'pend/named'\ntext = 'Swing.'\n"
    path = written(place, head + PENDULUM + RETURN + "env_kwargs = { g = 3.0 }\n" + DATA_ONLY + named)
    made = load_stream(path, say=quiet)
    assert (made.name, made.version, len(made)) == ("kitchen", 3, 3)
    assert not made.protocol.task_id_at_test
    assert made.protocol.past_data_allowed
    swing, logs, third = made.tasks
    assert swing.env.kwargs == {"g": 3.0}
    assert swing.env.horizon == 6  # the longest episode of the data
    assert swing.score.score(None, -150.0) == 1.0
    assert swing.score.score(None, -1600.0) == 0.0
    assert logs.env is None
    assert logs.score.kind == "action_error"
    assert third.text == "Swing."
    assert made.score_scale().kind == "mixed"
    assert "swing: return" in made.score_scale().source
    assert [(task.name, task.quality, task.present) for task in outline(path, Options())] == [
        ("swing", "expert", True), ("logs", "expert", True), ("named", "expert", True)]  # fmt: skip


def test_equal_tasks_share_one_pool_of_environments(place):
    made = load_stream(written(place, PENDULUM + RETURN), say=quiet)
    again = load_stream(written(place, PENDULUM + RETURN), say=quiet)
    assert {made.tasks[0].env: 1}[again.tasks[0].env] == 1


def test_success_is_the_score_where_the_data_know_it(place):
    dataset(place / "streams" / "won", success=True)
    made = load_stream(written(place, PENDULUM.replace("'set'", "'won'")), say=quiet)
    assert made.tasks[0].score.kind == "success"


def test_the_hash_follows_content_and_data_and_not_the_place(place):
    first = resolve("finetune", written(place, DATA_ONLY)).hash
    assert resolve("finetune", written(place, DATA_ONLY)).hash == first
    assert resolve("finetune", written(place, DATA_ONLY + "text = 'x'\n")).hash != first
    (place / "streams").rename(place / "moved")
    (place / "moved" / "kitchen.toml").write_text(DATA_ONLY)
    assert resolve("finetune", str(place / "moved" / "kitchen.toml")).hash == first
    (place / "moved" / "set").rename(place / "moved" / "old")
    dataset(place / "moved" / "set", seed=1)
    assert resolve("finetune", str(place / "moved" / "kitchen.toml")).hash != first


def test_a_changed_file_is_not_loaded_as_the_old_stream(place):
    path = written(place, DATA_ONLY)
    options = with_content(path, Options())
    assert with_content(path, options) == options
    written(place, DATA_ONLY + "text = 'x'\n")
    with pytest.raises(UsageError, match="changed since"):
        stream(path, options, quiet)


WRONG = {
    "name = 1": "unknown key 'name'",
    "[stream]\nname = '../x'\n" + DATA_ONLY: "no safe folder name",
    "[stream]\nnam = 'x'\n" + DATA_ONLY: "unknown key 'nam'; did you mean 'name'?",
    "[stream]\nversion = 'x'\n" + DATA_ONLY: "version is 'x'; it must be a whole number",
    "[stream]\nversion = true\n" + DATA_ONLY: "version is True; it must be a whole number",
    "task = 3": "task is 3; it must be a list",
    DATA_ONLY + "vector = []\n": "vector is []; give a list of numbers",
    DATA_ONLY + "vector = [1.0, true]\n": "vector is [1.0, True]; give a list of numbers",
    DATA_ONLY + "vector = [1.0, 2]\n" + DATA_ONLY: "the tasks' vectors have 0, 2 numbers",
    "task = [3]": "it must be a table",
    "": "has no tasks",
    "[[task]]\nname = 'x'": "has no data",
    "[[task]]\ndata = 'set'": "has no name",
    DATA_ONLY.replace("'logs'", "'../logs'"): "no safe folder name",
    DATA_ONLY + DATA_ONLY: "names the task 'logs' twice",
    DATA_ONLY + "horizon = 5": "has horizon but no env",
    DATA_ONLY.replace("'set'", "'nothing'"): "no dataset at",
    DATA_ONLY.replace("'set'", "'../../nothing'"): "no dataset at",
    DATA_ONLY + "txt = 'x'": "unknown key 'txt'; did you mean 'text'?",
    PENDULUM: "knows no success; set score",
    PENDULUM + "score = 'retrun'": "use 'success' or 'return'; did you mean 'return'?",
    PENDULUM + "score = 'return'": "low None and high None",
    PENDULUM + "score = 'return'\nlow = 1\nhigh = 1": "low below high",
    PENDULUM + "score = 'return'\nlow = nan\nhigh = 1": "low below high",
    PENDULUM + "low = 1": "low is given but score is 'success'",
    PENDULUM + RETURN + "env_kwargs = { at = 1979-05-27 }": "env_kwargs holds",
    PENDULUM + RETURN + "env_kwargs = { gravity = 1 }": "does not take the arguments",
    PENDULUM + RETURN + "horizon = 0": "horizon is 0",
    PENDULUM.replace("Pendulum", "Pendolum") + RETURN: "did you mean 'Pendulum-v1'?",
    PENDULUM.replace("Pendulum-v1", "CartPole-v1") + RETURN: "environment CartPole-v1 (here) and dataset sample (there)",
    "x = ": "is no valid TOML",
    "a = " + "[" * 5000: "is no valid TOML",
}


def test_a_task_may_come_with_the_vector_of_its_words(place):
    lines = ("", "vector = [1, 0.5]\n")
    plain, given = (load_stream(written(place, DATA_ONLY + line), say=quiet).tasks[0].vector for line in lines)
    assert plain is None and given == (1.0, 0.5)


@pytest.mark.parametrize(("text", "fragment"), WRONG.items())
def test_what_is_wrong_in_a_file_is_named_with_its_place(place, text, fragment):
    path = written(place, text)
    with pytest.raises(UsageError) as problem:
        load_stream(path, say=quiet)
    assert fragment in str(problem.value)
    assert "kitchen" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_logs_without_a_held_out_episode_cannot_be_scored(place):
    dataset(place / "streams" / "one", episodes=1)
    with pytest.raises(UsageError, match="no held-out episode"):
        load_stream(written(place, DATA_ONLY.replace("'set'", "'one'")), say=quiet)


def test_a_file_that_is_no_text_or_too_large_is_refused(place):
    path = written(place, "")
    (place / "streams" / "kitchen.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no valid TOML"):
        load_stream(path, say=quiet)
    (place / "streams" / "kitchen.toml").write_bytes(b"#" * 2**21)
    with pytest.raises(UsageError, match="at most"):
        load_stream(path, say=quiet)
