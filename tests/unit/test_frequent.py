"""Counts of bounded memory keep to Space-Saving's bounds, against exact decayed counts; what is past fades."""

import math
import threading
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.serve.scheduling.frequent_items import SpaceSaving


class Clock:
    time = 100.0

    def __call__(self):
        return self.time


class Exact:
    """Counts everything: each addition halves with each half-life."""

    def __init__(self, half_life_s, clock):
        self.half_life_s, self.clock, self.added = half_life_s, clock, defaultdict(list)

    def add(self, key, weight):
        self.added[key].append((self.clock.time, weight))

    def count(self, key):
        return math.fsum(w * 0.5 ** ((self.clock.time - t) / self.half_life_s) for t, w in self.added[key])


additions = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0]),
        st.sampled_from(
            [0.0, 0.0, 0.1, 1.0, 7.0, 400.0, 3000.0]
        ),  # seconds before it; far beyond what floats can scale
    ),
    max_size=120,
)


@given(additions, st.integers(1, 8), st.sampled_from([1.0, 20.0, math.inf]))
@settings(deadline=None, max_examples=200)
def test_counts_keep_to_the_papers_bounds(additions, capacity, half_life_s):
    clock = Clock()
    counted, exact = SpaceSaving(capacity, half_life_s, clock), Exact(half_life_s, clock)
    for key, weight, seconds in additions:
        clock.time += seconds
        counted.add(key, weight=weight)
        exact.add(key, weight)
        assert len(counted) <= capacity
    total = math.fsum(exact.count(key) for key in range(13))
    slack = 1e-9 * total + 1e-300
    tops = counted.top(capacity)
    for key in range(13):
        assert exact.count(key) - slack <= counted.count(key) <= exact.count(key) + total / capacity + slack
        assert exact.count(key) - total / capacity - slack <= counted.least(key) <= exact.count(key) + slack
        if exact.count(key) > total / capacity + slack:
            assert key in {key for key, _, _ in tops}
    assert [count for _, count, _ in tops] == sorted((count for _, count, _ in tops), reverse=True)
    assert math.fsum(count for _, count, _ in tops) == pytest.approx(total, rel=1e-9, abs=1e-300)


def test_with_room_for_all_counts_are_exact():
    clock = Clock()
    counted, exact = SpaceSaving(20, 5.0, clock), Exact(5.0, clock)
    for key in [1, 2, 1, 3, 1, 2] * 5:
        counted.add(key)
        exact.add(key, 1.0)
        clock.time += 1.5
    for key in (1, 2, 3, 4):
        assert counted.count(key) == pytest.approx(exact.count(key))
        assert counted.least(key) == pytest.approx(exact.count(key))


def test_a_zipf_streams_head_is_found():
    rng = np.random.default_rng(0)
    counted = SpaceSaving(200, math.inf)
    for key in rng.zipf(1.3, 20_000).tolist():
        counted.add(key)
    assert [key for key, _, _ in counted.top(10)] == list(range(1, 11))
    assert len(counted._heap) == 200  # one entry a counter, however much was added


def test_new_favourites_replace_old_ones():
    clock = Clock()
    counted = SpaceSaving(10, 60.0, clock)
    for _ in range(1000):
        counted.add("old", "payload of old")
    clock.time += 600.0
    for _ in range(3):
        counted.add("new", "payload of new")
    (new, three, payload), (old, one, _) = counted.top(2)
    assert (new, three, payload, old) == ("new", pytest.approx(3), "payload of new", "old")
    assert one == pytest.approx(1000 / 1024)


def test_bounds_hold_when_counts_are_brought_down():
    clock = Clock()
    counted = SpaceSaving(2, 1.0, clock)
    for key in ("a", "a", "b", "b", "c"):  # c takes over a's or b's two
        counted.add(key)
    assert (counted.count("c"), counted.least("c")) == (3.0, 1.0)
    for seconds in (300.0, 300.0, 5000.0):  # beyond HALVINGS twice
        clock.time += seconds
        counted.add("c")
        assert counted.count("c") == counted.least("c") == 1.0
    assert counted.count("another") == 0.0


def test_a_payload_stays_until_another_one_comes_and_goes_with_its_key():
    counted = SpaceSaving(1, math.inf)
    counted.add("a", (1,))
    counted.add("a")
    assert counted.top(1) == [("a", 2.0, (1,))]
    counted.add("a", (2,))
    assert counted.top(5) == [("a", 3.0, (2,))]
    counted.add("b")
    assert counted.top(1) == [("b", 4.0, None)]
    assert (counted.least("b"), counted.least("a"), counted.count("a")) == (1.0, 0.0, 4.0)


def test_threads_lose_no_count():
    counted = SpaceSaving(64, math.inf)

    def work(seed):
        for key in np.random.default_rng(seed).integers(0, 200, 3000).tolist():
            counted.add(key)
            counted.count(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert math.fsum(count for _, count, _ in counted.top(64)) == 12_000


@pytest.mark.parametrize(("capacity", "half_life_s"), [(0, 1.0), (1, 0.0), (1, math.nan)])
def test_numbers_that_make_no_sense_are_refused(capacity, half_life_s):
    with pytest.raises(ValueError, match="positive numbers"):
        SpaceSaving(capacity, half_life_s)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_that_make_no_sense_are_refused(weight):
    with pytest.raises(ValueError, match="at least 0"):
        SpaceSaving(1, 1.0).add("a", weight=weight)
