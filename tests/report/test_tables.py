"""The table and its renderings: same numbers everywhere, "not defined" instead of 0, safe text."""

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from perdure.core.errors import UsageError
from perdure.core.fidelity import Fidelity
from perdure.core.intervals import summarise
from perdure.core.matrix import Episode
from perdure.report import tables
from perdure.report.collect import collect
from perdure.report.model import Column, Entry, build, number, remarks, show
from report.conftest import TASKS, matrix, save

SCORE = Column("x", "x", "x", "score", "results")


def row(table, name):
    return next(row for row in table.rows if row.name == name)


def test_values_are_means_over_seeds(five):
    entries = row(five, "packnet").entries
    assert entries["average_performance"].summary.mean == pytest.approx(0.9)
    assert entries["forgetting"].summary.values == (0.0,) * 5
    assert row(five, "finetune").entries["forgetting"].summary.mean == pytest.approx((0.72 + 0.72) / 3)
    assert entries["forward_transfer"].summary.mean == pytest.approx(0.0)
    assert entries["train_seconds"].summary.mean == pytest.approx(92.0)
    assert entries["seeds"].words == "5 (0-4)"
    assert entries["parameters_per_task"].words == "500 each"


def test_joint_has_average_performance_and_nothing_else(five):
    entries = row(five, "joint").entries
    assert entries["average_performance"].summary.mean == pytest.approx(0.9)
    for key in ("forgetting", "forgetting_max", "backward_transfer", "forward_transfer", "intransigence"):
        assert entries[key].summary is None
        assert entries[key].reason
    assert any(line.startswith("joint: forgetting, ") for line in remarks(five))


def test_differences_are_paired_against_finetune(five):
    found = {d.row: d for d in five.differences}
    assert found.keys() == {"packnet", "independent", "joint"}
    assert found["packnet"].summary.mean == pytest.approx(0.48)
    assert found["packnet"].summary.interval


def test_another_baseline_is_taken_and_a_wrong_one_named(make_run, tmp_path):
    for seed in (0, 1):
        for method in ("er", "packnet", "finetune"):
            make_run(method, seed)
    collection = collect([tmp_path])
    found = {d.row: d for d in build(collection, "packnet").differences}
    assert found.keys() == {"er", "finetune"} and found["finetune"].baseline == "packnet"
    assert found["finetune"].summary.mean == pytest.approx(-0.48)
    with pytest.raises(UsageError, match=r"the baseline is 'pakcnet'; did you mean 'packnet'\?; the rows are"):
        build(collection, "pakcnet")


RETURNS = {"score": {"kind": "return", "low": 0.0, "high": 1.0, "source": "returns"}}


def test_scores_between_an_untrained_agent_and_one_model_per_task(tmp_path):
    """Untrained 0.1, one model per task 0.9; finetune ends with 0.18, 0.18 and 0.9."""
    for method, seed in (("independent", 0), ("finetune", 0), ("finetune", 1), ("joint", 0)):
        save(tmp_path / f"{method}-{seed}", matrix(method, seed, **RETURNS))
    table = build(collect([tmp_path]))
    assert "normalised" in [column.key for column in table.section("results")]
    for name, wanted in (("independent", 1.0), ("finetune", (0.1 + 0.1 + 1) / 3), ("joint", 1.0)):
        assert row(table, name).entries["normalised"].summary.mean == pytest.approx(wanted)


@pytest.mark.parametrize(("raw", "shown"), [(30.0, True), (30.5, False)])
def test_signs_of_rewards_are_summed_up_where_a_game_counts_points(raw, shown, tmp_path):
    result = matrix("er", 0, **RETURNS)
    for task in range(result.n):
        result.set_cell(result.n, task, [Episode(0.5, None, 40, raw, 12.0)])
    save(tmp_path / "er", result)
    table = build(collect([tmp_path]))
    keys = [column.key for column in table.columns]
    assert f"raw:{result.tasks[0]}" in keys and (f"clipped:{result.tasks[0]}" in keys) == shown


def test_a_task_where_one_model_gains_next_to_nothing_is_left_out_and_named(tmp_path):
    single = matrix("independent", 0, **RETURNS)
    single.set_cell(single.n, 1, [Episode(0.15, False, 40, None)])
    save(tmp_path / "independent", single)
    for seed in (0, 1):
        save(tmp_path / f"finetune-{seed}", matrix("finetune", seed, **RETURNS))
    table = build(collect([tmp_path]))
    assert row(table, "finetune").entries["normalised"].summary.mean == pytest.approx((0.1 + 1) / 2)
    said = [line for line in remarks(table) if "gains less than 0.1" in line]
    assert len(said) == 1, "once for both rows"
    assert f"without {single.tasks[1]}," in said[0] and "finetune" in said[0] and "independent" in said[0]
    for task in (0, 2):
        single.set_cell(single.n, task, [Episode(0.15, False, 40, None)])
    (tmp_path / "independent" / "scores.json").write_text(json.dumps(single.to_json()))
    assert row(build(collect([tmp_path])), "finetune").entries["normalised"].summary is None


def test_one_model_per_task_is_that_of_the_same_policy_if_there_is_one(tmp_path):
    low = matrix("independent", 0, policy="sfbc", **RETURNS)
    for task in range(low.n):
        low.set_cell(low.n, task, [Episode(0.5, False, 40, None)])
    save(tmp_path / "low", low)
    save(tmp_path / "high", matrix("independent", 0, **RETURNS))
    save(tmp_path / "packnet", matrix("packnet", 0, policy="sfbc", **RETURNS))
    save(tmp_path / "dt", matrix("finetune", 0, policy="dt", **RETURNS))
    table = build(collect([tmp_path], labels={str(tmp_path / "low"): "sfbc"}))
    assert row(table, "packnet").entries["normalised"].summary.mean == pytest.approx(0.8 / 0.4)
    assert row(table, "finetune").entries["normalised"].summary.mean == pytest.approx(0.4), "against the best there is"


def test_normalised_scores_need_one_model_per_task(five, tmp_path):
    assert "normalised" in [column.key for column in five.columns], "of successes as of returns"
    save(tmp_path / "er", matrix("er", 0, **RETURNS))
    assert "normalised" not in [column.key for column in build(collect([tmp_path])).columns]


def test_how_good_dreams_are_at_the_end_has_columns_of_its_own(five, tmp_path):
    """Means over the tasks before the last one, which was never replayed, and not of earlier times."""
    dreamed = matrix("er", 0)
    for learned, task, distance in ((1, 0, 9.0), (3, 0, 0.1), (3, 1, 0.3), (3, 2, 9.0)):
        dreamed.set_fidelity(learned, task, Fidelity(distance, 0.01, 0.02, coverage=1 - distance, novelty=1.0))
    save(tmp_path / "er", dreamed)
    save(tmp_path / "packnet", matrix("packnet", 0))
    table = build(collect([tmp_path]))
    for key, mean in (("dream_distance", 0.2), ("dream_coverage", 0.8)):
        assert key in [column.key for column in table.columns] and key not in [column.key for column in five.columns]
        assert row(table, "er").entries[key].summary.mean == pytest.approx(mean)
        assert row(table, "packnet").entries[key].reason == "it dreams of no earlier task"


def data_of(means, mark="0"):
    return [{"task": task, "digest": f"sha256:{mark}-{task}", "quality": "medium", "episodes": 9,
             **({"mean_return": 1000.0 * mean, "mean_score": mean} if mean is not None else {})}
            for task, mean in zip(TASKS, means, strict=True)]  # fmt: skip


def test_the_mean_score_of_the_data_stands_below_the_table(tmp_path):
    """Also where an older run of the same data does not say it."""
    save(tmp_path / "er-0", matrix("er", 0, data=data_of((0.44, 0.351, -0.2)), **RETURNS))
    save(tmp_path / "er-1", matrix("er", 1, data=data_of((None, None, None)), **RETURNS))
    save(tmp_path / "packnet", matrix("packnet", 0, data=data_of((None, None, None)), **RETURNS))
    collection = collect([tmp_path])
    table = build(collection)
    assert table.data == ("Mean score of the data: push 0.44, pull 0.35, turn \N{MINUS SIGN}0.20.",)
    assert table.data[0] in remarks(table) and table.data[0] in tables.json_table(table)["remarks"]
    assert table.data[0] in tables.markdown(table) and not set(table.data) & set(table.notices)


def test_rows_of_different_data_are_told_apart_by_their_means(tmp_path):
    for method, means, mark in (("er", (0.5, 0.5, 0.5), "0"), ("packnet", (0.1, 0.2, 0.3), "1"), ("finetune", (None,) * 3, "2")):
        save(tmp_path / method, matrix(method, 0, data=data_of(means, mark), **RETURNS))
    assert set(build(collect([tmp_path])).data) == {"Mean score of the data of er: push 0.50, pull 0.50, turn 0.50.",
                                                    "Mean score of the data of packnet: push 0.10, pull 0.20, turn 0.30."}


def test_data_whose_mean_is_not_known_of_every_task_are_not_mentioned(five, tmp_path):
    assert five.data == ()
    save(tmp_path / "er", matrix("er", 0, data=data_of((0.5, None, 0.5)), **RETURNS))
    assert build(collect([tmp_path])).data == ()


def test_one_seed_shows_a_wilson_interval_and_says_so(make_run, tmp_path):
    make_run("er")
    table = build(collect([tmp_path]))
    entry = row(table, "er").entries["average_performance"]
    assert entry.interval.kind == "episodes"
    assert show(entry, SCORE).endswith("]ᵉ")
    assert any("says nothing about other seeds" in line for line in remarks(table))


def test_two_to_four_seeds_are_listed():
    assert show(Entry(summarise({0: 0.5, 1: 0.75})), SCORE) == "0.62 (0.50, 0.75)"
    assert show(Entry(reason="no reference"), SCORE) == "not defined"


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.0, "score", "0"),
        (0.001, "score", "0.00"),
        (-0.001, "signed", "0.00"),
        (-0.5, "signed", "\N{MINUS SIGN}0.50"),
        (0.15, "signed", "+0.15"),
        (1.0, "score", "1.00"),
        (151044, "count", "151,044"),
        (0, "bytes", "0"),
        (2_500_000, "bytes", "2.5 MB"),
        (30, "seconds", "30 s"),
        (5400, "seconds", "1.5 h"),
    ],
)
def test_numbers_in_words(value, kind, text):
    assert number(value, kind) == text


def terminal_lines(table) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(tables.terminal(table))
    return out.getvalue().splitlines()


def test_the_terminal_table_fits_100_columns(five):
    lines = terminal_lines(five)
    packnet = next(line for line in lines if line.lstrip().startswith("packnet "))
    assert "0.90 [0.90, 0.90]" in packnet
    assert "1.5 min" in packnet
    assert "1,500" in packnet
    assert not any("…" in line for line in lines)


def test_the_terminal_shows_the_area_difference_beside_an_undefined_transfer(make_run, tmp_path):
    for method in ("packnet", "independent"):
        folder = make_run(method)
        content = json.loads((folder / "scores.json").read_text())
        for point in content["curve"]:
            for episode in point["episodes"]:
                episode["score"] = 1.0
        (folder / "scores.json").write_text(json.dumps(content))
    text = "\n".join(terminal_lines(build(collect([tmp_path]))))
    assert "not defined" in text
    assert "(area 0)" in text
    assert "above 0.95" in text


def test_markdown_holds_results_footprint_and_protocol(five):
    text = tables.markdown(five)
    assert "| packnet | 0.90 [0.90, 0.90] | 0 |" in text
    assert "Memory kept" in text
    assert "Normaliser" in text
    assert "Env steps" in text
    assert "not defined" in text


def test_csv_has_full_precision_and_reasons(five):
    rows = {r["method"]: r for r in csv.DictReader(io.StringIO(tables.csv_text(five)))}
    assert float(rows["finetune"]["forgetting"]) == row(five, "finetune").entries["forgetting"].summary.mean
    assert rows["joint"]["forgetting"] == ""
    assert "no score" in rows["joint"]["forgetting_reason"]
    assert rows["packnet"]["average_performance_by_seed"].count(";") == 4


def test_json_is_strict_and_complete(five):
    content = json.loads(json.dumps(tables.json_table(five), allow_nan=False))
    entries = {r["method"]: r["entries"] for r in content["rows"]}
    assert entries["joint"]["forgetting"]["text"] == "not defined"
    assert "mean" not in entries["joint"]["forgetting"]
    assert entries["packnet"]["average_performance"]["by_seed"]["4"] == pytest.approx(0.9)


def test_different_protocols_are_told_apart(make_run, tmp_path):
    make_run("finetune")
    make_run("joint")
    lines = tables.protocol_lines(build(collect([tmp_path])))
    assert len(lines) == 2
    assert any("Protocol of joint" in line for line in lines)


HOSTILE = "=1+1|a_b & 50% $x$ {#} ~^\\ [x](y) <b>"


def test_names_are_escaped_for_every_format(make_run, tmp_path):
    make_run("er")
    table = build(collect([tmp_path]))
    table = replace(table, rows=(replace(table.rows[0], name=HOSTILE),))
    first = tables.csv_text(table).splitlines()[1]
    assert first.startswith("'=1+1")
    tex = tables.latex(table)
    assert (
        r"=1+1\textbar{}a\_b \& 50\% \$x\$ \{\#\} \textasciitilde{}\textasciicircum{}\textbackslash{}" in tex
    )
    assert "{[}x{]}(y) \\textless{}b\\textgreater{}" in tex
    md = tables.markdown(table)
    assert "=1+1\\|a\\_b &amp; 50%" in md
    assert "\\[x\\](y)" in md
    assert "<b>" not in md


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r@"])
def test_csv_cells_never_start_a_formula(start):
    assert tables._safe(start + "cmd").startswith("'")


def test_latex_has_as_many_cells_as_columns(five):
    lines = [line for line in tables.latex(five).splitlines() if line.startswith("packnet &")]
    widths = [len(five.section("results")), len(five.section("footprint", "protocol"))]
    assert [line.count(" & ") for line in lines] == widths


def test_action_error_appears_where_it_was_measured(make_run, tmp_path):
    folder = make_run("er")
    content = json.loads((folder / "scores.json").read_text())
    content["action_error"] = [{"learned": 3, "task": t, "value": 0.1 * (t + 1), "n": 50} for t in range(3)]
    (folder / "scores.json").write_text(json.dumps(content))
    table = build(collect([tmp_path]))
    assert row(table, "er").entries["action_error"].summary.mean == pytest.approx(0.2)
    assert "Action error" in tables.markdown(table)
