"""Every measure runs at a tiny size, checks equality first, and its JSON is well formed. Nothing here asserts a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from perdure import bench
from perdure.bench import acting, machine, reference, run_bench, sampling, training, weights, workload
from perdure.bench.measure import Bench
from perdure.bench.workload import Scale
from perdure.core.errors import GuardError, UsageError
from perdure.core.threads import threads
from perdure.data.access import Views

TINY = Scale(
    episodes=4, length=12, batch=8, sampled=((4, 12), (3, 10)), rows=(1, 3), samples=8, routed=(3, 20),
    composed=(1, 2), dreamed=(2, 3), pairs=10, steps_per_round=0.0,
    options={"cugro": {"steps": 6, "state_steps": 2, "state_width": 8}},
    policy={"sfbc": {"width": 8, "critic_width": 8, "evaluations": 2}, "td3bc": {"width": 8}, "iql": {"width": 8},
            "bc": {"width": 16, "layers": 3}, "dt": {"width": 16, "layers": 2, "attention_heads": 2, "context": 4}},
    save_megabytes=(0.02, 0.05), save_seconds=0.02, stream_steps=4, growing=(1, 2, 3),
    sweep_runs=2, sweep_steps=4, sweep_rounds=1, memory_tasks=3, memory_steps=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def short_ceiling(monkeypatch):
    whole = machine.ceiling
    monkeypatch.setattr(machine, "ceiling", lambda device, cpu_time: whole(device, cpu_time, seconds=0.01))


@pytest.fixture
def tiny(tmp_path):
    return Bench(rounds=2, scale=TINY, folder=tmp_path)


@pytest.mark.parametrize("name", list(bench.MEASURES))
def test_every_measure_runs(name, tiny):
    module, function = bench.MEASURES[name].split(":")
    figures = __import__(module, fromlist=[function]).__dict__[function](tiny)
    assert len({figure.name for figure in figures}) == len(figures) > 0
    for figure in figures:
        for spread in figure.values.values():
            assert 0 <= spread.low <= spread.median <= spread.high < float("inf")
        if figure.equality is not None:
            assert figure.equality.difference <= figure.equality.tolerance
        json.dumps(figure.to_json("cpu", True), allow_nan=False)
    assert list(tiny.folder.iterdir()) == []


def test_all_targets_of_the_table_are_there(tiny):
    judged = {f.name: str(f.target) for f in bench_figures("steps", tiny) if f.target is not None}
    assert judged == {
        f"step of {name} over finetune, {policy} cpu": f"<= {bound}"
        for policy, light, masked in (("bc", 1.25, 2), ("dt", 1.15, 1.3))
        for bound, names in ((light, "ewc l2 mas si rwalk packnet lora"), (2.3, "er der agem clonex"), (1.4, "lwf"),
                             (masked, "tsn tsn_affinity"))
        for name in names.split()
    }
    assert [str(f.target) for f in bench_figures("saving", tiny)] == ["<= 1", "<= 1", "<= 1"]
    assert [str(f.target) for f in bench_figures("routing", tiny) if f.target] == ["<= 1.05"] * 2 + [">= 0.95"] * 2
    assert str(bench_figures("sampling", tiny)[0].target) == str(bench_figures("importance", tiny)[0].target) == ">= 20"


def bench_figures(name, setting):
    module, function = bench.MEASURES[name].split(":")
    return __import__(module, fromlist=[function]).__dict__[function](setting)


def broken_to_go(rewards):
    return np.cumsum(rewards)


def broken_penalty(parameters, anchors, importances, strength):
    for name, anchor in anchors.items():
        parameters[name].grad += 2 * strength * importances[name] * (parameters[name].detach() - anchor)


def broken_fisher(policy, batch, names, empirical):
    """The squared gradient of the batch mean, which is no Fisher diagonal."""
    gradients = torch.autograd.grad(policy.loss(batch).mean(), [dict(policy.named_parameters())[n] for n in names])
    return {name: g.square() for name, g in zip(names, gradients, strict=True)}


def broken_optimizer(parameters, **recipe):
    return torch.optim.Adam(parameters, lr=recipe["lr"])


def broken_forward(self, batch):
    return torch.zeros_like(batch["action"]) + 0 * next(self.policy.parameters()).sum()


@pytest.mark.parametrize(("measure", "owner", "name", "variant"), [
    ("sampling", reference, "returns_to_go", broken_to_go),
    ("acting", reference.PlainTransformer, "__call__", broken_forward),
    ("importance", weights, "fisher_loop", broken_fisher),
    ("penalty", weights, "penalty_by_autograd", broken_penalty),
    ("optimizer", weights, "plain_adamw", broken_optimizer),
    ("training", reference.PlainTransformer, "__call__", broken_forward),
])  # fmt: skip
def test_a_variant_that_computes_something_else_is_refused(measure, owner, name, variant, tiny, monkeypatch):
    monkeypatch.setattr(owner, name, variant)
    monkeypatch.setattr(Bench, "alternate", lambda *_: pytest.fail("timed before the equality was checked"))
    if measure == "training":
        views = Views(workload.stream(TINY))
        with pytest.raises(GuardError, match="differ"):
            training.equal_losses(workload.open_policy("dt", "cpu", TINY, views, "cpu"), views)
        return
    with pytest.raises(GuardError, match="differ"):
        bench_figures(measure, tiny)


def test_the_library_is_compared_beyond_the_point_where_the_window_slides(monkeypatch):
    views = Views(workload.stream(TINY))
    policy = workload.open_policy("dt", "cpu", TINY, views, "cpu").eval()
    short = reference.OneAtATime.act

    def forgets_to_slide(self, obs, reward):
        self.obs, self.action, self.return_to_go = (x[: self.context - 1] for x in (self.obs, self.action, self.return_to_go))
        return short(self, obs, reward)

    acting.equal_actions(policy)
    monkeypatch.setattr(reference.OneAtATime, "act", forgets_to_slide)
    with pytest.raises(GuardError):
        acting.equal_actions(policy)


def test_windows_are_compared_on_padding_too(monkeypatch):
    views = Views(workload.stream(TINY))
    plain = reference.PythonSampler(views.stream.tasks[0].data)
    assert sampling.equal_windows(views, plain, 5).difference <= 1e-6
    views.views[0].sampler.end.fill_(int(views.views[0].sampler.end.max()))
    with pytest.raises(GuardError):
        sampling.equal_windows(views, plain, 5)


def test_json_and_text_are_written_and_returned(tmp_path, capsys):
    out = tmp_path / "bench.json"
    result = run_bench(["importance"], cpu_time=True, out=out, scale=TINY)
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    assert out.with_suffix(".txt").read_text() == capsys.readouterr().out
    assert set(result) == {"format", "machine", "ceiling_gflops", "clock", "rounds", "threads", "measures"}
    row = result["measures"]["importance"]["figures"][0]
    assert row["verdict"] in ("met", "missed")
    assert row["target"] == ">= 20"
    assert set(row) == {"name", "unit", "cpu", "wall", "target", "verdict", "equality", "details"}


def test_json_alone_on_request(capsys):
    result = run_bench(["optimizer"], cpu_time=True, json=True, scale=TINY)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result))


def test_no_verdict_on_a_busy_machine(monkeypatch, capsys):
    monkeypatch.setattr(machine, "load", lambda: machine.cores() + 0.5)
    by_wall = run_bench(["importance"], scale=TINY)
    assert {row["verdict"] for row in by_wall["measures"]["importance"]["figures"]} == {"none"}
    text = capsys.readouterr().out
    assert "no verdict is given" in text
    assert " met" not in text
    assert "missed" not in text
    by_cpu = run_bench(["importance"], cpu_time=True, scale=TINY)
    assert {row["verdict"] for row in by_cpu["measures"]["importance"]["figures"]} <= {"met", "missed"}


def test_a_free_machine_gets_a_verdict(monkeypatch):
    monkeypatch.setattr(machine, "load", lambda: 0.5)
    rows = run_bench(["importance"], scale=TINY)["measures"]["importance"]["figures"]
    assert {row["verdict"] for row in rows} <= {"met", "missed"}


def test_one_thread_inside_and_as_before_outside(monkeypatch):
    seen = []
    monkeypatch.setattr(weights, "optimizer", lambda setting: seen.append(torch.get_num_threads()) or [])
    with threads(2):
        run_bench(["optimizer"], scale=TINY)
        assert (seen, torch.get_num_threads()) == ([1], 2)


@pytest.mark.parametrize(("options", "words"), [
    ({"measures": ["samplin"]}, "did you mean 'sampling'"),
    ({"rounds": 3}, "rounds is 3"),
    ({"out": Path("bench.txt")}, "ends in .json"),
    ({"out": Path("no-such-folder/bench.json")}, "missing or not writable"),
    ({"device": "cuda", "cpu_time": True}, "device is cuda"),
])  # fmt: skip
def test_wrong_use_is_refused_before_any_work(options, words, monkeypatch):
    monkeypatch.setattr(machine, "ceiling", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(UsageError, match=words):
        run_bench(**options)


def test_main_is_zero_and_takes_an_empty_out(monkeypatch):
    calls = []
    monkeypatch.setattr(bench, "run_bench", lambda measures, **options: calls.append((measures, options)))
    assert bench.main(json=True, out="") == 0
    assert bench.main(["steps"], out="x.json") == 0
    assert calls == [(None, {"json": True, "out": None}), (["steps"], {"out": Path("x.json")})]
