"""Collecting runs: parents and single folders, references, and refusals that name the field."""

import json
import shlex
from dataclasses import asdict, replace

import pytest

from perdure.core.errors import UsageError
from perdure.core.files import write_json
from perdure.report.collect import collect
from perdure.run_config import resolve


def test_parents_and_runs_may_be_mixed_and_count_once(make_run, tmp_path):
    first = make_run("finetune")
    make_run("packnet")
    collection = collect([tmp_path, first])
    assert [group.name for group in collection.groups] == ["packnet", "finetune"]
    assert len(collection.runs) == 2
    assert collection.notices == ()


def test_seeds_share_a_row_in_order(make_run, tmp_path):
    for seed in (2, 0, 1):
        make_run("er", seed)
    (group,) = collect([tmp_path]).groups
    assert [run.seed for run in group.runs] == [0, 1, 2]


def test_runs_that_reproduce_released_code_are_marked_so(make_run, tmp_path):
    for seed, compat in enumerate((True, False)):
        write_json(make_run("er", seed) / "config.json", {"method_config": {"compat": compat}})
    make_run("er", 2)
    assert [(group.name, len(group.runs)) for group in collect([tmp_path]).groups] == [("er", 2), ("er (compat)", 1)]


def test_the_reference_is_independent_of_the_same_seed(make_run, tmp_path):
    make_run("packnet", 0)
    make_run("packnet", 1)
    make_run("independent", 0)
    metrics = {run.seed: run.metrics for run in collect([tmp_path]).runs if run.matrix.method == "packnet"}
    assert metrics[0]["forward_transfer"].value == pytest.approx(0.0)
    assert metrics[0]["intransigence"].value == pytest.approx(0.0)
    assert "no run of 'independent'" in metrics[1]["forward_transfer"].reason
    assert metrics[1]["intransigence"].value is None


@pytest.mark.parametrize("field", ["policy", "profile", "data"])
def test_another_policy_profile_or_data_is_no_reference(make_run, tmp_path, field):
    other = {"policy": "dt", "profile": "paper", "data": [{"task": "push", "digest": "x", "quality": "y"}]}
    make_run("packnet")
    make_run("independent", **{field: other[field]})
    collection = collect([tmp_path])
    packnet = next(run for run in collection.runs if run.matrix.method == "packnet")
    assert packnet.metrics["forward_transfer"].value is None
    assert any("compare them with care" in notice for notice in collection.notices)


PROTOCOL = {"heads": "per task", "normaliser": "per task", "task_id_at_test": True, "past_data": False}
DIFFERENT = {
    "policy": {"policy": "dt"},
    "profile": {"profile": "paper"},
    "config_hash": {"config_hash": "ffffffff"},
    "protocol.heads": {"protocol": PROTOCOL | {"heads": "single"}},
    "protocol.task_id_at_test": {"protocol": PROTOCOL | {"task_id_at_test": False}},
    "data digest of push": {"data": [{"task": "push", "digest": "sha256:other", "quality": "expert"}]},
    "stream_version": {"stream_version": 2},
    "stream": {"stream": "cw3-v3"},
    "tasks": {"tasks": ("push", "pull", "lift")},
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_what_must_not_be_averaged_is_refused_by_name(make_run, tmp_path, field):
    make_run("er", 0)
    make_run("er", 1, **DIFFERENT[field])
    with pytest.raises(UsageError, match=f"^{field} is ") as caught:
        collect([tmp_path])
    assert "er-0" in str(caught.value)
    assert "er-1" in str(caught.value)


def _data(digest, mean_return, **more):
    return [{"task": "push", "digest": digest, "quality": "expert", "episodes": 500, "mean_return": mean_return} | more]


def test_data_collected_on_another_processor_are_the_same_data(make_run, tmp_path):
    make_run("er", 0, data=_data("sha256:one", -16.843924859099555))
    make_run("er", 1, data=_data("sha256:two", -16.843924859097694))
    make_run("independent", 1, data=_data("sha256:one", -16.843924859099555))
    collection = collect([tmp_path])
    assert sorted(len(group.runs) for group in collection.groups) == [1, 2]
    learned = next(run for run in collection.runs if run.matrix.method == "er" and run.seed == 1)
    assert learned.metrics["forward_transfer"].value is not None
    assert any(notice.startswith("Data of push were collected on several processors") for notice in collection.notices)


@pytest.mark.parametrize(
    "other", [_data("sha256:two", -16.843924959), _data("sha256:two", -16.843924859, quality="medium"),
              _data("sha256:two", -16.843924859, episodes=499)])  # fmt: skip
def test_data_that_differ_by_more_than_rounding_are_not(make_run, tmp_path, other):
    make_run("er", 0, data=_data("sha256:one", -16.843924859))
    make_run("er", 1, data=other)
    with pytest.raises(UsageError, match=r"^data digest of push is "):
        collect([tmp_path])


def test_returns_that_are_counts_do_not_tell_data_apart(make_run, tmp_path):
    make_run("er", 0, data=_data("sha256:one", 0.824))
    make_run("er", 1, data=_data("sha256:two", 0.824))
    with pytest.raises(UsageError, match=r"^data digest of push is "):
        collect([tmp_path])


def test_a_label_makes_a_row_of_its_own(make_run):
    plain = make_run("finetune", 0)
    single = make_run("finetune", 0, name="single", protocol=PROTOCOL | {"heads": "single"})
    collection = collect([plain, single], labels={str(single): "single head"})
    assert sorted(group.name for group in collection.groups) == ["finetune", "finetune (single head)"]


def test_a_label_for_no_folder_is_refused(make_run):
    with pytest.raises(UsageError, match="not among"):
        collect([make_run("er")], labels={"elsewhere": "x"})


def test_a_seed_twice_is_refused(make_run, tmp_path):
    make_run("er", 0)
    make_run("er", 0, name="again")
    with pytest.raises(UsageError, match="seed 0 of 'er' appears in"):
        collect([tmp_path])


def test_unfinished_runs_are_refused_unless_allowed(make_run, tmp_path):
    make_run("er", 0)
    half = make_run("er", 1, complete=False)
    with pytest.raises(UsageError, match=r"er-1 is not finished.*perdure run --from.*--unfinished"):
        collect([tmp_path, half])
    collection = collect([tmp_path], unfinished=True)
    assert len(collection.runs) == 2
    assert "not finished" in collection.notices[0]
    (half / "scores.json").unlink()
    with pytest.raises(UsageError, match=r"has no scores\.json.*--unfinished"):
        collect([half])
    assert len(collect([tmp_path], unfinished=True).runs) == 1


def test_unfinished_runs_below_a_parent_are_left_out_and_named(make_run, tmp_path):
    make_run("er", 0)
    make_run("er", 1, complete=False)
    collection = collect([tmp_path])
    assert [run.seed for run in collection.runs] == [0]
    (notice,) = collection.notices
    assert "er-1" in notice
    assert "--unfinished" in notice
    (tmp_path / "runs" / "er-0" / "scores.json").unlink()
    with pytest.raises(UsageError, match=r"no finished run.*--unfinished"):
        collect([tmp_path])


def test_a_label_may_name_a_run_below_a_given_folder(make_run, tmp_path):
    make_run("er", 0)
    other = make_run("er", 1, config_hash="ffffffff")
    make_run("er", 2, config_hash="ffffffff")
    third = make_run("er", 3, config_hash="eeeeeeee")
    with pytest.raises(UsageError) as caught:
        collect([tmp_path])
    _, _, command = str(caught.value).partition("rows of their own: ")
    program, verb, given, option, *pairs = shlex.split(command)
    assert (program, verb, given, option) == ("perdure", "report", str(tmp_path), "--label")
    labels = dict(pair.rsplit("=", 1) for pair in pairs)
    assert {str(other), str(third)} < set(labels)
    rows = {group.name: len(group.runs) for group in collect([tmp_path], labels=labels).groups}
    assert rows == {"er": 1, "er (setting-2)": 2, "er (setting-3)": 1}


def test_an_option_that_was_added_since_with_the_old_behaviour_as_default_changes_nothing(make_run):
    """Its runs have hashes of their own, which are compared as the settings read today; not where a setting differs."""
    folders = [make_run("er", seed, config_hash=8 * str(seed)) for seed in (0, 1, 2)]
    for folder, steps in zip(folders, (50, 50, 60), strict=True):
        config = asdict(resolve("er", "toy", method_options={"steps": steps}))
        if folder == folders[0]:
            del config["method_config"]["sampling"]
        write_json(folder / "config.json", config)
    assert [(group.name, len(group.runs)) for group in collect(folders[:2]).groups] == [("er", 2)]
    assert {group.name: len(group.runs) for group in collect(folders).groups} == {"er (steps 50)": 2, "er (steps 60)": 1}


def test_settings_of_a_method_are_rows_named_by_what_differs(make_run, tmp_path):
    """By policy first, whose options are its own; then option by option among runs of one policy."""
    settings = {
        "er (bc, steps 50)": {"method_options": {"steps": 50}},
        "er (bc, steps 60)": {"method_options": {"steps": 60}},
        "er (dt)": {"policy": "dt"},
        "tsn_affinity (compat)": {"method_options": {"compat": True}},
        "ewc (evaluation.episodes 20)": {"evaluation": {"episodes": 20}},
        "ewc (evaluation.episodes 50)": {},
        "der": {"method_options": {"memory_share": 0.5}},
    }
    for i, (row, options) in enumerate(settings.items()):
        config = resolve(row.split()[0], "toy", **options)
        folder = make_run(config.method, 0, name=f"run-{i}", config_hash=config.hash, policy=config.policy)
        write_json(folder / "config.json", asdict(config))
    assert {group.name for group in collect([tmp_path]).groups} == set(settings)


def test_a_label_of_many_options_gives_way_to_the_hash(make_run, tmp_path):
    few = {"steps": 50, "batch": 8, "learning_rate": 1e-3, "clip": 1.0, "memory_share": 0.1}
    double = {name: 2 * value for name, value in few.items()}
    configs = [resolve("er", "toy", method_options=options) for options in (few, double)]
    for i, config in enumerate(configs):
        write_json(make_run("er", 0, name=f"run-{i}", config_hash=config.hash) / "config.json", asdict(config))
    assert {group.name for group in collect([tmp_path]).groups} == {f"er (config {config.hash})" for config in configs}


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        collect([tmp_path / "absent"])
    with pytest.raises(UsageError, match="holds no run"):
        collect([tmp_path])
    with pytest.raises(UsageError, match="no run folder was given"):
        collect([])


def test_a_damaged_file_is_named(make_run, tmp_path):
    folder = make_run("er")
    (folder / "scores.json").write_text(json.dumps({"format": 1})[:-1])
    with pytest.raises(UsageError, match=r"scores\.json"):
        collect([tmp_path])


def test_environment_is_optional_but_never_malformed(make_run, tmp_path):
    folder = make_run("er")
    write_json(folder / "environment.json", {"train_seconds": True})
    assert collect([tmp_path]).runs[0].seconds("train_seconds") is None
    write_json(folder / "environment.json", [1])
    with pytest.raises(UsageError, match=r"environment\.json"):
        collect([tmp_path])
    (folder / "environment.json").unlink()
    assert collect([tmp_path]).runs[0].seconds("train_seconds") is None


def test_a_run_resumed_elsewhere_is_marked(make_run, tmp_path):
    make_run("er", 3, bit_exact=False)
    assert "seed 3: resumed on another machine type" in collect([tmp_path]).notices[0]


def test_results_are_immutable(make_run, tmp_path):
    make_run("er")
    run = collect([tmp_path]).runs[0]
    assert replace(run, row="x").row == "x"
    assert run.row == "er"
