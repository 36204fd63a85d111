"""The table and its renderings: same numbers everywhere, "not defined" instead of 0, safe text."""

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from perdure.core.intervals import summarise
from perdure.report import tables
from perdure.report.collect import collect
from perdure.report.model import Column, Entry, build, number, remarks, show

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
