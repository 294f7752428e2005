"""The governor against a simulated queue: threads, Poisson arrivals, and a clock of its own."""

import heapq
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.serve.models.governor import Governor, Setting

SETTINGS = [Setting("full", 1.0, 0.040), Setting("half", 0.99, 0.020), Setting("few", 0.97, 0.008)]
THREADS, TARGET = 2, 0.3
CAPACITY = THREADS / SETTINGS[0].cost_s  # requests a second at the dearest


def simulate(governor, rates, seed=0, slower=1.0):
    """Serve Poisson arrivals, first come first served; return (arrived, latency, setting) of each request."""
    rng = np.random.default_rng(seed)
    arrivals, now = [], 0.0
    for seconds, rate in rates:
        end = now + seconds
        while (now := now + rng.exponential(1 / rate)) < end:
            arrivals.append(now)
        now = end
    free = [0.0] * THREADS
    waiting, answered, ends = deque(), [], []
    events = [(at, 0, None) for at in arrivals]
    heapq.heapify(events)
    count = 0
    while events:
        now, kind, what = heapq.heappop(events)
        if kind == 0:
            governor.arrived(now)
            waiting.append(now)
        else:
            arrived, setting, cost = what
            governor.ended(setting, now - arrived, cost, now)
            answered.append((arrived, now - arrived, setting))
        for thread in range(THREADS):
            if waiting and free[thread] <= now:
                backlog = len(waiting) * SETTINGS[governor._now].cost_s * slower / THREADS
                setting = governor.choose(now, backlog)
                cost = governor.settings[setting].cost_s * slower * rng.uniform(0.5, 1.5)
                free[thread] = now + cost
                count += 1
                heapq.heappush(events, (now + cost, 1, (waiting.popleft(), setting, cost)))
    del ends
    return np.array(sorted(answered))


STEPS = [(20, 0.5 * CAPACITY), (20, 2 * CAPACITY), (30, 0.5 * CAPACITY)]


def part(rows, start, end):
    return rows[(rows[:, 0] >= start) & (rows[:, 0] < end)]


def p99(rows):
    return np.quantile(rows[:, 1], 0.99)


def make(settings=SETTINGS, **options):
    return Governor(settings, **{"threads": THREADS, "target_s": TARGET, **options})


@pytest.mark.parametrize("seed", range(5))
def test_a_doubled_load_is_back_under_the_target_within_five_seconds_and_quality_returns(seed):
    rows = simulate(make(), STEPS, seed)
    assert p99(part(rows, 5, 20)) <= TARGET
    assert (part(rows, 5, 20)[:, 2] == 0).mean() > 0.9  # half the capacity needs nothing cheaper
    assert p99(part(rows, 25, 40)) <= TARGET
    assert p99(part(rows, 45, 70)) <= TARGET
    assert (part(rows, 55, 70)[:, 2] == 0).mean() > 0.9


def test_without_cheaper_settings_the_same_load_runs_away():
    rows = simulate(make(SETTINGS[:1]), STEPS)
    assert p99(part(rows, 25, 40)) > 10 * TARGET


@pytest.mark.parametrize("share", [0.9, 1.3, 1.9])
def test_a_steady_load_does_not_make_it_swing(share):
    governor = make()
    rows = simulate(governor, [(120, share * CAPACITY)])
    later = rows[rows[:, 0] > 10]
    moves = sum(a != b for a, b in pairwise(later[np.argsort(later[:, 0] + later[:, 1]), 2]))
    starts = later[np.argsort(later[:, 0]), 2]
    assert sum(a != b for a, b in pairwise(starts)) <= 12, moves
    assert p99(later) <= TARGET


def test_what_requests_really_cost_is_learned():
    rows = simulate(make(), [(40, 0.6 * CAPACITY)], slower=2.0)  # 1.2 of the capacity
    later = part(rows, 10, 40)
    assert p99(later) <= TARGET
    assert (later[:, 2] > 0).mean() > 0.9


def test_the_floor_is_never_broken():
    governor = make(floor=0.98)
    assert [setting.name for setting in governor.settings] == ["full", "half"]
    rows = simulate(governor, [(10, 5 * CAPACITY)])
    assert rows[:, 2].max() == 1


def test_seconds_at_each_setting_add_up():
    governor = make()
    simulate(governor, STEPS)
    assert 60 < sum(governor.seconds) <= 71
    assert all(seconds > 0 for seconds in governor.seconds[:2])


def test_answers_without_work_teach_no_cost():
    governor = make()
    for now in range(100):
        governor.ended(0, 0.001, 0.0, float(now))
    assert governor._scale == 1.0


@given(st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 2), st.floats(0, 0.5), st.booleans()), max_size=200))
def test_it_only_ever_chooses_a_setting_that_it_has(history):
    governor, now = make(floor=0.98), 0.0
    for gap, backlog, latency, comes in history:
        now += gap
        if comes:
            governor.arrived(now)
        setting = governor.choose(now, backlog)
        assert setting in (0, 1)
        governor.ended(setting, latency, latency / 2, now)


def test_two_steps_down_are_apart():
    governor = make(hold_s=0.5)
    seen = [(now, governor.choose(now, 10.0)) for now in np.arange(0, 2, 0.06)]
    first = {setting: now for now, setting in reversed(seen)}
    assert first[2] - first[1] >= 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"floor": 2.0}, "floor=2.0"),
        ({"threads": 0}, "threads=0"),
        ({"target_s": float("nan")}, "target_s"),
        ({"settings": SETTINGS[::-1]}, "costs"),
    ],
)
def test_senseless_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make(**options)


def test_late_answers_are_seen_where_few_come():
    governor, now = make(target_s=0.05), 0.0
    for _ in range(8):  # one request a second, each far too late
        governor.arrived(now)
        setting = governor.choose(now, 0.0)
        governor.ended(setting, 0.2, 0.04, now + 0.2)
        now += 1.0
    assert governor.setting.name == "few"


def test_a_setting_that_a_cheaper_one_equals_is_left_out():
    worse = Setting("worse", 0.96, 0.030)
    governor = make([SETTINGS[0], worse, *SETTINGS[1:]])
    assert [setting.name for setting in governor.settings] == ["full", "half", "few"]
    assert [setting.name for setting in make([worse, Setting("even", 0.96, 0.01)]).settings] == ["even"]
