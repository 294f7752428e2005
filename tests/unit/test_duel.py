"""Timing two rankers against each other: intervals against references, and when it ends."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from export.measure import duel
from export.measure.duel import Times, confidence_at, percentile_ratio_interval, quantile_interval


@pytest.mark.parametrize("count", [1, 5, 6, 16, 33, 200, 2000])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_quantiles_interval_is_scipys(count, share):
    values = np.random.default_rng(count).lognormal(size=count)
    low, high = quantile_interval(values, share, 0.95)
    expected = stats.quantile_test(values, p=share).confidence_interval(0.95)
    assert low == pytest.approx(-math.inf if math.isnan(expected.low) else expected.low)
    assert high == pytest.approx(math.inf if math.isnan(expected.high) else expected.high)


def test_the_medians_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        low, high = quantile_interval(1 + rng.standard_cauchy(33), 0.5, 0.9)
        missed += not low <= 1 <= high
    assert missed / 2000 <= 0.115  # .1, and what 2000 draws leave open


def test_all_looks_together_spend_the_allowed_error():
    spent = sum(1 - confidence_at(look, 0.95) for look in range(1, 100_000))
    assert spent == pytest.approx(0.05, rel=1e-4)
    assert confidence_at(1, 0.95) < confidence_at(2, 0.95) < 1


def test_a_blocks_ratio_is_that_of_its_turns():
    times = Times(np.array([[1.0, 3.0, 5.0, 5.0], [2.0, 2.0, 1.0, 4.0]]), np.zeros((2, 4)))
    assert times.blocks == 2
    assert times.ratios(times.wall).tolist() == [1.0, 2.0]


def test_a_ratio_of_percentiles_lies_in_its_interval():
    times = np.random.default_rng(0).gamma(20, size=(2, 400)) * np.array([[1.1], [1.0]])
    for percent in (50, 95):
        low, high = percentile_ratio_interval(times, percent, 0.95)
        assert low <= np.percentile(times[0], percent) / np.percentile(times[1], percent) <= high
        assert low < 1.1 < high


class Slow:
    def __init__(self, seconds, log):
        self.seconds, self.log = seconds, log

    def score_items(self, query, items):
        self.log.append((self, query))
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass


def test_turns_are_a_b_b_a_and_requests_taken_in_turn():
    log = []
    a, b = Slow(0, log), Slow(0, log)
    requests = [("one", ["x"]), ("two", ["x"]), ("three", ["x"])]
    times = duel.duel(a, b, requests, seconds=60, decided=lambda times, look: True, progress=lambda share: None)
    assert times.blocks == duel.FIRST_LOOK
    turns = log[2 * duel.WARM_UP :]
    assert [who for who, _ in turns[:8]] == [a, b, b, a, a, b, b, a]
    assert [query for _, query in turns[:12:4]] == ["one", "two", "three"]


def test_it_looks_again_after_twice_as_many_blocks_until_it_is_decided():
    looks = []

    def decided(times, look):
        looks.append((times.blocks, look))
        return look == 3

    a = Slow(0, [])
    duel.duel(a, a, [("q", ["x"])], seconds=60, decided=decided, progress=lambda share: None)
    assert looks == [(64, 1), (128, 2), (256, 3)]


def test_it_ends_with_the_time_and_looks_a_last_time():
    looks, shares = [], []
    a = Slow(0.001, [])
    start = time.perf_counter()
    times = duel.duel(
        a, a, [("q", ["x"])], seconds=0.02, decided=lambda times, look: looks.append(look), progress=shares.append
    )
    assert time.perf_counter() - start < 10
    assert times.blocks >= 1
    assert looks[-1] >= 1
    assert shares[-1] == 1.0
