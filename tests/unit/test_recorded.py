"""Latency that a run recorded: a query's further samples are no further queries."""

from __future__ import annotations

import numpy as np
import pytest

from export.measure.recorded import latency_estimates

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
