"""The written report: all files, one offline page, every name escaped, figures described in words."""

import re
from html import unescape

import pytest

from perdure.core.errors import UsageError
from perdure.core.files import read_json, write_json
from perdure.report import figures
from perdure.report.collect import collect
from perdure.report.drawing import file_name
from perdure.report.write import write_report
from report.conftest import matrix, save

EVIL = "<script>alert(1)</script>"


def test_every_file_is_written(report):
    out = report.page.parent
    names = {str(path.relative_to(out)) for path in report.files}
    assert {"report.html", "table.md", "table.tex", "table.csv", "table.json"} <= names
    for figure in ("curves", "tasks-seen", "retention", "cost", "matrix-packnet"):
        assert f"figures/{figure}.svg" in names
        assert f"figures/{figure}.png" in names
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    assert read_json(out / "table.json")["rows"][0]["method"] == "joint"


def test_the_page_says_where_the_training_time_goes(tmp_path):
    """Of methods that train in more than one phase, where that is recorded; what is malformed counts as not recorded."""
    recorded = {"er": {"train": 60.0}, "packnet": {"dense": 90.0, "retrain": 30.0, "odd": "soon"}, "finetune": [1]}
    for method, phases in recorded.items():
        write_json(save(tmp_path / "runs" / method, matrix(method, 0)) / "environment.json", {"phase_cpu_seconds": phases})
    page = write_report([tmp_path / "runs"], tmp_path / "out").page.read_text()
    assert re.findall(r"<li>(\w+: [^<]* % of [^<]*)</li>", page) == ["packnet: dense 75 %, retrain 25 % of 2 min"]


def test_the_page_fetches_nothing_and_runs_nothing(report):
    text = report.page.read_text()
    assert len(text) < 5 * 2**20
    assert not re.search(r"""(src|href|srcset|action|data)\s*=\s*["']?\s*(https?:|//|file:)""", text, re.I)
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text.lower()
    assert not re.search(r"<[^>]*\son\w+=", text)
    assert "default-src 'none'" in text


def test_names_are_escaped_and_still_readable(report):
    text = report.page.read_text()
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert EVIL in unescape(text)
    for svg in (report.page.parent / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text()


def test_the_page_says_in_words_what_happened(report):
    lead = re.search(r'<p class="lead">(.*?)</p>', report.page.read_text()).group(1)
    assert "Three methods learned the three tasks of toy" in lead
    assert "packnet scores 0.90 on average and has forgotten exactly nothing" in lead
    assert "finetune ends at 0.42 on average, after 0.90 right after each task was learned" in lead
    assert "joint reaches 0.90" in lead
    assert "No environment step" in lead


def test_every_picture_has_words(report):
    images = re.findall(r"<img[^>]*>", report.page.read_text())
    assert len(images) == 4 + 3 + 1
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    alt = next(image for image in images if "Score matrix of joint" in image)
    assert "not defined, not defined, not defined" in alt


def test_definitions_and_hashes_are_in_the_page(report):
    text = report.page.read_text()
    for piece in ("arXiv 2105.10919", "arXiv 1801.10112", "ab12cd34", "sha256:", "torch 2.13.0", "per task"):
        assert piece in text


def test_a_report_is_the_same_twice(report, tmp_path):
    out = report.page.parent
    again = write_report([out.parent / "runs"], tmp_path)
    for path in report.files:
        assert (again.page.parent / path.relative_to(out)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"task": "a", "when": "before", "file": "../../scores.json", "success": None}, "names the file"),
        ({"task": "a", "when": "before", "file": "missing.webp", "success": None}, "missing"),
        ({"task": "a", "when": "before", "file": "x.svg", "success": None}, "names the file"),
        ({"task": "a", "when": 3, "file": "x.png"}, "malformed"),
        ("x.png", "malformed"),
    ],
)
def test_clips_stay_inside_their_folder(make_run, tmp_path, entry, words):
    folder = make_run("er") / "clips"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"x")
    write_json(folder / "index.json", {"clips": [entry]})
    with pytest.raises(UsageError, match=words):
        write_report([tmp_path / "runs"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_one_sentence(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([make_run("er")], tmp_path / "file" / "out")


def test_methods_keep_their_colours_and_file_names_are_safe(make_run, tmp_path):
    make_run("er")
    alone = figures.styles(collect([tmp_path]))
    make_run("finetune")
    both = figures.styles(collect([tmp_path]))
    assert alone["er"] == both["er"]
    assert len(set(both.values())) == 2
    names = [file_name(name) for name in ("er", "a/../b", "er (x)", "er [x]", "my.mod:M")]
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)


def test_no_two_of_many_rows_look_the_same(tmp_path):
    for i in range(20):
        made = matrix("er", 0)
        made.method = f"method-{i}"
        save(tmp_path / made.method, made)
    assert len(set(figures.styles(collect([tmp_path])).values())) == 20


def test_who_leans_on_whom_is_drawn_and_told(tmp_path):
    for method in ("packnet", "finetune"):
        made = matrix(method, 0)
        if method == "packnet":
            made.set_leans({(1, 0): 1.0, (2, 0): 0.25})
            made.footprint |= {"modules": [0, 2], "from_words": True}
        save(tmp_path / "runs" / method, made)
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    page = report.page.read_text()
    assert [path.stem for path in (tmp_path / "out" / "figures").glob("leaning-*.png")] == ["leaning-packnet"]
    assert "Which task leans on which" in page and "turn on push 0.25" in page
    table = (tmp_path / "out" / "table.md").read_text()
    assert "Next task, by its words" in table and "| Modules |" in table
    plain = write_report([tmp_path / "runs" / "finetune"], tmp_path / "plain").page
    assert "Which task leans on which" not in plain.read_text() and "Modules" not in (plain.parent / "table.md").read_text()
