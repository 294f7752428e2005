"""What an update goes on with: saved beside the bundle and read again; events known when they come again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankdistill.errors import StoreError
from rankdistill.export.errors import UserError
from rankdistill.export.runtime.event_log import Cursor
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.version_state import CURSOR, State
from tests.update_parts import random_lists


def seen_of(*names, capacity=100):
    seen = SeenEvents(capacity)
    for name in names:
        seen.add(name)
    return seen


def test_a_state_comes_back(tmp_path):
    (tmp_path / "moments").write_bytes(b"moments")
    seen = seen_of("a", "b")
    seen.newest = 12.5
    state = State(
        Cursor("00.jsonl", 77), seen, random_lists(2), random_lists(3, seed=1), tmp_path / "moments",
        np.arange(4, dtype=np.float32), 0.75,
    )  # fmt: skip
    state.save(tmp_path / "state")
    found = State.load(tmp_path / "state")
    assert (found.cursor, found.first) == (state.cursor, 0.75)
    assert (found.held, found.memory) == (state.held, state.memory)
    assert found.moments.read_bytes() == b"moments"
    assert found.test.tolist() == [0, 1, 2, 3]
    assert found.test.dtype == np.float32
    assert found.seen.newest == 12.5
    assert [found.seen.add(name) for name in ("a", "b", "c")] == [False, False, True]


def test_the_first_state_is_empty(tmp_path):
    State(None, SeenEvents(5)).save(tmp_path / "state")
    found = State.load(tmp_path / "state")
    assert (found.cursor, found.moments, found.test, found.first) == (None, None, None, None)
    assert (list(found.held), list(found.memory), len(found.seen), found.seen.newest) == ([], [], 0, -math.inf)


def test_after_other_events_everything_else_stays(tmp_path):
    state = State(None, SeenEvents(5), random_lists(2), first=0.5)
    after = state.after(Cursor("00.jsonl", 5), seen_of("x"))
    assert (after.cursor, len(after.seen)) == (Cursor("00.jsonl", 5), 1)
    assert (after.held, after.first) == (state.held, 0.5)


def test_a_broken_state_tells_the_way_back(tmp_path):
    State(None, SeenEvents(5)).save(tmp_path / "state")
    (tmp_path / "state" / CURSOR).write_text('{"half')
    with pytest.raises(StoreError, match="roll back: distill-update --rollback"):
        State.load(tmp_path / "state")


def test_an_id_is_new_once():
    seen = seen_of("a")
    assert [seen.add(name) for name in ("a", "b", "a", "", "", "中文")] == [False, True, False, True, False, True]


def test_the_oldest_ids_are_forgotten_first():
    seen = seen_of(*"abcde", capacity=3)
    assert len(seen) == 3
    assert [seen.add(name) for name in ("c", "d", "e")] == [False] * 3
    assert seen.add("a")


def test_a_copy_remembers_on_its_own():
    seen = seen_of("a", "b", "c")
    seen.newest = 4.0
    copy = seen.copy(2)
    assert copy.newest == 4.0
    assert [copy.add(name) for name in ("b", "c")] == [False, False]
    assert copy.add("d")
    assert len(seen) == 3
    assert seen.add("d")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '{"capacity": 3, "newest": null, "ids": "AAA"}',
        '{"capacity": 1, "newest": null, "ids": "AAAA"}',
        "[]",
    ],
)
def test_a_broken_memory_is_told(tmp_path, content):
    (tmp_path / "seen.json").write_text(content)
    with pytest.raises(UserError, match="no memory of events seen"):
        SeenEvents.load(tmp_path / "seen.json")
