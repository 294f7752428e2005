"""Timing two rankers against each other: intervals against references, and when it ends."""

from __future__ import annotations

import math
from contextlib import contextmanager
from copy import copy

import numpy as np
import pytest
from scipy import stats

from rankdistill.export.measure import paired_timing
from rankdistill.export.measure.paired_timing import Times, confidence_at, quantile_interval, ratio_and_interval


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


@pytest.mark.parametrize("count", [7, 8, 16, 33])
def test_a_ratios_interval_holds_what_wilcoxons_exact_test_does_not_reject(count):
    logs = np.random.default_rng(count).normal(0.05, 0.1, count)
    value, (low, high) = ratio_and_interval(np.exp(logs), 0.95)
    assert low < value < high
    for end, inside in ((low, 1), (high, -1)):
        for step, accepted in ((inside * 1e-6, True), (-inside * 1e-6, False)):
            p = stats.wilcoxon(logs - math.log(end) - step, method="exact").pvalue
            assert (p > 0.05) == accepted


def test_too_few_loads_bound_nothing():
    for count in range(1, 12):
        _, (low, high) = ratio_and_interval(np.linspace(1, 2, count), 0.95)
        assert (low > 0) == (high < math.inf) == (2 * 0.5**count <= 0.05)
    assert 1 - confidence_at(1, 0.95) >= 2 * 0.5**paired_timing.FIRST_LOOK


def test_the_intervals_of_a_ratio_and_of_its_inverse_are_one():
    ratios = np.random.default_rng(0).lognormal(size=20)
    value, (low, high) = ratio_and_interval(ratios, 0.95)
    assert ratio_and_interval(1 / ratios, 0.95) == (
        pytest.approx(1 / value),
        (pytest.approx(1 / high), pytest.approx(1 / low)),
    )


def test_a_load_gives_the_median_of_its_pairs_and_the_ratio_of_its_percentiles():
    turns = np.array([[1.0, 2, 3, 4, 5, 5, 5, 5, 2, 2, 2, 2], [1.0, 1, 1, 2, 5, 5, 5, 5, 1, 1, 1, 1]])
    times = Times(turns, np.zeros((2, 12)), np.repeat([0, 1], [8, 4]))
    assert times.loads == 2
    assert times.ratios(turns).tolist() == [1.5, 2.0]
    assert times.percentile_ratios(turns, 50).tolist() == [4.5 / 3.5, 2.0]


class Clock:
    """A clock that only the rankers move."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    process_time = perf_counter


class Ranker:
    """Takes as long as it is told, by a bias that each load draws and a noise that each call draws."""

    def __init__(self, clock, log=None, *, cost=0.01, bias=0.0, noise=0.0, loading=0.05, rng=None):
        self.clock, self.log, self.rng = clock, [] if log is None else log, rng or np.random.default_rng(0)
        self.cost, self.bias, self.noise, self.loading = cost, bias, noise, loading

    @contextmanager
    def load(self):
        self.log.append((self, "load"))
        self.clock.now += self.loading
        # the first loaded of two is a little slower
        first = len([who for who, what in self.log if what == "load"]) % 2 == 1
        loaded = copy(self)
        loaded.owner = self
        loaded.cost = self.cost * math.exp(self.bias * self.rng.standard_t(3)) * (1.01 if first else 1)
        yield loaded
        self.log.append((self, "close"))

    def score_items(self, query, items):
        self.log.append((self.owner, query))
        self.clock.now += self.cost * math.exp(self.noise * self.rng.standard_normal())


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(paired_timing, "time", clock)
    return clock


REQUESTS = [("one", ["x"]), ("two", ["x"]), ("three", ["x"])]


def fight(ranker, rival, *, seconds=60.0, decided=lambda times, look: True, progress=lambda share: None):
    return paired_timing.duel(ranker.load, rival.load, REQUESTS, seconds=seconds, decided=decided, progress=progress)


def gate(clock, rng, *, slower=1.0):
    """Hold one ranker to a bound of 1.02 against another; return the verdict and the seconds of it."""
    log, start = [], clock.now
    options = {"bias": 0.015, "noise": 0.05, "rng": rng, "cost": 0.04}
    ranker = Ranker(clock, log, **options)
    ranker.cost *= slower
    verdicts = []

    def decided(times, look):
        _, (low, high) = ratio_and_interval(times.ratios(times.cpu), confidence_at(look, 0.95))
        verdicts.append("fail" if low > 1.02 else "pass" if high <= 1.02 else "inconclusive")
        return verdicts[-1] != "inconclusive"

    fight(ranker, Ranker(clock, log, **options), seconds=120, decided=decided)
    return verdicts[-1], clock.now - start


def test_loads_that_lie_badly_raise_no_false_alarm(clock):
    rng = np.random.default_rng(0)
    found = [gate(clock, rng)[0] for _ in range(300)]
    assert found.count("fail") <= 3  # of 100, 1
    assert found.count("pass") >= 285


def test_a_slowdown_is_found_among_loads_that_lie_badly(clock):
    rng = np.random.default_rng(0)
    found = [gate(clock, rng, slower=1.05)[0] for _ in range(200)]
    assert found.count("fail") >= 190
    assert found.count("pass") == 0


def test_the_ratio_of_a_bundle_to_itself_lies_outside_no_more_often_than_told(clock):
    rng, outside = np.random.default_rng(0), 0
    for _ in range(400):
        missed = []

        def decided(times, look, missed=missed):
            _, (low, high) = ratio_and_interval(times.ratios(times.cpu), confidence_at(look, 0.9))
            missed.append(not low <= 1 <= high)
            return look == 4

        log = []
        options = {"bias": 0.05, "noise": 0.02, "rng": rng}
        fight(Ranker(clock, log, **options), Ranker(clock, log, **options), decided=decided)
        outside += any(missed)
    assert outside / 400 <= 0.1


def test_both_are_loaded_anew_in_turn_and_closed_before_the_next(clock):
    log = []
    a, b = Ranker(clock, log), Ranker(clock, log)
    assert fight(a, b).loads == paired_timing.FIRST_LOOK
    handling = [(who, what) for who, what in log if what in ("load", "close")]
    first = [(a, "load"), (b, "load"), (b, "close"), (a, "close")]
    second = [(b, "load"), (a, "load"), (a, "close"), (b, "close")]
    assert handling == (first + second) * (paired_timing.FIRST_LOOK // 2)


def test_turns_are_a_b_b_a_then_b_a_a_b_and_requests_taken_in_turn(clock):
    log = []
    a, b = Ranker(clock, log), Ranker(clock, log)
    fight(a, b)
    turns, load = [], 2 * paired_timing.WARM_UP + 8 * paired_timing.PAIRS
    calls = [(who, what) for who, what in log if what not in ("load", "close")]
    for start in range(0, len(calls), load):
        turns += calls[start + 2 * paired_timing.WARM_UP : start + load]
    assert [who for who, _ in turns[:16]] == [a, b, b, a, b, a, a, b] * 2
    assert [query for _, query in turns[:24:4]] == ["one", "two", "three"] * 2


def test_it_looks_again_after_half_as_many_more_until_it_is_decided(clock):
    looks = []

    def decided(times, look):
        looks.append((times.loads, look))
        return look == 3

    log = []
    fight(Ranker(clock, log), Ranker(clock, log), decided=decided)
    assert looks == [(8, 1), (12, 2), (18, 3)]


def test_it_ends_with_the_time_and_looks_a_last_time(clock):
    looks, shares, log = [], [], []
    times = fight(
        Ranker(clock, log), Ranker(clock, log), seconds=3, progress=shares.append,
        decided=lambda times, look: looks.append((times.loads, look)),
    )  # fmt: skip
    assert 3 <= clock.now < 3.5
    assert looks == [(8, 1), (12, 2), (times.loads, 3)]
    assert times.loads < 18
    assert shares[-1] == 1.0


def test_slow_rankers_have_shorter_loads_and_at_least_one(clock):
    log = []
    times = fight(Ranker(clock, log, cost=0.6), Ranker(clock, log, cost=0.6), decided=lambda times, look: False)
    assert times.wall.shape[1] == 4 * times.loads  # one pair each
    assert times.loads >= paired_timing.FIRST_LOOK
    log = []
    times = fight(Ranker(clock, log, cost=100), Ranker(clock, log, cost=100), decided=lambda times, look: False)
    assert (times.loads, times.wall.shape[1]) == (1, 4)
