"""tools/results.py: every declared table can be written, and every row of it has its place in docs/reproduction.md."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from quick import quick
from tiny import EVALUATION, FLAT, RECIPE

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import results  # noqa: E402 - found through the line before

tables = pytest.mark.parametrize("table", results.TABLES)


@tables
def test_rows_are_told_apart(table):
    rows = [(row.method, bool(row.options.get("compat")), results.shown(row, table)) for row in results.TABLES[table]]
    assert len(set(rows)) == len(rows)
    hashes = [config.hash + str(config.seed) for row in results.TABLES[table] for config in row.configs()]
    assert len(set(hashes)) == len(hashes)


@tables
def test_every_row_has_a_place_in_the_table_of_reproductions(table):
    if table.startswith("cwtune"):
        pytest.skip("hyperparameters are chosen there; it is no result")
    section, places = "", set()
    for line in (ROOT / "docs" / "reproduction.md").read_text().splitlines():
        section = line.split()[1] if line.startswith("### ") else section
        places.add((section, line.strip("|").split("|")[0].strip()))
    assert not {(results._section(table), results._name(row)) for row in results.TABLES[table]} - places


@pytest.mark.parametrize(("table", "row"), results.BASELINES.items())
def test_rows_that_others_are_compared_with_exist(table, row):
    assert row in [results.row_name(each, table) for each in results.TABLES[table]]


def toy_row(method: str, **fields) -> results.Row:
    return results.Row(method, "toy", options=RECIPE, policy_options=FLAT, evaluation=EVALUATION, **fields)


@pytest.fixture
def toy_tables(monkeypatch, tmp_path):
    """Two tables of tiny runs with one row in common, which has both seeds in the first only, in an empty folder."""
    quick(monkeypatch, tmp_path)
    both, alone = toy_row("finetune", seeds=(0, 1)), toy_row("independent")
    monkeypatch.setattr(results, "TABLES", {"toy": [both, alone], "toy-order-1": [replace(both, seeds=(0,))]})
    monkeypatch.setattr(results, "BASELINES", {"toy": "independent"})
    results.REPRODUCTION.parent.mkdir()
    results.REPRODUCTION.write_text("### toy and its orders\n\n| finetune | 0.5 | not run | - | - | - | not run |\n")


def test_a_table_is_written_before_its_baseline_has_run(toy_tables, capsys):
    results.work("toy", only=["finetune"], seeds=[0])
    results.write("toy")
    table = (results.RESULTS / "toy" / "table.md").read_text()
    assert "finetune" in table and "independent |" not in table
    assert "from 1 runs" in capsys.readouterr().out


def test_a_row_of_two_tables_keeps_the_longer_list_of_seeds(toy_tables):
    results.work("toy", only=["finetune"], seeds=[])
    for table in results.TABLES:
        results.write(table)
    results.fill_reproduction()
    row = results.REPRODUCTION.read_text().splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")][1:3] == ["finetune", "0.5"] and "| 0, 1 |" in row
