"""What an update is made of and what it goes on with, before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rankdistill.export.runtime.event_log import Cursor
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.update import REFUSED_, WAITING, roll_back, run_update
from rankdistill.online.version_state import State
from rankdistill.online.versions import FIRST, UPDATE, Published
from rankdistill.options import HeadUpdate, Train, Updating
from tests.event_rows import append, append_lines, make_events
from tests.update_parts import random_lists


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path / "published")


def config(tmp_path, **update):
    log = str(tmp_path / "log")
    return Updating(model="run", events=log, published=str(tmp_path), update=HeadUpdate(**update), train=Train())


def publish(published, state, kind=UPDATE):
    with published.next() as (number, work):
        (work / "bundle").mkdir()
        state.save(work / "state")
        return published.publish(number, work, {"kind": kind} | ({} if kind == FIRST else {"parent": number - 1}))


def state(number, held, memory=()):
    seen = SeenEvents(100)
    for row in range(number + 1):
        seen.add(f"e{row}")
    return State(Cursor("00.jsonl", number), seen, held, list(memory))


def test_going_back_leaves_the_events_since_consumed(published, tmp_path):
    held = [random_lists(3, seed=seed) for seed in range(3)]
    with published.locked():
        publish(published, state(0, held[0]), FIRST)
        publish(published, state(1, held[1], held[0]))
        publish(published, state(2, held[2], [*held[0], *held[1]]))
        back = State.load(roll_back(config(tmp_path), SimpleNamespace(), published, None).state)
    assert (back.cursor, len(back.seen)) == (Cursor("00.jsonl", 2), 3)
    assert (back.held, back.memory) == (held[1], held[0])  # none of what version 2 held back


def telling(count):
    """Events whose first item was clicked, the others not."""
    events = make_events(count)
    for event in events:
        event["items"] = [item | {"outcome": "skip"} for item in event["items"]]
        event["items"][0]["outcome"] = "click"
    return events


@pytest.fixture
def update(published, tmp_path):
    """An update of a version without events before it, that reads the log."""

    def run(**options):
        with published.locked():
            if published.current() is None:
                publish(published, State(None, SeenEvents(100)), FIRST)
            return run_update(config(tmp_path, **options), SimpleNamespace(), published, catalogue=Catalogue())

    return run


@pytest.mark.parametrize(("good", "bad"), [(0, 30), (5, 15)])
def test_a_log_that_is_broken_is_refused_however_little_of_it_can_be_used(update, tmp_path, good, bad):
    append(tmp_path / "log", make_events(good))
    append_lines(tmp_path / "log", ["{half"] * bad)
    outcome = update(min_events=20)
    assert outcome.what == REFUSED_
    assert [check.name for check in outcome.checks] == ["broken events"]
    assert f"{bad} of {good + bad} events are broken" in outcome.checks[0].detail


def test_too_few_lines_are_waited_with_and_what_became_of_them_is_told(update, tmp_path):
    events = telling(6)
    append(tmp_path / "log", [*events, *events[:2], events[0] | {"id": "old", "time": 1.0}])
    append_lines(tmp_path / "log", ["{half"])
    outcome = update(min_events=20)
    assert (outcome.what, outcome.checks) == (WAITING, ())
    assert outcome.detail.startswith("6 new events")
    assert "of 10 read" in outcome.detail
    assert "1 broken, 1 late, 2 repeated" in outcome.detail


def test_events_that_tell_nothing_are_waited_with(update, tmp_path):
    events = telling(40)
    for event in events[10:]:
        event["items"] = [item | {"outcome": "click"} for item in event["items"]]
    append(tmp_path / "log", events)
    outcome = update(min_events=20)
    assert outcome.what == WAITING
    assert outcome.detail.startswith("10 new events with outcomes that differ, of 40 read (30 without, 0 broken")


def test_a_holdout_that_leaves_nothing_to_learn_from_is_waited_with(update, tmp_path):
    append(tmp_path / "log", telling(30))
    outcome = update(min_events=20, holdout=1.0)
    assert (outcome.what, outcome.detail) == (
        WAITING, "update.holdout=1 of 30 new events leaves none to learn from",
    )  # fmt: skip
