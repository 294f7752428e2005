"""Times of one ranker by itself: intervals that hold though a load biases all of its turns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from rankdistill.export.gate.absolute import absolute_estimates
from rankdistill.export.measure.paired_timing import Times

BETWEEN, WITHIN = 0.016, 0.01  # standard deviations of a load's level and of a turn in it, in logarithms
TURNS = 8  # of each row in a load
LOADS, RUNS = (8, 27, 90), 300
PERCENTILES = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "cpu_ms_per_query": 50}


def timed(rng, loads, levels, requests=(10.0,)):
    """Times of requests (one every two turns, in turn), whose loads have these levels."""
    load = np.repeat(np.arange(loads), TURNS)
    costs = np.array(requests)[np.arange(len(load)) // 2 % len(requests)]
    wall, cpu = costs * np.exp(levels[load] + WITHIN * rng.standard_normal((2, 2, len(load))))
    return Times(wall, cpu, load)


def simulate(draw, requests=(10.0,)):
    """Return the share of 95% intervals that miss, by metric and number of loads."""
    rng = np.random.default_rng(0)
    whole = timed(rng, 50_000, draw(rng, 50_000), requests).wall
    truth = {name: np.percentile(whole, percent) for name, percent in PERCENTILES.items()}
    missed = Counter()
    for loads in LOADS:
        for _ in range(RUNS):
            found = absolute_estimates(timed(rng, loads, draw(rng, loads), requests), np.ones(1), 0.95)
            for name, true in truth.items():
                assert found[name].low <= found[name].value <= found[name].high
                missed[name, loads] += (not found[name].low <= true <= found[name].high) / RUNS
    return missed


def normal(rng, loads):
    return BETWEEN * rng.standard_normal(loads)


def heavy(rng, loads):
    """Levels of which a few are far off."""
    return BETWEEN * rng.standard_t(3, loads)


@pytest.mark.parametrize("draw", [normal, heavy])
@pytest.mark.parametrize("requests", [(10.0,), (5.0, 9.0, 10.0, 10.0, 12.0, 30.0)])
def test_no_more_intervals_miss_than_they_say(draw, requests):
    missed = simulate(draw, requests)
    assert len(missed) == len(PERCENTILES) * len(LOADS)
    assert max(missed.values()) <= 0.05


def test_estimates_are_those_of_all_requests():
    rng = np.random.default_rng(0)
    found = absolute_estimates(timed(rng, 300, normal(rng, 300)), np.ones(1), 0.95)
    spread = np.hypot(BETWEEN, WITHIN)
    for name, percent in PERCENTILES.items():
        assert found[name].value == pytest.approx(10 * np.exp(spread * stats.norm.ppf(percent / 100)), rel=0.005)
    assert np.isfinite(found["p95_ms"].high)


def test_a_load_is_one_sample_however_many_turns_it_has():
    times = timed(np.random.default_rng(0), 8, np.zeros(8))
    found = absolute_estimates(times, np.ones(1), 0.95)
    assert {each.samples for each in found.values()} == {8}
    assert {each.unit for each in found.values()} == {"loads"}
    turns = np.sort(times.wall, axis=None)
    p50, p95 = found["p50_ms"], found["p95_ms"]
    assert (p50.value, p50.low, p50.high) == (np.median(turns), turns[2 * TURNS - 1], turns[-2 * TURNS])
    assert (p95.value, p95.high) == (np.quantile(turns, 0.95), np.inf)
