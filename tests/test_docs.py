"""The documentation tells the truth: its code runs, its links lead somewhere, its tables agree with the code.

Every ```python and ```bash block of a page is executed in the order of the page, in one namespace and one temporary folder.
A block that would take long carries `<!-- not run: reason -->` in the line above it, or is ```text; `<!-- save as: FILE -->`
writes a block to a file for the blocks that follow.
"""

import itertools
import re
import shlex
import sys
import types
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import pytest
from quick import quick

from perdure.benchmarks import atari, atari_env, atari_source, offline_continual_world, panda, panda_layout, panda_source
from perdure.benchmarks.continual_world import CW10, CWTUNE, ORDERS, QUALITY, SHUFFLED
from perdure.benchmarks.metaworld_source import measured
from perdure.cli import VERBS, main
from perdure.core.config import field_types
from perdure.core.metrics import DEFINITIONS
from perdure.data.card import FIELDS
from perdure.methods import METHODS
from perdure.run_config import find

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
LANGUAGES = ("python", "bash", "text", "toml")
STATUS = ("verified", "close", "not reproduced", "measured", "not run")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, first line in the page, and the comment in the line above it."""

    language: str
    text: str
    line: int
    comment: str

    def order(self, what: str) -> str:
        """What the comment says after `what:`; empty if it does not say it."""
        found = re.fullmatch(rf"<!-- {what}: (.+) -->", self.comment)
        return found[1] if found else ""

    @property
    def runs(self) -> bool:
        return self.language in ("python", "bash") and not self.order("not run") and not self.order("save as")


def blocks(page: Path) -> list[Block]:
    found, lines = [], page.read_text().split("\n")
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{page.name}: a block is not closed"
    for begin, end in zip(fences[::2], fences[1::2], strict=True):
        above = lines[begin - 1].strip() if begin else ""
        found.append(Block(lines[begin][3:].strip(), "\n".join(lines[begin + 1 : end]) + "\n", begin + 1, above))
    return found


def prose(page: Path) -> str:
    """The page without code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))


def links(page: Path) -> list[str]:
    """Targets of the links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def table(page: Path, first: str) -> list[list[str]]:
    """Rows below the heading whose first cell is `first`, as cells without backticks, of every such table."""
    rows, reading = [], False
    for line in page.read_text().split("\n"):
        cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            reading = False
        elif cells[0] == first:
            reading = True
        elif reading and set(line) - set("|-: "):
            rows.append(cells)
    return rows


def identity(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_python(block: Block, page: Path, module: types.ModuleType) -> None:
    code = compile("\n" * block.line + block.text, str(page), "exec")  # so that a traceback names the line of the page
    exec(code, module.__dict__)


def run_bash(block: Block, page: Path) -> None:
    """Every line is a perdure command; it runs in this process, which is as the program does but for its start."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        place = f"{identity(page)}, block at line {block.line}: {line}"
        assert words[0] == "perdure", f"{place}: only perdure commands are run; mark others with <!-- not run: reason -->"
        expanded = [sorted(glob(word)) if "*" in word else [word] for word in words[1:]]
        assert all(expanded), f"{place}: nothing matches"
        assert main(list(itertools.chain(*expanded))) == 0, place


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to work in, and the namespace of a page."""
    quick(monkeypatch, tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    return module


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=identity)
def test_code_runs(page, workplace):
    for block in blocks(page):
        if name := block.order("save as"):
            Path(name).write_text(block.text)
        elif block.runs and block.language == "python":
            run_python(block, page, workplace)
        elif block.runs:
            run_bash(block, page)


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_blocks_say_what_they_are(page):
    for block in blocks(page):
        place = f"{identity(page)}, block at line {block.line}"
        assert block.language in LANGUAGES, f"{place}: language is {block.language!r}"
        assert block.language != "toml" or block.order("save as"), f"{place}: is not used by any block"
        if block.comment.startswith("<!-- not run"):
            assert len(block.order("not run").split()) > 2, f"{place}: says not why it is not run"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as a browser on a code host makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_links_lead_somewhere(page):
    for target in links(page):
        if target.startswith(("http://", "https://", "mailto:", "data:")):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{identity(page)} links to {target}, which does not exist"
        assert place.is_relative_to(ROOT), f"{identity(page)} links to {target}, outside the repository"
        assert not anchor or anchor in anchors(place), f"{identity(page)} links to {target}, which has no such heading"


def test_every_page_is_in_the_index():
    linked = {(DOCS / target).resolve() for target in links(DOCS / "index.md")}
    pages = [page for page in DOCS.rglob("*.md") if page.parent.parent.name != "results"]  # there each folder is a table
    assert [identity(page) for page in pages if page.resolve() not in linked] == ["docs/index.md"]


def test_readme_is_short_and_names_every_command_and_method():
    text = README.read_text()
    assert len(text.splitlines()) < 150
    rows = "\n".join(" ".join(row) for row in table(README, "command"))
    assert [verb for verb in VERBS if f"perdure {verb}" not in rows] == []
    assert [method for method in METHODS if f"`{method}`" not in text] == []
    targets = re.findall(r"^make (\w+)$", text, flags=re.M)
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)


def test_the_method_of_the_page_is_the_method_of_the_package():
    page = DOCS / "adding_a_method.md"
    code = next(block.text for block in blocks(page) if block.language == "python")
    line = next(block.text for block in blocks(page) if block.language == "text" and "l2:L2" in block.text)
    assert code == (ROOT / "perdure/methods/l2.py").read_text()
    assert line in (ROOT / "perdure/methods/__init__.py").read_text()
    assert len(code.splitlines()) < 80


def test_every_field_of_a_card_is_described():
    page = DOCS / "data_format.md"
    assert {row[0]: row[1] for row in table(page, "field")} == {
        field: {int: "number", str: "text", list: "list", dict: "object"}[kind] for field, kind in FIELDS.items()
    }
    assert [row[0] for row in table(page, "array")] == ["observations", "actions", "rewards", "terminated", "truncated"]


def test_every_method_has_a_row_with_a_status():
    rows = table(DOCS / "reproduction.md", "method")
    ours = [row for row in rows if len(row) == 7]
    assert {row[-1] for row in ours} <= set(STATUS)
    assert [row[0] for row in table(DOCS / "reproduction.md", "status")] == list(STATUS)
    assert set(METHODS) - {re.match(r"\w+", row[0]).group() for row in ours} == set()
    for row in ours:
        assert (row[-1] == "not run") == (row[2] == "not run") == (row[5] == "-"), f"reproduction.md: {row}"


def test_every_metric_is_in_the_glossary():
    assert [row[0] for row in table(DOCS / "glossary.md", "metric")] == [definition.title for definition in DEFINITIONS.values()]


def test_the_page_of_continual_world_agrees_with_the_code():
    page = DOCS / "benchmarks" / "continual_world.md"
    for name, tasks, quality, _ in table(page, "stream"):
        listed = "those ten, twice" if name == "cw20-v3" else ", ".join(ORDERS[name])
        assert (tasks, quality) == (listed, QUALITY.get(name, "mixed"))
    rungs = {task: [f"{x:.2f}" for x in (measured(task)["expert"], *(level["success"] for level in measured(task)["levels"]))]
             for task in CW10 + CWTUNE}
    assert {row[0]: row[1:] for row in table(page, "task")} == rungs
    unselected = [task for task in CW10 if task not in ORDERS["cw3-v3"] and measured(task)["expert"] >= 0.95]
    assert list(ORDERS["cw3b-v3"]) == unselected[:3]


def test_the_page_of_panda_agrees_with_the_code():
    page = DOCS / "benchmarks" / "panda.md"
    assert [(row[0], row[1], row[2]) for row in table(page, "stream")] == [
        (name, ", ".join(tasks), panda.Options().quality) for name, tasks in panda.ORDERS.items()
    ]
    rungs = {task: [f"{x:.2f}" for x in (found["expert"], *(level["success"] for level in found["levels"]))]
             for task in panda.TASKS if (found := panda_source.measured(task))}
    assert {row[0]: row[1:] for row in table(page, "task") if len(row) == 7} == rungs
    assert {row[0]: row[1:] for row in table(page, "quantity")} == {
        key: [str(panda_layout.size(key)), unit, *("" if key in panda_layout.ABSENT[task] else "yes" for task in panda.TASKS)]
        for key, (unit, _) in panda_layout.BLOCKS.items()
    }


def test_the_page_of_atari_agrees_with_the_code():
    page = DOCS / "benchmarks" / "atari.md"
    assert [(row[0], row[1], row[2]) for row in table(page, "stream")] == [
        (name, ", ".join(games), atari.Options().quality) for name, games in atari.ORDERS.items()
    ]
    points = {game: [f"{x:.1f}" for x in (*atari_source.measured(game).values(), *atari_source.REFERENCES[game])]
              for game in atari_source.PLAYERS}
    assert {row[0]: row[1:] for row in table(page, "game") if len(row) == 5} == points
    assert ", ".join(str(len(names)) for names in atari_env.MINIMAL.values()) in page.read_text()


def test_the_page_of_offline_continual_world_agrees_with_the_code():
    page = DOCS / "benchmarks" / "offline_continual_world.md"
    assert [row[0] for row in table(page, "stream")] == [*offline_continual_world.ORDERS, "ocw10-mt50"]
    places = {"default": tuple(range(1, 11))} | SHUFFLED
    assert {order: (numbers, tasks) for order, numbers, tasks in table(page, "order")} == {
        order: (", ".join(map(str, row)), ", ".join(CW10[place - 1] for place in row)) for order, row in places.items()}
    rungs = {task: [measured(task, 500)["expert"], *(level["success"] for level in measured(task, 500)["levels"])]
             for task in CW10 if measured(task, 500) != measured(task)}
    assert {row[0]: row[1:] for row in table(page, "task at 500 steps")} == {
        task: [f"{x:.2f}" for x in row] for task, row in rungs.items()}
    assert [row[0] for row in table(page, "task") if len(row) == 6] == list(CW10)
    for row in [row for row in table(page, "method") if len(row) == 9 and "-" not in row]:
        performance, forgetting, learned = ([float(row[i].split("±")[0]) for i in pair] for pair in ((1, 4), (2, 5), (7, 8)))
        assert learned == pytest.approx([p + f for p, f in zip(performance, forgetting, strict=True)])
    switched = {method for method in METHODS if "compat" in field_types(find(method, METHODS, "method").Config)}
    switched -= {"tsn_affinity", "compoformer", "cugro"}  # the code of their own papers
    assert {row[0] for row in table(page, "method") if len(row) == 2} == switched


def test_the_page_of_results_names_tables_that_exist():
    known = (ROOT / "tools/tables.py").read_text().partition("\nTABLES: ")[2].partition("\nBASELINES ")[0]
    rows = table(DOCS / "results" / "README.md", "table")
    assert len(rows) == len(re.findall(r'^    "[\w-]+": ', known, flags=re.M))
    for name, _, command in rows:
        assert f'"{name}": ' in known
        assert command == f"python tools/results.py {name}"
