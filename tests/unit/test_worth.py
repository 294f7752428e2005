"""What a request is worth follows the documented formula, from what came before it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.serve.scheduling.request_worth import Worth


class Clock:
    time = 0.0

    def __call__(self):
        return self.time


positive = st.floats(1e-3, 1e3)
weights = st.floats(0.0, 1e3)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["u", "v", None])), max_size=30),
    weights, weights, positive, positive, positive, st.integers(0, 10**7), positive,
)  # fmt: skip
def test_the_formula_written_out(seen, frequency, activity, f0, a0, c0, characters, half_life_s):
    clock = Clock()
    worth = Worth(
        8, half_life_s, frequency=frequency, activity=activity, cheapness=0.7,
        frequency_half=f0, activity_half=a0, characters_half=c0, now=clock,
    )  # fmt: skip
    times = []
    for query, user in seen:
        worth.saw(query, user)
        times.append(clock.time)
        clock.time += 1.0
    f = sum(0.5 ** ((clock.time - t) / half_life_s) for t, (query, _) in zip(times, seen, strict=True) if query == "a")
    a = sum(0.5 ** ((clock.time - t) / half_life_s) for t, (_, user) in zip(times, seen, strict=True) if user == "u")
    parts = frequency * f / (f + f0) + activity * a / (a + a0) + 0.7 * c0 / (characters + c0)
    assert worth.of("a", "u", characters) == pytest.approx(parts / (frequency + activity + 0.7), rel=1e-6, abs=1e-12)
    unknown = frequency * f / (f + f0) + 0.7 * c0 / (characters + c0)
    assert worth.of("a", None, characters) == pytest.approx(unknown / (frequency + activity + 0.7), rel=1e-6, abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 10**9), weights, weights, weights)
def test_it_is_below_one_and_never_negative(times, characters, frequency, activity, cheapness):
    if frequency + activity + cheapness == 0:
        return
    worth = Worth(frequency=frequency, activity=activity, cheapness=cheapness, frequency_half=1e-300)
    for _ in range(times):
        worth.saw("q", "u")
    assert 0 <= worth.of("q", "u", characters) < 1


def test_more_frequent_more_active_and_cheaper_is_worth_more():
    worth = Worth()
    for _ in range(5):
        worth.saw("often", "active")
    worth.saw("once", "new")
    assert worth.of("often", "new", 100) > worth.of("once", "new", 100) > worth.of("never", "new", 100)
    assert worth.of("once", "active", 100) > worth.of("once", "new", 100) > worth.of("once", None, 100)
    assert worth.of("once", "new", 100) > worth.of("once", "new", 50_000)


def test_at_the_halves_each_part_is_worth_a_half():
    for part, other in (("frequency", "activity"), ("activity", "frequency"), ("cheapness", "frequency")):
        weights = dict.fromkeys(("frequency", "activity", "cheapness"), 0.0) | {part: 2.0}
        worth = Worth(half_life_s=math.inf, frequency_half=4, activity_half=4, characters_half=500, **weights)
        for _ in range(4):
            worth.saw("q", "u")
        assert worth.of("q", "u", 500) == pytest.approx(0.5), (part, other)


def test_one_who_takes_over_anothers_counter_gains_nothing_by_it():
    worth = Worth(capacity=2, half_life_s=math.inf)
    for query in ["a", "b"] * 50:
        worth.saw(query, query)
    worth.saw("c", "c")
    fresh = Worth(half_life_s=math.inf)
    fresh.saw("c", "c")
    assert worth.of("c", "c", 10) == pytest.approx(fresh.of("c", "c", 10))


def test_memory_does_not_grow_with_texts_or_users():
    worth = Worth(capacity=50)
    for number in range(2_000):
        worth.saw(f"{number} " * 1000, f"user {number}")
    for counts in (worth._queries, worth._users):
        assert len(counts) == len(counts._heap) == 50
        assert all(isinstance(key, int) for key, _, _ in counts.top(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequency": -0.1}, "frequency=-0.1: at least 0"),
        ({"activity": math.inf}, "activity=inf: at least 0"),
        ({"characters_half": 0}, "characters_half=0: positive"),
        ({"frequency": 0, "activity": 0, "cheapness": 0}, "one of them must be positive"),
        ({"capacity": 0}, "capacity=0"),
        ({"half_life_s": -1}, "half_life_s=-1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Worth(**options)
