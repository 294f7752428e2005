import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rankdistill.export.compare import comparison_page, sweep_files
from rankdistill.export.compare.comparison_figures import LEAST_STEP, parallel, scatter, ticks
from rankdistill.export.compare.comparison_page import write_csv, write_json, write_page
from rankdistill.export.compare.comparison_rows import compare
from rankdistill.export.errors import UserError
from rankdistill.export.report.run_folders import jobs_of, read
from tests.run_folders import HOST, HOSTILE, write_record, write_run, write_sweep

EASY = np.linspace(0.2, 0.8, 30)
VOID = {"meta", "link", "br", "input", "img"}


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text by element, scripts; unclosed elements are refused."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.scripts, self.texts = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script":
            name = attributes.get("id", f"script {len(self.scripts)}")
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def few(tmp_path):
    return compare(jobs_of(write_sweep(tmp_path / "few", 12, failed=[3])), tmp_path / "few")


@pytest.fixture
def hostile(tmp_path):
    folder = tmp_path / "hostile"
    write_run(folder / "<b>中文 #1?", EASY, overrides=[f"a={HOSTILE}", "loss=kl"], host=HOST | {"processor": HOSTILE})
    write_run(folder / "javascript:alert(1)", EASY, overrides=[f"a={HOSTILE}2", "loss=中文"], experiment=HOSTILE)
    write_run(folder / "🚀 & '\"", EASY, overrides=[f"b={HOSTILE}"], dataset=HOSTILE, fingerprint=HOSTILE)
    write_record(folder / "failed", status="failed", error=f"{HOSTILE}\n\u2028 [red]", overrides=["<!--=<script>"])
    return compare([read(path) for path in sorted(folder.iterdir())], folder)


def written(comparison, tmp_path):
    path = tmp_path / "page.html"
    write_page(comparison, path)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("which", ["few", "hostile"])
def test_the_page_loads_nothing(which, request, tmp_path):
    page = Page(written(request.getfixturevalue(which), tmp_path))
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert tag not in ("iframe", "object", "embed", "img", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        href = attributes.get("href") or ""
        assert not re.match(r"[a-z][\w+.-]*:|//", href) or href == "data:,"
    (policy,) = (meta["content"] for meta in page.all("meta") if "content" in meta and "default-src" in meta["content"])
    assert "default-src 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("which", ["few", "hostile"])
def test_the_page_holds_the_comparison(which, request, tmp_path):
    comparison = request.getfixturevalue(which)
    page = Page(written(comparison, tmp_path))
    assert json.loads(page.scripts["comparison"]) == json.loads(json.dumps(comparison))
    assert set(json.loads(page.scripts["figures"])) == {"latency", "size", "parallel"}


def test_hostile_text_stays_text(hostile, tmp_path):
    text = written(hostile, tmp_path)
    page = Page(text)
    plain = " ".join(HOSTILE.split())
    assert page.text.count(plain) >= 4
    assert "<b>中文 #1?" in page.text
    assert len(page.all("script")) == 4
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    links = [found["href"] for found in page.all("a")]
    assert "%3Cb%3E%E4%B8%AD%E6%96%87%20%231%3F/report.html" in links
    assert "javascript%3Aalert%281%29/report.html" in links
    figures = json.loads(page.scripts["figures"])
    for figure in figures.values():
        for trace in figure["data"]:
            hovered = trace.get("hovertext", [])
            for line in [hovered] if isinstance(hovered, str) else hovered:
                assert set(re.findall(r"<[^>]*>", line)) <= {"<b>", "</b>", "<br>"}
    assert not [note for note in figures["parallel"]["layout"]["annotations"] if re.search(r"<(?!/?b>)", note["text"])]


def test_text_that_is_no_unicode_is_written_with_escapes(tmp_path):
    write_record(tmp_path / "0", status="failed", error="bad \udcff name")
    comparison = compare([read(tmp_path / "0")], tmp_path)
    assert "bad \\udcff name" in written(comparison, tmp_path)
    write_csv(comparison, tmp_path / "t.csv")
    write_json(comparison, tmp_path / "t.json")
    assert "bad \\udcff name" in (tmp_path / "t.csv").read_text(encoding="utf-8")


def test_every_run_has_its_numbers_or_its_error(few, tmp_path):
    page = Page(written(few, tmp_path))
    assert len([row for row in page.all("tr") if "data-job" in row]) == 11
    assert "RuntimeError: job 3" in page.text
    for row in few["rows"]:
        if row["ndcg@10"] is not None:
            assert f"{row['ndcg@10']:.3f}" in page.text
    assert {found["href"] for found in page.all("a")} == {f"{i}/report.html" for i in range(12) if i != 3}


def test_columns_sort_by_keyboard_too(few, tmp_path):
    page = Page(written(few, tmp_path))
    buttons = [found for found in page.all("button") if "data-first" in found]
    assert len(buttons) == 5 + 3 + 10  # job, front, recommended, gate, seconds; what varies; measured
    assert all(found["type"] == "button" and found["data-first"] in ("ascending", "descending") for found in buttons)
    cells = [found["data-v"] for tag, found in page.elements if tag in ("td", "th") and "data-v" in found]
    assert len(cells) == 11 * len(buttons)


def test_ids_are_unique_and_each_figure_has_its_place(few, tmp_path):
    page = Page(written(few, tmp_path))
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {f"plot-{name}" for name in json.loads(page.scripts["figures"])} <= set(ids)
    assert all(found.get("aria-label") for _, found in page.elements if found.get("role") in ("img", "region", "note"))


def test_the_same_comparison_gives_the_same_bytes(few, tmp_path):
    assert written(few, tmp_path) == written(json.loads(json.dumps(few)), tmp_path)


@pytest.mark.parametrize(("jobs", "failed"), [(1, []), (1, [0]), (3, [0, 1, 2]), (3, [1]), (60, [5])])
def test_pages_of_any_number_of_runs(tmp_path, jobs, failed):
    folder = write_sweep(tmp_path / "s", jobs, failed=failed)
    comparison = sweep_files.summarise(folder)
    page = Page((folder / "sweep.html").read_text(encoding="utf-8"))
    whole = jobs - len(failed)
    assert f"{whole} of {jobs} run" in page.text
    assert ("Runs with a result" in page.text) == bool(whole)
    assert ("Runs without a result" in page.text) == bool(failed)
    assert ("latency" in json.loads(page.scripts["figures"])) == bool(whole)
    assert ("parallel" in json.loads(page.scripts["figures"])) == (whole > 1)
    assert ("Which differences" in page.text) == (whole > 1)
    if not whole:
        assert len(page.scripts["comparison"]) + 50_000 > sum(map(len, page.scripts.values()))  # without plotly
    assert len(comparison["rows"]) == jobs


def test_a_missing_plotly_is_named_with_its_extra(few, tmp_path, monkeypatch):
    def refuse(extra, *modules):
        raise UserError(f"{modules} not installed; run: pip install 'rankdistill[{extra}]'")

    monkeypatch.setattr(comparison_page, "require", refuse)
    with pytest.raises(UserError, match=r"plotly.*rankdistill\[sweep\]"):
        write_page(few, tmp_path / "page.html")


# figures


def filled(node):
    """Return a figure with real colours, as plotly.py checks them."""
    if isinstance(node, dict):
        return {name: filled(child) for name, child in node.items() if name != "axes"}
    if isinstance(node, list | tuple):
        return [filled(child) for child in node]
    return "#123456" if isinstance(node, str) and node.startswith("var(--") else node


@pytest.mark.parametrize("which", ["few", "hostile"])
def test_plotly_takes_the_figures(which, request):
    from plotly.graph_objects import Figure

    comparison = request.getfixturevalue(which)
    for figure in (scatter(comparison, "latency"), scatter(comparison, "size"), parallel(comparison)):
        Figure(filled(figure))


def test_the_front_is_told_by_shape_and_joined(few):
    figure = scatter(few, "latency")
    by_name = {trace.get("name"): trace for trace in figure["data"]}
    assert by_name["front"]["marker"]["symbol"] != by_name["not on it"]["marker"]["symbol"]
    on = {row["job"] for row in few["rows"] if row["fronts"]["latency"]}
    assert set(by_name["front"]["customdata"]) == on
    line = by_name[None]
    assert line["x"] == sorted(line["x"])
    assert line["y"] == sorted(line["y"])
    assert set(line["x"]) == {row["cpu_ms_per_query"] for row in few["rows"] if row["job"] in on}
    first = by_name["front"]
    assert first["y"][0] + first["error_y"]["array"][0] == pytest.approx(first["y"][0] + 0.03)
    assert first["error_y"]["arrayminus"][0] == pytest.approx(0.02)
    assert "layers=" in first["hovertext"][0]


def test_parallel_axes_keep_numbers_and_make_categories_of_words(few):
    figure = parallel(few)
    titles = [note["text"] for note in figure["layout"]["annotations"] if note["y"] > 1.1]
    assert titles == [f"<b>{name}</b>" for name in ("layers", "learning_rate", "loss", "nDCG@10", "CPU-ms", "MB")]
    assert len(figure["data"]) == 11
    jobs = {row["job"]: row for row in few["rows"]}
    for axis, place in ((0, lambda row: row["settings"]["student.layers"]), (4, lambda row: -row["cpu_ms_per_query"])):
        lines = sorted(figure["data"], key=lambda line: place(jobs[line["name"]]))
        heights = [line["y"][axis] for line in lines]
        assert heights == sorted(heights)
        assert (heights[0], heights[-1]) == (0, 1)
    assert {line["y"][2] for line in figure["data"]} == {0.25, 0.75}  # kl, margin_mse


def test_marks_are_not_written_over_each_other(tmp_path):
    for i, value in enumerate((1, 1.0001, 2, 500, 1000)):
        write_run(tmp_path / str(i), EASY, overrides=[f"a={value}"])
    figure = parallel(compare(jobs_of(tmp_path), tmp_path))
    heights = sorted(note["y"] for note in figure["layout"]["annotations"] if note["x"] == 0 and note["y"] <= 1)
    assert len(heights) == 4
    assert min(np.diff(heights)) >= LEAST_STEP


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.8, 90, [1, 2, 5, 10, 20, 50]), (0.5, 6000, [1, 10, 100, 1000]), (14, 17, [14, 14.5, 15, 15.5, 16, 16.5, 17]),
        (0.281, 0.324, [0.29, 0.3, 0.31, 0.32]), (-1, 1, [-1, -0.5, 0, 0.5, 1]), (3, 3, [3]), (0, 0, [0]),
    ],
)  # fmt: skip
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == expected


# tables


def test_the_table_has_a_row_a_run_and_a_column_for_what_varies(few, tmp_path):
    write_csv(few, tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_bytes().decode("utf-8")
    assert "\r" not in text
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert len(rows) == 12
    assert {"student.layers", "student.fit.learning_rate", "loss", "ndcg@10_low", "front_all"} <= set(rows[0])
    assert "seed" not in rows[0]
    for row, found in zip(few["rows"], rows, strict=True):
        assert found["ndcg@10"] == ("" if row["ndcg@10"] is None else repr(row["ndcg@10"]))
        assert found["student.layers"] == str(row["settings"]["student.layers"])
    assert (rows[3]["status"], rows[3]["error"], rows[3]["ndcg@10_high"]) == ("failed", "RuntimeError: job 3\nmore", "")
    assert rows[0]["front_all"] in ("true", "false")


def test_hostile_text_comes_back_from_the_table(hostile, tmp_path):
    write_csv(hostile, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == [row["job"] for row in hostile["rows"]]
    assert rows[0]["a"] == HOSTILE


# a sweep


def test_a_sweep_is_summed_up_in_its_folder(tmp_path):
    folder = write_sweep(tmp_path / "s", 4, failed=[2])
    (folder / "4").mkdir()  # a job that never began
    comparison = sweep_files.summarise(folder)
    assert [row["job"] for row in comparison["rows"]] == ["0", "1", "2", "3"]
    assert (folder / "sweep.csv").is_file()
    assert (folder / "sweep.html").is_file()
    assert comparison["rows"][0]["report"] == "0/report.html"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_sweep_of_runs_that_lie_elsewhere(tmp_path):
    folder = write_sweep(tmp_path / "s", 3)
    other = write_run(tmp_path / "other" / "0", EASY)
    comparison = sweep_files.summarise(folder, [folder / "2", other, tmp_path / "none"])
    assert [row["report"] for row in comparison["rows"]] == ["2/report.html", "../other/0/report.html"]
    assert sweep_files.summarise(folder, [])["rows"] == []
    with pytest.raises(UserError, match="is no sweep"):
        sweep_files.summarise(tmp_path)
