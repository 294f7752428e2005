"""What an update is made of and what it goes on with, before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from distill.online.seen import SeenEvents
from distill.online.state import State
from distill.online.update import roll_back
from distill.online.versions import FIRST, UPDATE, Published
from distill.schema import HeadUpdate, Train, Updating
from export.runtime.event_log import Cursor
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
