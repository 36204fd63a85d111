"""tools/results.py: every declared table can be written, and every row of it has its place in docs/reproduction.md."""

import sys
from pathlib import Path

import pytest

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
