"""The streams of the drift laboratory: what a list may know, and what an abrupt change changes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))

import drift_stream
from drift_stream import Plan, stream_of, swapped

from rankdistill.data.events import Events

USERS, ITEMS, EVENTS = 375, 30, 3000  # so many users that each leaves items unseen
PLAN = Plan(keep=0.3, shown=6, titles=3, old=50, dev=0, most=120)


@pytest.fixture(scope="module")
def events() -> Events:
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, ITEMS + 1)
    genre = ["red" if item % 2 else "blue" for item in range(ITEMS)]
    return Events(
        user=rng.integers(USERS, size=EVENTS).astype(np.int32),
        item=rng.choice(ITEMS, size=EVENTS, p=popularity / popularity.sum()).astype(np.int32),
        rating=rng.integers(1, 6, size=EVENTS).astype(np.float64),
        time=np.arange(EVENTS, dtype=np.float64),
        user_ids=[f"u{row}" for row in range(USERS)],
        profiles=[f"profile {row}" for row in range(USERS)],
        item_ids=[f"i{row}" for row in range(ITEMS)],
        titles=[f"title-{row}" for row in range(ITEMS)],
        texts=[f"title-{row} {genre[row]}" for row in range(ITEMS)],
    )


@pytest.fixture(autouse=True)
def short_log(monkeypatch):
    """Let lists begin early: this log is short."""
    monkeypatch.setattr(drift_stream, "UNCOUNTED", 500)


def test_lists_come_in_time_and_know_only_titles_liked_before(events):
    stream = stream_of(events, PLAN)
    times = [each.time for each in [*stream.old, *stream.lists]]
    assert times == sorted(times)
    assert len(stream.old) == PLAN.old
    assert len(stream.lists) == PLAN.most
    for each in stream.lists:
        row = int(each.id)
        mine = np.flatnonzero((events.user == events.user[row]) & (events.rating >= 4) & (np.arange(EVENTS) < row))
        newest_first = [events.titles[events.item[other]] for other in mine[::-1][: PLAN.titles]]
        assert each.query.endswith("liked: " + "; ".join(newest_first))


def test_a_list_has_what_was_liked_and_items_that_its_user_never_takes(events):
    for each in stream_of(events, PLAN).lists:
        row = int(each.id)
        shown = dict(zip(each.items, each.grades, strict=True))
        assert len(shown) == PLAN.shown
        assert [text for text, grade in shown.items() if grade] == [events.texts[events.item[row]]]
        taken = {events.texts[item] for item in events.item[events.user == events.user[row]]}
        assert not taken & {text for text, grade in shown.items() if not grade}


def test_the_old_test_set_is_of_other_users_and_of_the_time_before(events):
    stream = stream_of(events, PLAN)
    assert stream.test
    assert not {each.user for each in stream.test} & {each.user for each in [*stream.old, *stream.lists]}
    assert max(each.time for each in stream.test) < stream.lists[0].time


def test_a_swap_changes_nothing_before_it_and_exchanges_popularity_after(events):
    plain, changed = stream_of(events, PLAN), stream_of(events, PLAN, (("red", "blue"), 80))
    assert changed.change == 80
    assert (changed.old, changed.test) == (plain.old, plain.test)
    assert changed.lists[:80] == plain.lists[:80]
    liked = [max(zip(each.grades, each.items, strict=True))[1].split()[1] for each in changed.lists[80:]]
    before = [max(zip(each.grades, each.items, strict=True))[1].split()[1] for each in plain.lists[80:]]
    assert [{"red": "blue", "blue": "red"}[genre] for genre in liked] == before


def test_a_swap_pairs_items_by_popularity_and_spares_those_of_both_genres():
    texts = ["a red", "b red", "c blue", "d blue", "e blue", "f red blue"]
    item = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5, 0, 1, 2, 3, 4, 5], dtype=np.int32)
    time = np.arange(len(item), dtype=np.float64)
    log = Events(np.zeros_like(item), item, np.full(len(item), 5.0), time, ["u"], [""], list("abcdef"), texts, texts)
    after = swapped(log, ("red", "blue"), 9.0).item
    assert after[:9].tolist() == item[:9].tolist()
    # before: b 2, a 1; d 3, c 1, e 1: b is exchanged with d, a with c, e is left over
    assert after[9:].tolist() == [2, 3, 0, 1, 4, 5]
