"""The table's rows from scores and samples, checked against sums written out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rankdistill.export.measure.latency import Latency
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.report.tradeoff import Bootstrap, Candidate, finite, tradeoff_rows, warnings_of

HOW = Bootstrap(confidence=0.95, resamples=500, seed=0)
QUERIES, CANDIDATES = 40, 12
OFFSETS = np.arange(QUERIES + 1, dtype=np.int64) * CANDIDATES
GRADES = np.random.default_rng(0).integers(0, 3, QUERIES * CANDIDATES).astype(np.int32)


def scores(noise: float, seed: int) -> np.ndarray:
    return (GRADES + noise * np.random.default_rng(seed).normal(size=len(GRADES))).astype(np.float32)


def latency(factor: float, seed: int) -> Latency:
    rng = np.random.default_rng(seed)
    cpu = factor * (5 + rng.random((4, QUERIES)))
    return Latency(cpu / 2, cpu, np.full(QUERIES, CANDIDATES), 100.0 * factor)


TEACHER = Candidate("teacher", "pytorch", "fp32", scores(0.5, 1), latency(10, 1), 90.0, 22)
STUDENT = Candidate("student", "onnxruntime", "int8", scores(0.8, 2), latency(1, 2), 20.0, 15)
POPULARITY = Candidate("popularity", None, None, scores(5, 3))


def rows(*candidates: Candidate):
    return tradeoff_rows(candidates, GRADES, OFFSETS, 1, HOW)


def test_retention_and_speed_are_ratios_of_means():
    (teacher, student, popularity), _ = rows(TEACHER, STUDENT, POPULARITY)
    expected = [ranking_metrics(c.scores, GRADES, OFFSETS)["ndcg@10"].mean() for c in (TEACHER, STUDENT)]
    assert student["retention"] == pytest.approx(expected[1] / expected[0])
    low, high = student["retention_ci"]
    assert low < student["retention"] < high
    cpu = [np.median(c.latency.cpu_ms, axis=0).mean() for c in (TEACHER, STUDENT)]
    assert student["cpu_ms_per_query"] == pytest.approx(cpu[1])
    assert student["speedup"] == pytest.approx(cpu[0] / cpu[1])
    assert student["pairs_per_s"] == pytest.approx(CANDIDATES / (cpu[1] / 2) * 1e3)
    assert student["p95_ms"] == pytest.approx(np.percentile(STUDENT.latency.wall_ms, 95))
    assert (teacher["retention"], teacher["speedup"], teacher["overlap@10"]) == (1, 1, 1)
    assert popularity["p50_ms"] is popularity["speedup_ci"] is popularity["size_mb"] is None


def test_one_interrupted_sample_does_not_change_the_speed():
    cpu = STUDENT.latency.cpu_ms.copy()
    cpu[0, :] *= 100
    hit = Candidate("student", "onnxruntime", "int8", STUDENT.scores, Latency(cpu, cpu, STUDENT.latency.pairs, 1.0))
    calm, struck = rows(TEACHER, STUDENT)[0][1], rows(TEACHER, hit)[0][1]
    assert struck["cpu_ms_per_query"] == pytest.approx(calm["cpu_ms_per_query"], rel=0.1)


def test_a_teacher_that_does_not_beat_a_baseline_is_told():
    strong = Candidate("bm25", None, None, scores(0.1, 4))
    alike = Candidate("embedding", "pytorch", "fp32", scores(0.5, 5))
    table, comparisons = rows(TEACHER, strong, POPULARITY, alike)
    found = warnings_of(comparisons, table)
    assert found[0].startswith("teacher below bm25: ")
    assert not any("popularity" in text for text in found)
    assert any("embedding" in text for text in found)
    by_name = {c["name"]: c for c in comparisons}
    low, high = by_name["teacher - popularity"]["interval"]
    assert 0 < low < by_name["teacher - popularity"]["difference"] < high


def test_a_served_student_that_does_not_beat_a_baseline_is_told():
    plain = Candidate("student", "onnxruntime", "fp32", scores(0.5, 6), latency(3, 2), 60.0, 15)
    weak = Candidate("student", "onnxruntime", "int8", scores(2, 2), latency(1, 2), 20.0, 15)
    openvino = Candidate("student", "openvino", "fp32", scores(5, 7), latency(2, 2), 60.0, 15)
    between = Candidate("embedding", "pytorch", "fp32", scores(0.8, 5))
    chance = Candidate("popularity", None, None, scores(20, 3))
    table, comparisons = rows(TEACHER, plain, weak, openvino, chance, between)
    assert [c["name"] for c in comparisons] == [
        "teacher - popularity", "teacher - embedding", "student int8 - popularity", "student int8 - embedding",
    ]  # fmt: skip
    (told,) = warnings_of(comparisons, table)
    assert told.startswith(f"student int8 below embedding: nDCG@10 {table[2]['ndcg@10']:.3f} against ")
    assert comparisons[3]["difference"] == pytest.approx(table[2]["ndcg@10"] - table[5]["ndcg@10"])


def test_what_is_undefined_becomes_null():
    flat = Candidate("bm25", None, None, np.zeros(len(GRADES), np.float32))
    table, _ = rows(TEACHER, flat)
    assert math.isnan(table[1]["tau"])
    assert json.loads(json.dumps(finite(table), allow_nan=False))[1]["tau"] is None
    assert finite({"a": [1, math.inf, (math.nan,)], "b": "x"}) == {"a": [1, None, [None]], "b": "x"}
