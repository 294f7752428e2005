"""What a run recorded: a query's further samples are no further queries, a share is one of a lead that there is."""

from __future__ import annotations

import numpy as np
import pytest

from rankdistill.export.gate.budget import Budget
from rankdistill.export.gate.decision import Estimate, Missing, judge
from rankdistill.export.gate.estimates import latency_estimates, quality_estimates
from rankdistill.export.measure.intervals import LEAST_QUERIES

SAMPLES = 4


def recorded(wall):
    row = {"model": "student", "engine": "onnxruntime", "precision": "int8", "quality": {}}
    return {"models": [row | {"wall_ms": wall.tolist(), "cpu_ms": wall.tolist()}]}


def timed(rng, queries):
    """Times of queries that differ by far more than the samples of one."""
    return rng.lognormal(2, 0.5, queries) * rng.normal(1, 0.03, (SAMPLES, queries))


@pytest.mark.parametrize(("name", "true", "queries"), [("p50_ms", 50, 30), ("p95_ms", 95, 150)])
def test_intervals_cover_the_quantile_of_all_queries(name, true, queries):
    rng = np.random.default_rng(0)
    target = np.percentile(timed(rng, 200_000), true)
    found = [latency_estimates(recorded(timed(rng, queries)), "int8", 0.95)[name] for _ in range(200)]
    covered = np.mean([each.low <= target <= each.high for each in found])
    assert covered >= 0.94
    assert all(each.low <= each.value <= each.high and each.samples == queries for each in found)


def test_a_tail_of_few_queries_has_no_upper_end():
    found = latency_estimates(recorded(timed(np.random.default_rng(0), 30)), "int8", 0.95)
    assert found["p95_ms"].high == np.inf
    assert np.isfinite(found["p50_ms"].high)


def judged(student, teacher, simple, confidence=0.95, embedding=None):
    """Lift kept of a student, where popularity's values are 0.1 below BM25's."""
    kinds = {
        ("popularity", None, None): simple - 0.1, ("bm25", None, None): simple,
        ("teacher", "onnxruntime", "fp32"): teacher, ("student", "onnxruntime", "int8"): student,
    }  # fmt: skip
    if embedding is not None:
        kinds["embedding", "pytorch", "fp32"] = embedding
    rows = [
        {"model": model, "engine": engine, "precision": precision, "quality": {"ndcg@10": values.tolist()}}
        for (model, engine, precision), values in kinds.items()
    ]
    return quality_estimates({"models": rows}, "int8", ["lift_kept"], confidence, None)["lift_kept"]


def values(mean, seed=0):
    return mean + np.random.default_rng(seed).normal(0, 0.1, 200)


def test_lift_is_the_share_of_the_teachers_lead_over_the_best_baseline():
    found = judged(values(0.45), values(0.5), values(0.3))
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(0.75)
    assert found.low <= 0.75 <= found.high


def test_the_embedding_is_a_baseline_of_lift_too():
    found = judged(values(0.45), values(0.5), values(0.3), embedding=values(0.4))
    assert found.value == pytest.approx(0.5)


def test_a_teacher_that_is_surely_behind_has_no_lead_to_keep():
    found = judged(values(0.1), values(0.2), values(0.3))  # a ratio of leads would be 2
    assert isinstance(found, Missing)
    assert found.verdict == "fail"
    assert found.reason.startswith("the teacher is surely below bm25 (ndcg@10 -0.100 [-0.1")
    assert "200 queries" in found.reason
    assert "bound ndcg@10 instead" in found.reason


def test_a_lead_is_sure_at_the_confidence_that_is_asked_for():
    teacher, simple = values(0.33, seed=1), values(0.3)
    assert isinstance(judged(teacher, teacher, simple, 0.8), Estimate)
    unsure = judged(teacher, teacher, simple, 0.999)
    assert isinstance(unsure, Missing)
    assert unsure.verdict == "inconclusive"
    assert unsure.reason.startswith("the teacher has no sure lead over bm25 (ndcg@10 +0.0")


def test_a_lead_of_few_queries_is_undecided_either_way():
    for teacher in (0.9, 0.01):
        found = judged(np.full(4, teacher), np.full(4, teacher), np.full(4, 0.4))
        assert isinstance(found, Missing)
        assert found.verdict == "inconclusive"
        assert "4 queries; at least 20 are needed" in found.reason


BOUNDS = ("retention >= 0.95", "ndcg@10 >= 0.1", "tau >= 0.5", "lift_kept >= 0.2", "quality_difference >= -0.5")


def of_queries(number):
    """What a bundle recorded of a student that is sure to keep every bound, or to break each, of queries all alike."""
    rng = np.random.default_rng(0)
    teacher = 0.8 + 0.01 * rng.random(number)
    kinds = {
        ("popularity", None, None): teacher - 0.7, ("teacher", "onnxruntime", "fp32"): teacher,
        ("student", "onnxruntime", "int8"): teacher - 0.01,
    }  # fmt: skip
    rows = [
        {"model": model, "engine": engine, "precision": precision, "quality": {
            "ndcg@10": found.tolist(), "tau": np.full(number, 0.9).tolist()}}
        for (model, engine, precision), found in kinds.items()
    ]  # fmt: skip
    return {"models": rows, "fingerprint": "x", "split": "test", "queries": list(range(number))}


@pytest.mark.parametrize("number", [1, 2, 3, 10, 19, 20, 200])
def test_few_queries_pass_and_fail_nothing(number):
    content = of_queries(number)
    asked = Budget.of({"require": list(BOUNDS)}, "here")
    names = [bound.metric.name for bound in asked.bounds]
    lines = judge(asked, quality_estimates(content, "int8", names, 0.95, (content, "int8")), "student").lines
    if number >= LEAST_QUERIES:
        assert {line.verdict for line in lines} <= {"pass", "inconclusive"}
        assert next(line for line in lines if line.metric == "ndcg@10").verdict == "pass"
    else:
        assert {line.verdict for line in lines} == {"inconclusive"}
        assert all(f"at least {LEAST_QUERIES}" in line.note for line in lines)
    if number == 200:
        assert [line.verdict for line in lines] == ["pass"] * len(lines)


def test_a_bundle_differs_by_nothing_from_itself():
    content = of_queries(30)
    found = quality_estimates(content, "int8", ["quality_difference"], 0.95, (content, "int8"))["quality_difference"]
    assert (found.value, found.low, found.high) == (0, 0, 0)
