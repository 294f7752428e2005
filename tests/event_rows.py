"""Events of the generated set: who asked for what, what was shown, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.runtime.event_log import EventLog
from tests.conftest import THINGS, WORDS

GOOD = WORDS[:8]  # adjectives that are liked, as in `tests.conftest.write_beir`
BEGIN = 1_700_000_000.0  # unix seconds


def make_events(
    count: int, *, seed: int = 0, first: int = 0, users: int = 40, shown: int = 8, good: list[str] = GOOD
) -> list[dict[str, Any]]:
    """Return events a minute apart in which an item is bought or clicked for the good adjectives in its text.

    Args:
        count: of the events.
        seed: of their content.
        first: number of the first; ids and times follow from it.
        users: that they are of, in turn.
        shown: items of an event.
        good: adjectives that are liked.
    """
    rng = np.random.default_rng(seed)
    events = []
    for number in range(first, first + count):
        items = []
        for position in range(shown):
            words = rng.choice(WORDS, 3, replace=False).tolist()
            outcome = ("skip", "skip", "click", "purchase")[len(set(good) & set(words))]
            text = " ".join([*words, str(rng.choice(THINGS))])
            items.append({"id": text.replace(" ", "-"), "text": text, "position": position + 1, "outcome": outcome})
        query = " ".join([*rng.choice(WORDS[:8], 4, replace=False), str(rng.choice(THINGS))])
        unique = list({item["id"]: item for item in items}.values())
        events.append(
            {
                "id": f"e{number}",
                "time": BEGIN + 60 * number,
                "user": f"u{number % users}",
                "query": {"text": query},
                "items": unique,
            }
        )
    return events


def flipped(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event whose outcomes say the opposite."""
    other = {"skip": "purchase", "click": "skip", "purchase": "skip"}
    return event | {"items": [item | {"outcome": other[item["outcome"]]} for item in event["items"]]}


def append(folder: Path, events: list[dict[str, Any]]) -> Path:
    """Append events to a log."""
    EventLog(folder).append(events)
    return folder


def append_lines(folder: Path, lines: list[str]) -> Path:
    """Append lines that no writer of ours would write, as one of another kind may."""
    path = max(folder.glob("*.jsonl"))
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
    return folder


def nan_rating(event: dict[str, Any]) -> str:
    """Return the line of an event with a rating that is no number, as Python's json writes it unasked."""
    return json.dumps(event | {"items": [item | {"outcome": {"rating": float("nan")}} for item in event["items"]]})
