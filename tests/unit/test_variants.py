"""Which graph a processor is served with, and what is told of graphs that it cannot compute."""

from __future__ import annotations

import json

import pytest

from rankdistill.export.bundle import embedder_golden
from rankdistill.export.bundle.run_sources import Sources
from rankdistill.export.graphs.graph_files import FP32, FULL_INT8, GRAPHS_FILE, INT8, INT8_AVX2
from rankdistill.export.graphs.variants import exact_files, served_int8, served_variant
from rankdistill.export.runtime.processor import machine
from tests.embedders import texts, write_checkpoint, write_graphs

SATURATING = {FP32: 0, INT8: 3, INT8_AVX2: 0, FULL_INT8: 5}


@pytest.fixture
def graphs(tmp_path):
    rows = [{"file": file, "saturating": count} for file, count in SATURATING.items()]
    (tmp_path / GRAPHS_FILE).write_text(json.dumps(rows))
    for file in SATURATING:
        (tmp_path / file).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("has", "variant", "graph"),
    [
        (["x86_64", "avx2", "avx512_vnni"], "qint8_avx512_vnni", INT8),
        (["x86_64", "avx2", "avx_vnni"], "qint8_avx512_vnni", INT8),
        (["x86_64", "avx2"], "qint8_avx2", INT8_AVX2),
        (["arm64", "asimddp"], "qint8_arm64", INT8),
        (["riscv64"], "qint8_avx2", INT8_AVX2),
    ],
)
def test_a_processor_is_served_with_its_own_graph(graphs, has, variant, graph):
    assert served_int8(has) == graph
    found = served_variant(graphs, has)
    assert (found.name, found.graph) == (variant, graph)


def test_there_is_no_int8_variant_without_an_int8_graph(graphs):
    for file in (INT8, INT8_AVX2):
        (graphs / file).unlink()
    assert served_variant(graphs, ["x86_64", "avx2"]) is None


@pytest.mark.parametrize(("system", "variant"), [
    ("Linux aarch64", "qint8_arm64"), ("Darwin arm64", "qint8_arm64"), ("Windows AMD64", "qint8_avx2"),
])  # fmt: skip
def test_a_run_was_measured_with_its_hosts_variant(graphs, system, variant):
    tradeoff = {"host": {"system": system, "flags": ["asimddp"] if "64" in variant else ["avx2"]}}
    sources = Sources(tradeoff, graphs, graphs, graphs, graphs, {}, None, None, None)
    assert sources.measured_int8 == variant


def test_graphs_that_saturate_are_exact_where_sums_are_wide(graphs):
    assert exact_files(graphs, ["x86_64", "avx2"]) == {FP32, INT8_AVX2}
    assert exact_files(graphs, ["x86_64", "avx512_vnni"]) == set(SATURATING)
    assert exact_files(graphs, ["arm64"]) == set(SATURATING)


def test_an_architecture_has_one_name():
    assert [machine(name) for name in ("aarch64", "arm64", "AMD64", "x86_64")] == ["arm64", "arm64", "x86_64", "x86_64"]


@pytest.mark.parametrize(("has", "told"), [
    ({"x86_64", "avx2"}, {"qint8_avx2", "fp32"}),
    ({"x86_64", "avx2", "avx512_vnni"}, {"qint8_avx2", "qint8_avx512_vnni", "qint8_arm64", "fp32"}),
])  # fmt: skip
def test_an_embedders_golden_cosines_are_of_graphs_that_are_computed_exactly(encoder, tmp_path, monkeypatch, has, told):
    from rankdistill.embedder.embedder_model import text_encoder
    from rankdistill.export.quantization.embedder_graphs import read_about

    write_checkpoint(encoder, tmp_path / "checkpoint")
    write_graphs(tmp_path / "checkpoint", tmp_path / "graphs")
    path = tmp_path / "graphs" / GRAPHS_FILE
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"saturating": int(row["file"] == INT8)} for row in rows]))
    monkeypatch.setattr(embedder_golden, "abilities", lambda: frozenset(has))
    about = read_about(tmp_path / "checkpoint")
    tokens = text_encoder(encoder, about["max_length"])
    embedder_golden.write_golden(texts(5, seed=0), tokens, tmp_path / "graphs", about["width"])
    assert json.loads((tmp_path / "graphs" / embedder_golden.FILE).read_text())["least"].keys() == told
