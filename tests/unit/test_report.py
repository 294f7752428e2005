import copy
import io
import math
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from rankdistill.export import files
from rankdistill.export.report import report_page
from rankdistill.export.report.report_page import write_report
from rankdistill.export.report.tradeoff_table import finding, print_tradeoff, shown, shown_interval, tradeoff_table

NO_SPEED = dict.fromkeys(
    "p50_ms p95_ms p99_ms pairs_per_s cpu_ms_per_query speedup speedup_ci speedup_wall speedup_wall_ci size_mb params "
    "peak_rss_mb".split()
)


def row(model, engine, precision, ndcg, p50=None, size=None, params=None):
    def interval(value, half):
        return [value - half, value + half]

    made = {"model": model, "engine": engine, "precision": precision}
    for name, value in {"ndcg@10": ndcg, "mrr@10": ndcg + 0.05, "map": ndcg - 0.1, "pair_accuracy": ndcg - 0.2}.items():
        made |= {name: value, f"{name}_ci": interval(value, 0.0123)}
    made |= {"retention": ndcg / 0.862, "retention_ci": interval(ndcg / 0.862, 0.011)}
    made |= {"tau": ndcg - 0.012, "rbo": ndcg + 0.034, "overlap@10": ndcg - 0.056}
    if p50 is None:
        return made | NO_SPEED
    speedup = 41.9 / p50
    return made | {
        "p50_ms": p50, "p95_ms": 1.713 * p50, "p99_ms": 2.11 * p50, "pairs_per_s": 49383 / p50,
        "cpu_ms_per_query": 1.93 * p50, "speedup": speedup, "speedup_ci": interval(speedup, 0.04 * speedup),
        "speedup_wall": 0.97 * speedup, "speedup_wall_ci": interval(0.97 * speedup, 0.05 * speedup),
        "size_mb": size, "params": params, "peak_rss_mb": 300 + 2 * size,
    }  # fmt: skip


@pytest.fixture
def tradeoff():
    return {
        "format": 1, "experiment": "default", "dataset": "MovieLens-100K", "split": "test", "queries": 1200,
        "pairs": 9876, "confidence": 0.95,
        "rows": [
            row("teacher", "pytorch", "fp32", 0.862, 41.9, 90.9, 22_713_601),
            row("teacher", "onnxruntime", "fp32", 0.862, 27.3, 91.1, 22_713_601),
            row("teacher", "onnxruntime", "int8", 0.8604, 13.6, 23.1, 22_713_601),
            row("student", "pytorch", "fp32", 0.8449, 10.8, 62.6, 15_615_745),
            row("student", "onnxruntime", "fp32", 0.8449, 6.47, 62.7, 15_615_745),
            row("student", "onnxruntime", "int8", 0.8441, 3.58, 15.9, 15_615_745),
            row("popularity", None, None, 0.784),
            row("bm25", None, None, 0.7781),
            row("embedding", "pytorch", "fp32", 0.8022),
        ],
        "warnings": ["teacher below bm25: nDCG@10 0.840 against 0.850, difference -0.010 [-0.020, 0.001]"],
        "comparisons": [
            {"name": "teacher - popularity", "metric": "ndcg@10", "difference": 0.078, "interval": [0.0512, 0.1049]},
            {"name": "teacher - bm25", "metric": "ndcg@10", "difference": -0.0103, "interval": [-0.02, 0.0011]},
        ],
        "parity": [
            {"model": "student", "comparison": "onnx vs pytorch", "pairs": 512, "max_difference": 1.4e-6, "tau": 1.0,
             "changed_top10": 0.0, "note": None},
            {"model": "student", "comparison": "int8 vs onnx", "pairs": 512, "max_difference": 0.212, "tau": 0.943,
             "changed_top10": 0.35, "ndcg@10_change": -0.0008, "note": "int8 is not batch-invariant"},
        ],
        "graphs": [
            {"model": "student", "precision": "fp32", "nodes": 143, "fused_attention": 0, "quantized": 0,
             "left_fp32": 13, "cls_only": True},
            {"model": "student", "file": "int8.onnx", "precision": "int8", "nodes": 217, "fused_attention": 0,
             "quantized": 11, "quantized_embeddings": 1, "left_fp32": 2, "cls_only": True},
        ],
        "latency": {"threads": 2, "rounds": 4, "queries": 50, "pairs": 2500,
                    "note": "interleaved A B B A; tokenisation included"},
        "host": {"processor": "Some Xeon", "cores": 2, "memory_gb": 24, "system": "Linux x86_64", "python": "3.11.7",
                 "flags": ["avx2", "avx512_vnni"]},
        "versions": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
        "config": {"name": "default", "student": {"layers": 2, "hidden_size": 384}, "loss": {"terms": ["margin_mse"]}},
        "stages": {"data": "data-ab12", "teacher": "teacher-cd34"},
        "seconds": {"data": 1.2, "teacher": 300.0},
    }  # fmt: skip


@pytest.fixture
def hostile(tradeoff):
    made = copy.deepcopy(tradeoff)
    made["dataset"] = '<script>alert(1)</script> 电影评分 & "quoted" [bold] \x1b[31m\udcff\x00'
    made["experiment"] = "实验"
    made["warnings"] = ["</li><img src=x onerror=alert(1)> [red]"]
    made["config"]["note"] = "</pre><script>alert(2)</script> 中文"
    made["rows"][1]["model"] = "<b>$x_$\x1b\ufffe"
    made["rows"][0]["mrr@10"] = math.nan
    return made


def page_of(tradeoff, tmp_path):
    path = tmp_path / "report.html"
    write_report(tradeoff, path)
    return path.read_text(encoding="utf-8")


def printed(tradeoff, width, *, terminal=False):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    print_tradeoff(tradeoff, console)
    return file.getvalue()


def test_every_number_of_every_row_is_on_the_page(tradeoff, tmp_path):
    page = page_of(tradeoff, tmp_path)
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    for line, values in zip(re.findall(r"<tr.*?</tr>", body, re.DOTALL), tradeoff["rows"], strict=True):
        cells = [re.sub(r"<.*?>", " ", cell).split() for cell in re.findall(r"<td.*?</td>", line, re.DOTALL)]
        assert len(cells) == 18
        assert cells[0] == [
            shown(values["ndcg@10"], "score"), *shown_interval(values["ndcg@10_ci"], "score").split(" ")
        ]  # fmt: skip
        assert cells[1][0] == shown(values["retention"], "percent")
        assert cells[5] == [shown(values["tau"], "score")]
        assert cells[8] == [shown(values["p50_ms"], "amount")]
        assert cells[13][0] == shown(values["speedup"], "times")
        assert cells[15] == [shown(values["size_mb"], "amount")]
    for told in (
        "−0.010",
        "[−0.020, +0.001]",
        "1.4e−06",
        "217",
        "avx512_vnni",
        "2.13.0",
        "data-ab12",
        "hidden_size: 384",
    ):
        assert told in page


def test_the_finding_says_what_is_kept_and_saved(tradeoff):
    assert finding(tradeoff) == (
        "student onnxruntime int8 keeps 97.9% [96.8, 99.0] of the teacher's nDCG@10 with 11.7× [11.2, 12.2] less CPU "
        "time per query than the teacher in PyTorch."
    )


def test_a_slower_student_is_not_called_faster(tradeoff):
    tradeoff["rows"][5] |= {"speedup": 0.5, "speedup_ci": [0.4, 0.8]}
    assert "takes 2.00× [1.25, 2.50] the CPU time" in finding(tradeoff)


def test_what_the_teacher_gains_without_a_student_is_told(tradeoff, tmp_path):
    assert "3.08×" in page_of(tradeoff, tmp_path).split("Of that, ")[1].split("comes without")[0]


@pytest.mark.parametrize("which", ["tradeoff", "hostile"])
def test_the_page_loads_nothing(which, request, tmp_path):
    page = page_of(request.getfixturevalue(which), tmp_path)
    without_namespaces = re.sub(r'xmlns(:\w+)?="http://www\.w3\.org/[\w/]+"', "", page)
    assert not re.search(r"https?://|@import|url\((?!#)|<script|<iframe|<object|<embed", without_namespaces)
    assert not re.search(r"<[^>]*\bsrc\s*=", page)
    assert all(target.startswith(("#", "data:,")) for target in re.findall(r'href="([^"]*)"', page))
    assert "default-src 'none'" in page


def test_hostile_text_is_escaped(hostile, tmp_path):
    page = page_of(hostile, tmp_path)
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 电影评分 &amp;" in page
    assert "alert(2)&lt;/script&gt; 中文" in page
    assert "[bold] \\x1b[31m\\udcff\\x00" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)


def test_ids_are_unique_and_references_hold(tradeoff, tmp_path):
    page = page_of(tradeoff, tmp_path)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)


def test_drawings_follow_the_colour_scheme_and_have_a_name(tradeoff, tmp_path):
    page = page_of(tradeoff, tmp_path)
    assert "prefers-color-scheme: dark" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert re.match(r'<svg class="(wide|narrow)" role="img" aria-label="[^"]+"[^>]*><title>', drawing)
        assert "var(--student)" in drawing
        assert not re.search(r"#00000\d", drawing)


def test_the_same_tradeoff_gives_the_same_bytes(tradeoff, tmp_path):
    assert page_of(tradeoff, tmp_path) == page_of(copy.deepcopy(tradeoff), tmp_path)


def test_a_failed_page_leaves_the_old_one(tradeoff, tmp_path, monkeypatch):
    old = page_of(tradeoff, tmp_path)
    with pytest.raises(KeyError):
        write_report({"rows": []}, tmp_path / "report.html")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tradeoff | {"experiment": "other"}, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_without_latency_or_student(tradeoff, tmp_path):
    tradeoff["rows"] = tradeoff["rows"][-3:]
    page = page_of(tradeoff, tmp_path)
    assert "No student was measured." in page
    assert "No latency was measured." in page


def test_names_of_close_points_and_their_leaders_do_not_overlap():
    points = [(200.0 + 14 * i, 150.0) for i in range(6)]
    drawn = [[(x - 3, 100.0, x + 3, 200.0)] for x, _ in points]
    names = []
    for i, point in enumerate(points):
        taken = [box for other in drawn[:i] + drawn[i + 1 :] for box in other] + names
        box = report_page._free_place(point, (140.0, 16.0), drawn[i], taken, (0.0, 0.0, 700.0, 400.0))
        assert report_page._overlap([box], [*drawn[i], *taken]) == 0
        names += [box, *report_page._leader(point, box)]


@pytest.mark.parametrize(("width", "terminal"), [(80, False), (80, True), (100, False), (100, True)])
def test_the_table_hides_no_number(tradeoff, width, terminal):
    text = printed(tradeoff, width, terminal=terminal)
    words = text.split()
    for values in tradeoff["rows"]:
        assert shown(values["ndcg@10"], "score") in words
        assert "±0.012" in words
        for name, kind in (("retention", "percent"), ("speedup", "times"), ("size_mb", "amount"), ("p50_ms", "amount")):
            assert shown(values[name], kind) in words
    assert "…" not in text
    assert "warning: teacher below bm25" in text
    assert "1,200 queries, 9,876 pairs" in text


def test_a_pipe_gets_one_line_a_row_within_100_columns(tradeoff):
    lines = printed(tradeoff, 80).splitlines()
    assert re.search(
        r"student +onnxruntime +int8 +0\.844 ±0\.012 +97\.9% +3\.58 / 6\.13 +6\.91 +11\.7× +15\.9$", lines[8]
    )
    assert lines[0].startswith("not shown: student onnxruntime int8 has nDCG@10 0.844")
    assert max(map(len, lines[1:12])) <= 100


def test_a_narrow_terminal_breaks_cells_and_no_numbers(tradeoff):
    lines = printed(tradeoff, 80, terminal=True).splitlines()
    assert max(len(line) for line in lines if "warning" not in line and "queries" not in line) <= 80


def test_a_row_without_values_shows_dashes(tradeoff):
    line = next(line for line in printed(tradeoff, 100).splitlines() if "bm25" in line)
    assert line.split() == ["bm25", "–", "–", "0.778", "±0.012", "90.3%", "–", "–", "–", "–"]


def test_markup_in_names_is_text(hostile):
    text = printed(hostile, 100)
    assert "[bold]" in text
    assert "[red]" in text
    assert tradeoff_table(hostile).row_count == len(hostile["rows"])


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "score", "–"), (math.nan, "amount", "–"), (math.inf, "count", "–"), (0, "amount", "0"),
        (1234.5, "amount", "1,234"), (12.345, "amount", "12.3"), (0.01234, "amount", "0.0123"),
        (22_713_601, "millions", "22.7 M"), (-0.01, "difference", "−0.010"), (11.23, "times", "11.2×"),
    ],
)  # fmt: skip
def test_values_are_written_sensibly(value, kind, text):
    assert shown(value, kind) == text


def test_the_plot_of_its_own_file_is_whole_xml_in_real_colours(tradeoff, hostile):
    for rows in (tradeoff["rows"], hostile["rows"]):
        root = ElementTree.fromstring(report_page.plot_file(rows))
        assert root.tag.endswith("svg")
        assert (root.get("width"), root.get("height")) == ("940", "560")
        assert "var(--" not in report_page.plot_file(rows)
    assert report_page.plot_file([row for row in tradeoff["rows"] if row["p50_ms"] is None]) == ""
