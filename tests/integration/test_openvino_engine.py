"""A run whose table has OpenVINO's rows too: everything that is told of the student stays of what is served."""

from __future__ import annotations

import json

import pytest

from rankdistill.export.measure.host import has_bf16
from rankdistill.export.report.tradeoff_table import headline
from tests.integration.commands import TIMED, begin_with, distill, newest_run, small, table

PRECISIONS = ["fp32", "bf16"] if has_bf16() else ["fp32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, beir, encoder, begun):
    folder = begin_with(begun, tmp_path_factory.mktemp("openvino"))
    asked = ["measure.engines=[onnxruntime,openvino]", "quantize=none", "budget.require=['peak_rss_mb <= 100000']"]
    done = distill(*small(beir, encoder), *TIMED, *asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    return newest_run(folder)


def test_the_table_has_its_rows(made):
    rows = {(row["model"], row["engine"], row["precision"]): row for row in table(made)["rows"]}
    for model in ("teacher", "student"):
        plain = rows[model, "onnxruntime", "fp32"]
        for precision in PRECISIONS:
            row = rows[model, "openvino", precision]
            assert row["p50_ms"] > 0
            assert row["cpu_ms_per_query"] > 0
            assert row["peak_rss_mb"] > 0
            assert row["size_mb"] == plain["size_mb"]
        assert rows[model, "openvino", "fp32"]["ndcg@10"] == pytest.approx(plain["ndcg@10"], abs=1e-3)
    page = (made / "report.html").read_text()
    assert all(f"openvino {precision}" in page for precision in PRECISIONS)


def test_its_forms_are_compared(made):
    found = {(row["model"], row["comparison"]): row for row in table(made)["parity"]}
    for model in ("teacher", "student"):
        for precision in PRECISIONS:
            row = found[model, f"openvino {precision} vs onnx"]
            assert row["max_difference"] < (1e-4 if precision == "fp32" else 0.5)
            assert row["tau"] > (0.999 if precision == "fp32" else 0.9)


def test_what_is_told_of_the_student_is_of_what_is_served(made):
    found = table(made)
    assert headline(found)["engine"] == "onnxruntime"
    served = next(
        r for r in found["rows"] if (r["model"], r["engine"], r["precision"]) == ("student", "onnxruntime", "fp32")
    )
    gate = json.loads((made / "gate.json").read_text())
    (line,) = (each for each in gate["lines"] if each["metric"] == "peak_rss_mb")
    assert line["measured"] == served["peak_rss_mb"]
