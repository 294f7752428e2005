"""Requests over threads: every one answered rightly, in the order of the policy, and none in vain."""

import threading
import time
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.export.runtime.plan import OneModel, Step, score
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from rankdistill.export.serve.scheduling.job import DeadlinePassed, QueueFull
from rankdistill.export.serve.scheduling.policy import POLICIES, Urgency


class Ranker:
    """Scores an item by its length; remembers what it scored, and can be held up."""

    def __init__(self, key="a", factor=1.0):
        self.key, self.factor = key, factor
        self.scored, self.tokenised = [], []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()

    def pairs(self, query, items):
        self.tokenised.append(query)
        return Pairs(self, query, items)

    def score_items(self, query, items):
        return np.array([self.factor * len(item) for item in items], dtype=np.float32)


class Pairs:
    def __init__(self, ranker, query, items):
        self.ranker, self.query, self.items = ranker, query, items
        self.scores = np.full(len(items), np.nan, dtype=np.float32)
        self.tasks = [[row] for row in range(len(items))]

    def run(self, rows):
        self.ranker.busy.set()
        self.ranker.free.wait(10)
        for row in rows:
            if self.items[row] == "bad":
                raise ValueError("cannot score this")
            self.ranker.scored.append((self.query, self.items[row]))
            self.scores[row] = self.ranker.factor * len(self.items[row])


class TwoSteps:
    """The second model scores what the first one has above 2, on top of it."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def steps(self, query, items):
        scores = yield Step(self.first, query, items)
        kept = np.flatnonzero(scores > 2)
        scores[kept] += yield Step(self.second, query, [items[row] for row in kept])
        return scores


@pytest.fixture
def ranker():
    return Ranker()


@pytest.fixture
def held(ranker):
    """A dispatcher whose one thread is held up at a first request, so that what comes next waits."""
    dispatcher = Dispatcher(1, policy="priority", capacity=8, age=100.0)
    ranker.free.clear()
    first = dispatcher.submit(OneModel(ranker), "first", ["x"])
    assert ranker.busy.wait(5)
    yield dispatcher
    ranker.free.set()
    first.result(5)
    dispatcher.close()


def queries(ranker):
    return list(dict.fromkeys(query for query, _ in ranker.scored))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("ab", max_size=2), st.lists(st.text("xyz", max_size=5), max_size=30), st.integers(0, 2)),
        max_size=20,
    ),
    st.integers(1, 4),
    st.sampled_from(sorted(POLICIES)),
)
def test_every_request_gets_its_own_scores(requests, threads, policy):
    plans = [OneModel(Ranker()), TwoSteps(Ranker("b"), Ranker("c", 10.0))]
    dispatcher = Dispatcher(threads, policy=policy, capacity=100)
    futures = [
        dispatcher.submit(plans[number % 2], query, items, priority=priority)
        for number, (query, items, priority) in enumerate(requests)
    ]
    for number, ((query, items, _), future) in enumerate(zip(requests, futures, strict=True)):
        np.testing.assert_array_equal(future.result(5).scores, score(plans[number % 2], query, items))
    assert dispatcher.close(5)
    assert dispatcher.waiting == 0


def test_the_most_pressing_goes_first(held, ranker):
    plan = OneModel(ranker)
    low = held.submit(plan, "low", ["a"], priority=2)
    high = held.submit(plan, "high", ["a"], priority=0)
    worthy = held.submit(plan, "worthy", ["a"], priority=2, worth=0.5)
    ranker.free.set()
    wait([low, high, worthy], 5)
    assert queries(ranker) == ["first", "high", "worthy", "low"]


def test_one_that_was_begun_is_overtaken_between_two_of_its_parts(ranker):
    dispatcher = Dispatcher(1, age=100.0)
    ranker.free.clear()
    long = dispatcher.submit(OneModel(ranker), "long", ["x"] * 50 + ["y"], priority=1)
    assert ranker.busy.wait(5)
    short = dispatcher.submit(OneModel(ranker), "short", ["z"], priority=0)
    ranker.free.set()
    assert wait([long, short], 5).not_done == set()
    where = [query for query, _ in ranker.scored].index("short")
    assert where <= 8
    dispatcher.close()


def test_equal_requests_in_flight_are_scored_once(held, ranker):
    plan = OneModel(ranker)
    futures = [held.submit(plan, "same", ["a", "bb"]) for _ in range(5)] + [held.submit(plan, "same", ["a"])]
    ranker.free.set()
    answers = [future.result(5) for future in futures]
    assert [answer.shared for answer in answers] == [False, True, True, True, True, False]
    assert ranker.tokenised.count("same") == 2
    np.testing.assert_array_equal(answers[3].scores, [1, 2])


def test_requests_of_two_plans_are_not_equal(held, ranker):
    other = Ranker("other", factor=5.0)
    one, two = held.submit(OneModel(ranker), "q", ["aa"]), held.submit(OneModel(other), "q", ["aa"])
    assert held.waiting == 3
    ranker.free.set()
    assert (one.result(5).scores, two.result(5).scores) == ([2], [10])


def test_a_full_queue_says_when_to_come_again(held, ranker):
    plan = OneModel(ranker)
    for number in range(7):
        held.submit(plan, str(number), ["a"])
    with pytest.raises(QueueFull) as caught:
        held.submit(plan, "one more", ["a"])
    assert 0 < caught.value.retry_after <= 60
    assert held.submit(plan, "3", ["a"])  # an equal one takes no room


def test_what_nobody_waits_for_takes_no_room(held, ranker):
    waiting = [held.submit(OneModel(ranker), str(number), ["a"]) for number in range(7)]
    waiting[5].cancel()
    assert held.submit(OneModel(ranker), "one more", ["a"])
    with pytest.raises(QueueFull):
        held.submit(OneModel(ranker), "too many", ["a"])


def test_nobody_scores_what_nobody_waits_for(held, ranker):
    gone = held.submit(OneModel(ranker), "gone", ["a"])
    late = held.submit(OneModel(ranker), "late", ["a"], deadline=time.monotonic() - 1)
    plan = OneModel(ranker)
    shared = [held.submit(plan, "shared", ["a"]) for _ in range(2)]
    assert gone.cancel()
    assert shared[0].cancel()
    ranker.free.set()
    assert shared[1].result(5).scores == [1]
    with pytest.raises(DeadlinePassed):
        late.result(5)
    with pytest.raises(CancelledError):
        gone.result(5)
    assert queries(ranker) == ["first", "shared"]
    assert held.waiting == 0


def test_an_error_is_its_requests_own(ranker):
    dispatcher = Dispatcher(2)
    bad = dispatcher.submit(OneModel(ranker), "q", ["a", "bad", "c"])
    with pytest.raises(ValueError, match="cannot score this"):
        bad.result(5)
    assert dispatcher.submit(OneModel(ranker), "q", ["aa"]).result(5).scores == [2]
    assert dispatcher.close(5)


def test_the_backlog_is_what_the_texts_in_flight_will_cost():
    ranker = Ranker()
    ranker.pairs = lambda query, items: Slow(ranker, query, items)
    dispatcher = Dispatcher(2)
    dispatcher.submit(OneModel(ranker), "first", ["a"] * 20).result(5)
    assert dispatcher.backlog_s == 0
    assert dispatcher.text_s == pytest.approx(0.01, rel=0.5)
    futures = [dispatcher.submit(OneModel(ranker), str(number), ["a"] * 20) for number in range(3)]
    assert dispatcher.backlog_s == pytest.approx(60 * dispatcher.text_s / 2)
    wait(futures, 5)
    assert futures[0].result().worked_s == pytest.approx(0.2, rel=0.5)
    dispatcher.close()


class Slow(Pairs):
    def run(self, rows):
        time.sleep(0.01)
        super().run(rows)


def test_what_needs_no_scoring_needs_no_thread(held):
    class Known:
        def steps(self, query, items):
            return np.zeros(len(items), dtype=np.float32)
            yield

    answer = held.submit(Known(), "q", ["a", "b"]).result(0)
    np.testing.assert_array_equal(answer.scores, [0, 0])


def test_closing_ends_what_was_begun_and_takes_no_more(ranker):
    dispatcher = Dispatcher(2)
    futures = [dispatcher.submit(OneModel(ranker), str(number), ["a"] * 20) for number in range(20)]
    assert dispatcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        dispatcher.submit(OneModel(ranker), "q", ["a"])


def test_closing_in_a_hurry_tells_who_still_waits(ranker):
    dispatcher = Dispatcher(1)
    ranker.free.clear()
    futures = [dispatcher.submit(OneModel(ranker), str(number), ["a"]) for number in range(3)]
    assert ranker.busy.wait(5)
    assert not dispatcher.close(0.05)
    for future in futures:
        with pytest.raises(RuntimeError, match="closed before"):
            future.result(1)
    ranker.free.set()


@given(st.sampled_from(sorted(POLICIES)), st.floats(0, 1000), st.integers(0, 5), st.floats(0, 1), st.integers(0, 10**6))
def test_no_policy_lets_a_request_be_overtaken_for_longer_than_its_classes_say(policy, arrived, priority, worth, long):
    """What comes later than `age` times the classes between them never goes before it."""
    age = 2.0
    mine = POLICIES[policy](Urgency(arrived, None, priority, worth, long), age)
    later = arrived + age * (priority + 1) + 0.01
    assert mine < POLICIES[policy](Urgency(later, None, 0, 1.0, 0), age)


@pytest.mark.parametrize("options", [{"threads": 0}, {"capacity": 0}, {"age": -1}, {"policy": "lifo"}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        Dispatcher(**{"threads": 1, **options})


class BeginsSlowly(TwoSteps):
    """Does work of its own before its first step, and tells in which thread."""

    def __init__(self, first, second):
        super().__init__(first, second)
        self.begun = []

    def steps(self, query, items):
        self.begun.append((query, threading.current_thread().name))
        if query == "broken":
            raise ValueError("cannot begin this")
        if query == "known":
            return np.zeros(len(items), dtype=np.float32)
        return (yield from super().steps(query, items))


def test_what_begins_slowly_is_begun_by_the_threads_that_score_in_its_turn(held, ranker):
    plan = BeginsSlowly(ranker, Ranker("b", 10.0))
    submit = {"begins_slowly": True}
    low = held.submit(plan, "low", ["a", "abc"], priority=2, **submit)
    high = held.submit(plan, "high", ["a", "abc"], priority=0, **submit)
    broken = held.submit(plan, "broken", ["a"], priority=1, **submit)
    known = held.submit(plan, "known", ["a"], priority=1, **submit)
    assert plan.begun == []
    ranker.free.set()
    wait([low, high, broken, known], 5)
    assert [query for query, _ in plan.begun] == ["high", "broken", "known", "low"]
    assert all(name.startswith("score-") for _, name in plan.begun)
    np.testing.assert_array_equal(high.result(0).scores, [1, 33])
    np.testing.assert_array_equal(known.result(0).scores, [0])
    assert (high.result(0).scored, known.result(0).scored) == (3, 0)
    with pytest.raises(ValueError, match="cannot begin this"):
        broken.result(0)
    assert held.waiting == 0


def test_what_nobody_waits_for_is_not_begun(held, ranker):
    plan = BeginsSlowly(ranker, ranker)
    left = held.submit(plan, "left", ["a"], begins_slowly=True)
    left.cancel()
    late = held.submit(plan, "late", ["a"], begins_slowly=True, deadline=time.monotonic() - 1)
    ranker.free.set()
    with pytest.raises(DeadlinePassed):
        late.result(5)
    assert plan.begun == []
