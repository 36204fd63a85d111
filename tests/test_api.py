"""perdure from Python: runs, results, agents and streams as a script or a notebook uses them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import EXTRA

import perdure
from perdure.api import Result
from perdure.cli import main
from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.methods.finetune import Finetune

SHORT = {"method_options": {"steps": 8, "batch": 8}, "evaluation": {"episodes": 2, "shared": 1, "curve": 1}, "workers": 0,
         "quiet": True}  # fmt: skip


@pytest.fixture(scope="module")
def packnet(tmp_path_factory):
    return perdure.run("packnet", "toy", out=tmp_path_factory.mktemp("runs") / "mine", **SHORT)


def test_a_result_shows_itself(packnet):
    assert repr(packnet).startswith("Result(packnet on toy, bc, seed 0: average performance ")
    assert str(packnet.folder) in repr(packnet)
    lines = packnet.table().splitlines()
    assert len(lines) == 5
    assert lines[0].split()[-3:] == ["corner-1", "corner-2", "corner-3"]
    assert "-" in lines[2].split()  # task 3 after one task was not evaluated: never shown as 0
    assert packnet._repr_html_().count("<tr>") == 5
    assert packnet.value("forgetting") == 0.0
    assert packnet.metrics["intransigence"].value is None
    with pytest.raises(UsageError, match="did you mean 'forgetting'"):
        packnet.value("forgeting")


def test_the_same_call_returns_what_is_finished(packnet):
    before = (packnet.folder / "scores.json").stat().st_mtime_ns
    again = perdure.run("packnet", "toy", out=packnet.folder, **SHORT)
    assert again.matrix.to_json() == packnet.matrix.to_json()
    assert (packnet.folder / "scores.json").stat().st_mtime_ns == before
    assert Result.load(packnet.folder).config == packnet.config


def test_the_times_of_a_run_are_kept(packnet):
    times = read_json(packnet.folder / "environment.json")
    assert 0 < times["train_cpu_seconds"] < times["train_seconds"] + 0.1 < times["wall_seconds"] + 0.1
    assert times["evaluate_seconds"] > 0
    phases = times["phase_cpu_seconds"]
    assert list(phases) == ["dense", "retrain"] and sum(phases.values()) == pytest.approx(times["train_cpu_seconds"], abs=0.05)


def test_threads_are_as_before(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(UsageError):
            perdure.run("packnet", "toy", out=tmp_path / "mine", threads=1, workers=-1)
        perdure.run("finetune", "toy", out=tmp_path / "mine", stream_options={"tasks": 1}, **SHORT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_agent_acts_by_name_and_by_number(packnet):
    agent = perdure.load_agent(packnet.folder)
    assert agent.tasks == ("corner-1", "corner-2", "corner-3")
    assert "packnet" in repr(agent)
    obs = np.array([0.3, -0.2])
    action = agent.act(obs, "corner-2")
    assert action.shape == (2,)
    assert (np.abs(action) <= 1).all()
    np.testing.assert_array_equal(action, agent.act(obs.astype(np.float32), 1))
    assert not np.array_equal(action, agent.act(obs, 0))
    batch = torch.tensor(obs, dtype=torch.float32).repeat(3, 1)
    actor = agent.actor(1)
    many, _ = actor.act(batch, actor.start(3), torch.Generator())
    np.testing.assert_allclose(many[0].detach().numpy(), action, atol=1e-6)
    for task in ("corner-4", 3, -1):
        with pytest.raises(UsageError, match="this agent learned corner-1, corner-2, corner-3"):
            agent.actor(task)
    assert perdure.load_agent(packnet.folder / "agent" / "1").tasks == ("corner-1",)


class Workbook(Finetune):
    """Keeps something that only a task at hand needs."""

    def __init__(self, config, policy, seed):
        super().__init__(config, policy, seed)
        self.resume = torch.nn.Linear(2, 2)


class Closed(Finetune):
    def phases(self, task, access):
        return [replace(phase, begin=None) for phase in super().phases(task, access)]


def test_a_method_that_opens_no_task_is_told_so(tmp_path):
    with pytest.raises(UsageError, match=r"task 0 is not open in the policy; a method calls self\.open_task\(task, access\)"):
        perdure.run("test_api:Closed", "toy", out=tmp_path / "mine", **SHORT)


def test_an_agent_acts_without_what_only_learning_needs(tmp_path):
    result = perdure.run("test_api:Workbook", "toy", out=tmp_path / "mine", stream_options={"tasks": 1}, **SHORT)
    assert perdure.load_agent(result.folder).act([0.1, 0.2], 0).shape == (2,)


@pytest.mark.parametrize(("obs", "words"), [
    ([0.1], r"observation has shape \[1\]; this task observes \[2\]"),
    (np.zeros((3, 2)), r"observation has shape \[3, 2\]; this task"),
    ([0.1, np.nan], "observation holds nan; give finite numbers"),
    ([np.inf, 0.1], "observation holds inf"),
    ("abc", "observation is 'abc'; give an array of numbers"),
    ([1e300, 0.0], "observation holds inf"),
])  # fmt: skip
def test_a_wrong_observation_is_refused_and_not_acted_on(packnet, obs, words):
    agent = perdure.load_agent(packnet.folder)
    with np.errstate(over="ignore"), pytest.raises(UsageError, match=words):
        agent.act(obs, 0)
    with pytest.raises(UsageError, match="reward is nan; give a finite number"):
        agent.episode(0).act([0.1, 0.2], reward=float("nan"))
    with pytest.raises(UsageError, match="reward is 'x'; give a finite number"):
        agent.episode(0).act([0.1, 0.2], reward="x")


@pytest.mark.parametrize("method", ["joint", "independent", "compoformer", "tsn_affinity", "cugro"])
def test_agents_of_every_make_know_what_they_observe(method, tmp_path):
    options = dict(SHORT, method_options={"steps": 8, "batch": 8} | EXTRA.get(method, {}))
    agent = perdure.load_agent(perdure.run(method, "toy", out=tmp_path / "run", stream_options={"tasks": 2}, **options).folder)
    for task in (0, 1):
        with pytest.raises(UsageError, match="observation has shape"):
            agent.act([0.1], task)


def test_an_episode_remembers_what_it_saw(tmp_path):
    result = perdure.run("finetune", "toy-discrete", policy="dt", out=tmp_path / "mine", stream_options={"tasks": 1}, **SHORT)
    episode = perdure.load_agent(result.folder).episode("corner-1")
    obs = np.zeros(2, dtype=np.float32)
    actions = [episode.act(obs), episode.act(obs, reward=-1.0), episode.act(obs, reward=-1.0)]
    assert all(isinstance(action, int) and 0 <= action < 4 for action in actions)
    assert episode.steps == 3


def test_a_stream_object_counts_by_its_data(tmp_path, capsys):
    small, large = perdure.load_stream("toy", tasks=1, episodes=10), perdure.load_stream("toy", tasks=1, episodes=12)
    assert perdure.plan("finetune", small).hash != perdure.plan("finetune", large).hash
    assert perdure.plan("finetune", small).method_config["steps"] == 400  # the settings of its name
    result = perdure.run("finetune", small, out=tmp_path / "mine", **SHORT)
    assert result.matrix.data[0]["episodes"] == 10
    assert Result.load(result.folder).config == result.config
    assert "the same call of perdure.run" in perdure.write_report([result.folder], tmp_path / "report").page.read_text()
    for again in (["run", "--from", str(result.folder / "config.json")], ["eval", str(result.folder)]):
        with pytest.raises(SystemExit) as ended:
            sys.exit(main(again))
        assert ended.value.code == 2
        assert "the stream toy was made in Python, so that it has no name to load" in capsys.readouterr().err
    with pytest.raises(UsageError, match="give the options to load_stream"):
        perdure.plan("finetune", small, stream_options={"episodes": 3})


def test_options_are_checked_like_on_the_command_line():
    assert perdure.plan("ewc", "toy", method_options={"strength": 3}).method_config["strength"] == 3.0
    with pytest.raises(UsageError, match=r"unknown option method\.strenth; did you mean 'strength'"):
        perdure.plan("ewc", "toy", method_options={"strenth": 3})
    with pytest.raises(TypeError, match="has no argument 'sede'; did you mean 'seed'"):
        perdure.run("ewc", "toy", sede=3)


def test_a_damaged_agent_is_refused(packnet, tmp_path):
    import shutil

    copy = shutil.copytree(packnet.folder / "agent" / "3", tmp_path / "agent")
    path = copy / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    with pytest.raises(UsageError, match="damaged"):
        perdure.load_agent(copy)
    with pytest.raises(UsageError, match="holds no agent"):
        perdure.load_agent(tmp_path)


def test_a_report_from_python(packnet, tmp_path):
    written = perdure.write_report([packnet.folder], tmp_path / "report")
    assert written.page.is_file()


def test_every_public_name_is_there():
    for name in perdure.__all__:
        assert perdure.__dict__.get(name) is not None or perdure.__getattr__(name) is not None
    with pytest.raises(AttributeError):
        perdure.nothing  # noqa: B018
