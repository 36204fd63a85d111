"""Offline Continual World on v3: the published lists and orders, data shared by repeats, orders that are never averaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from perdure.benchmarks import continual_world, offline_continual_world, recorded
from perdure.benchmarks.continual_world import CW10, CWTUNE, SHUFFLED
from perdure.benchmarks.metaworld_env import SPEC
from perdure.benchmarks.metaworld_source import MetaWorldSource, measured
from perdure.cli.run import _stream
from perdure.core.errors import UsageError
from perdure.core.files import write_json
from perdure.core.matrix import Episode
from perdure.data.store import write_dataset
from perdure.data.trajectory import Trajectory
from perdure.experiment import Experiment
from perdure.progress import Quiet
from perdure.report.collect import collect
from perdure.report.model import build
from perdure.run_config import load_config, resolve
from perdure.streams import load_stream, outline

PUBLISHED = {
    "default": "hammer push-wall faucet-close push-back stick-pull handle-press-side push shelf-place window-close "
    "peg-unplug-side",
    "1": "push window-close peg-unplug-side shelf-place handle-press-side push-back hammer stick-pull push-wall faucet-close",
    "2": "handle-press-side peg-unplug-side push-back stick-pull push shelf-place faucet-close window-close push-wall hammer",
    "3": "push-wall handle-press-side push hammer peg-unplug-side stick-pull shelf-place faucet-close window-close push-back",
}
"""The lists of config/MetaWorld/task.json in the code of CompoFormer, without the `-v2`."""


def quiet(text):
    pass


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A data folder, and collecting without a simulator: one noisy episode per goal that is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(recorded, "collect", rolled_at_random)
    return tmp_path


def rolled_at_random(source, folder, *, quality, episodes, **rest):
    if not (folder / "card.json").exists():
        rng, ends = np.random.default_rng(len(source.task)), np.arange(source.horizon) == source.horizon - 1
        rolled = [
            Trajectory(rng.normal(size=(source.horizon + 1, 39)), rng.uniform(-1, 1, (source.horizon, 4)),
                       rng.normal(size=source.horizon), ends & False, ends, success=True)
            for _ in range(episodes)
        ]  # fmt: skip
        write_dataset(folder, rolled, name=source.name, spec=SPEC, quality=quality, behaviour={"policy": "random"},
                      licence="MIT", source="a test")  # fmt: skip


@pytest.mark.parametrize("order", PUBLISHED)
@pytest.mark.parametrize("name", ["cw10-v3", "ocw10-v3", "ocw10-mt50"])
def test_the_orders_are_the_published_ones(name, order):
    assert [task.name for task in outline(name, {"order": order})] == PUBLISHED[order].split()


def test_an_order_names_every_task_once():
    assert all(sorted(order) == list(range(1, 11)) for order in SHUFFLED.values())
    assert len({*SHUFFLED.values(), tuple(range(1, 11))}) == 4


@pytest.mark.parametrize("name", ["cw3-v3", "cw20-v3", "ocw20-v3", "cwtune-v3"])
def test_other_streams_have_one_order(name):
    with pytest.raises(UsageError, match=f"stream.order is 2; {name} has no shuffled orders"):
        outline(name, {"order": "2"})


WRONG = {"order": "4", "quality": "near-optimal", "episodes": 201, "horizon": 501, "folder": "x"}


@pytest.mark.parametrize("option", WRONG)
def test_wrong_options_are_refused(option):
    with pytest.raises(UsageError, match=f"stream.{option}") as caught:
        outline("ocw10-v3", {option: WRONG[option]})
    assert "\n" not in str(caught.value)


def test_the_second_pass_has_the_data_and_environments_of_the_first_and_heads_of_its_own():
    stream = load_stream("ocw20-v3", say=quiet, episodes=2, horizon=3)
    first, second = stream.tasks[:10], stream.tasks[10:]
    assert [task.name for task in first] == list(CW10)
    assert [task.name for task in second] == [f"{task}-2" for task in CW10]
    assert [task.index for task in stream.tasks] == list(range(20))  # a head, a normaliser and a mask belong to an index
    for one, two in zip(first, second, strict=True):
        assert one.data is two.data
        assert (one.env, one.goals, one.text) == (two.env, two.goals, two.text)
    assert all(task.text for task in stream.tasks)


def test_episodes_have_500_steps_in_data_and_evaluation():
    stream = load_stream("ocw10-v3", say=quiet, episodes=2)
    assert {task.env.horizon for task in stream.tasks} == {500}
    assert {tuple(task.data.lengths) for task in stream.tasks} == {(500, 500)}
    assert {task.data.card["quality"] for task in stream.tasks} == {"mixed"}
    assert [task.spec.obs.shape for task in stream.tasks] == [(39,)] * 10
    listed = outline("ocw10-v3", {"quality": "suboptimal"})
    assert {task.quality for task in listed} == {"suboptimal"}
    assert str(listed[0].folder).endswith("metaworld-v3/hammer/suboptimal-100x500")


def test_the_longer_ladder_is_taken_for_longer_episodes_where_there_is_one():
    assert measured("faucet-close", 500) == measured("faucet-close", 400) != measured("faucet-close", 200)
    assert measured("hammer", 500) == measured("hammer", 200)
    for task in ("faucet-close", "window-close"):
        successes = [row["success"] for row in measured(task, 500)["levels"]]
        assert successes == sorted(successes, reverse=True)
        assert successes[0] >= 0.9
        assert successes[-1] <= 0.3
    assert MetaWorldSource("window-close", 500).ladder()[1].random > 0.7
    assert MetaWorldSource("window-close", 200).ladder()[1].random == 0
    with pytest.raises(UsageError, match="did you mean 'hammer'"):
        measured("hamer", 500)


def test_the_order_names_a_stream_in_results_but_not_its_settings():
    plain = load_stream("cw10-v3", say=quiet, episodes=2, horizon=3)
    turned = load_stream("cw10-v3", say=quiet, episodes=2, horizon=3, order="3")
    assert (plain.title, turned.title) == ("cw10-v3", "cw10-v3 (order 3)")
    assert plain.name == turned.name == "cw10-v3"
    assert resolve("ewc", turned).method_config == resolve("ewc", "cw10-v3").method_config
    assert resolve("ewc", turned).hash != resolve("ewc", plain).hash
    assert offline_continual_world.SETTINGS is continual_world.SETTINGS
    assert not set(CWTUNE) & set(CW10)


def test_the_first_line_of_a_run_names_its_order():
    assert _stream(resolve("finetune", "cw10-v3")) == "cw10-v3"
    turned = resolve("finetune", "ocw10-v3", stream_options_={"order": "1", "quality": "suboptimal"})
    assert _stream(turned) == "ocw10-v3 (quality suboptimal, order 1)"


def test_an_option_added_later_changes_no_kept_run():
    for path in (Path(__file__).parents[2] / "docs" / "results" / "cw10-v3").glob("runs/*/config.json"):
        kept = json.loads(path.read_text())["stream_options"]
        assert load_config(path).stream_options == {"order": "default", "rollouts": False, **kept}


def finished(folder, seed, method="finetune", **options):
    """A finished run folder of two scored episodes per task, made from its config."""
    config = resolve(method, "cw10-v3", seed=seed, stream_options_={"episodes": 2, "horizon": 3} | options)
    experiment = Experiment(config, folder, Quiet())
    matrix = experiment._empty_matrix(load_stream("cw10-v3", say=quiet, **config.stream_options), frozenset())
    matrix.complete = True
    for task in range(matrix.n):
        for learned in {0, task, task + 1, matrix.n}:
            matrix.set_cell(learned, task, [Episode(0.5)] * 2)
        for fraction in (0, 0.25, 0.5, 0.75, 1):
            matrix.set_curve(task, fraction, [Episode(0.5)])
    folder.mkdir(parents=True)
    write_json(folder / "scores.json", matrix.to_json())
    return folder


def test_runs_of_different_orders_are_never_averaged(place):
    turned = [finished(place / f"order1-{seed}", seed, order="1") for seed in (0, 1)]
    (group,) = collect(turned).groups
    assert len(group.runs) == 2
    assert build(collect(turned)).title.startswith("cw10-v3 (order 1), version 1: 10 tasks")
    for other in ({}, {"order": "2"}):
        with pytest.raises(UsageError, match=r"^stream is 'cw10-v3 \(order 1\)' in .* and 'cw10-v3"):
            collect([*turned, finished(place / f"other-{len(other)}", 2, **other)])


def test_the_reference_of_an_order_is_independent_in_that_order(place):
    runs = [finished(place / "a", 0, order="1"), finished(place / "b", 0, "independent", order="1")]
    metrics = next(run.metrics for run in collect(runs).runs if run.matrix.method == "finetune")
    assert metrics["forward_transfer"].value == 0
    with pytest.raises(UsageError, match=r"^stream is"):
        collect([runs[0], finished(place / "c", 0, "independent")])
