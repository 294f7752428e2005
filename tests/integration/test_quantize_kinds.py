"""Every kind of quantization the whole way, on one student: table, parity, bundle, verification, page."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rankdistill.export.graphs.graph_files import GRAPHS_FILE, INT8, INT8_AVX2
from rankdistill.export.graphs.variants import exact_files, served_int8
from rankdistill.export.runtime.processor import abilities
from tests.integration.commands import begin_with, distill, newest_run, small, table

FAST = ["budget=none", "measure.latency_queries=2", "measure.parity_queries=2"]
KINDS = {
    "int8": ["quantize=int8", "quantize.exclude=[pooler,'*.query.product']"],
    "int8_fused": ["quantize=int8_fused", "student.layers=2"],
    "weight8": ["quantize=weight8"],
    "search": ["quantize=search", "quantize.min_overlap=0.5", "quantize.max_drop=0.5", "quantize.queries=4"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, begun):
    return begin_with(begun, tmp_path_factory.mktemp("kinds"))


def run(folder, beir, encoder, kind):
    done = distill(*small(beir, encoder), *FAST, f"name={kind}", *KINDS[kind], cwd=folder)
    assert done.returncode == 0, done.stderr
    return newest_run(folder, kind)


def verified(bundle):
    command = [sys.executable, "-m", "rankdistill.export.commands.main", "verify", str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_goes_the_whole_way(folder, beir, encoder, kind):
    made = run(folder, beir, encoder, kind)
    found = table(made)
    precision = "weight8" if kind == "weight8" else "int8"
    rows = {(row["model"], row["engine"], row["precision"]): row for row in found["rows"]}
    for model in ("teacher", "student"):
        assert rows[model, "onnxruntime", precision]["p50_ms"] > 0
        assert rows[model, "onnxruntime", precision]["ndcg@10"] is not None
    compared = {row["comparison"] for row in found["parity"] if row["model"] == "student"}
    form = "int8 avx2" if precision == "int8" and served_int8(abilities()) == INT8_AVX2 else precision
    assert f"{form} vs onnx" in compared  # of the graph that this processor is served with
    exact = exact_files(made / json.loads((made / "run.json").read_text())["stages"]["student graphs"], abilities())
    assert ("int8 vs onnx" in compared) == (INT8 in exact)
    done = verified(made / "bundle")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((made / "bundle/manifest.json").read_text())
    eight = [variant for variant in manifest["variants"] if variant["precision"] == precision]
    assert eight
    assert any({"quality", "latency", "parity"} <= set(variant["measured"]) for variant in eight)
    assert (made / f"bundle/triton/ranker_{precision}/1/model.onnx").is_file()
    assert precision in (made / "report.html").read_text()


def test_what_is_excluded_by_hand_is_written_down(folder, beir, encoder):
    made = run(folder, beir, encoder, "int8")
    graphs = {(row["model"], row["file"]): row for row in table(made)["graphs"]}
    kept = {each["node"]: each["reason"] for each in graphs["student", "int8.onnx"]["kept_fp32"]}
    assert kept == {
        "bert.pooler.dense.product": "excluded by pooler",
        "bert.encoder.layer.0.attention.self.query.product": "excluded by *.query.product",
    }
    assert graphs["student", "int8.onnx"]["left_fp32"] == 2
    assert graphs["teacher", "int8.onnx"]["kept_fp32"] == []
    assert "excluded by *.query.product" in (made / "report.html").read_text()


def test_the_page_of_a_search_tells_every_group(folder, beir, encoder):
    made = run(folder, beir, encoder, "search")
    page = (made / "report.html").read_text()
    assert "What the student&#39;s int8 graph keeps" in page or "What the student's int8 graph keeps" in page
    stages = json.loads((made / "run.json").read_text())["stages"]
    rows = json.loads((made / stages["student graphs"] / GRAPHS_FILE).read_text())
    groups = next(row for row in rows if row["file"] == "int8.onnx")["search"]["groups"]
    assert {group["group"] for group in groups} >= {"embeddings", "layer.0.qkv", "layer.0.output", "classifier"}
    for group in groups:
        assert group["group"] in page
    teacher = json.loads((made / stages["teacher graphs"] / GRAPHS_FILE).read_text())
    assert not any("search" in row for row in teacher)  # it is the student that is chosen for


def test_one_student_serves_every_kind_of_one_depth(folder, beir, encoder):
    made = [run(folder, beir, encoder, kind) for kind in ("int8", "weight8", "search")]
    students = {json.loads((each / "run.json").read_text())["stages"]["student"] for each in made}
    assert len(students) == 1


def test_an_unknown_node_is_refused_before_training(tmp_path, beir, encoder):
    done = distill(*small(beir, encoder), "quantize.exclude=[layer.1.output]", cwd=tmp_path)
    assert done.returncode == 1
    assert "quantize.exclude=layer.1.output: allowed is embeddings, layer.0.qkv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").rglob("student-*"))


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ("quantize.smooth=1.5", "a number from 0 to 1"),
        ("quantize.outliers=-1", "0 to 32"),
        ("quantize.calibration=0", "a number >= 1"),
        ("quantize.exclude=['*']", "fewer than all groups"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path, beir, encoder, option, allowed):
    done = distill(*small(beir, encoder), option, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{option.partition('=')[0]}=" in done.stderr
    assert allowed in done.stderr
