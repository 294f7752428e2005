"""One event of a log: what was shown for what query, when, by which model, and what became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rankdistill.data.records import UNKNOWN
from rankdistill.online.events.catalogue import Catalogue

AHEAD_S = 86_400.0  # clocks differ by less than a day; a time further on would make every later event a late one
MOST_POSITION = 2**31 - 1  # what int32 holds


class BrokenEventError(ValueError):
    """An event that cannot be used; the message says why."""


class UnknownTextError(BrokenEventError):
    """An event whose item or query has no text, and an id that the catalogue lacks."""


@dataclass(frozen=True)
class Shown:
    """An item as it was shown: its grade is `UNKNOWN` where no outcome is told, its position 0 where none is."""

    id: str
    text: str
    grade: int
    position: int


@dataclass(frozen=True)
class Event:
    """A sound event.

    Attributes:
        id: that no other event has.
        time: unix seconds.
        user: who it was, "" if not told.
        query: its text.
        items: at least one, with ids that differ.
        model: key of the model that served it, "" if not told.
    """

    id: str
    time: float
    user: str
    query: str
    items: Sequence[Shown]
    model: str

    @property
    def tells(self) -> bool:
        """Whether its outcomes put one item above another."""
        return len({item.grade for item in self.items if item.grade != UNKNOWN}) > 1


@dataclass(frozen=True)
class Grading:
    """Grades of outcomes.

    Attributes:
        words: grade of each outcome that is a word.
        ratings: rising; a rating has as grade how many of these it reaches.
    """

    words: Mapping[str, int]
    ratings: Sequence[float]

    def grade(self, outcome: Any) -> int:
        """Return an outcome's grade; `UNKNOWN` for None, which says nothing.

        Raises:
            BrokenEventError: if it is neither a known word nor a finite rating.
        """
        if outcome is None:
            return UNKNOWN
        if isinstance(outcome, str) and outcome in self.words:
            return self.words[outcome]
        if not isinstance(outcome, Mapping) or set(outcome) != {"rating"}:
            raise BrokenEventError(f'outcome {outcome!r} is none of {", ".join(self.words)} or {{"rating": number}}')
        rating = _number(outcome["rating"], "rating")
        return sum(rating >= threshold for threshold in self.ratings)


def parse(line: bytes) -> Mapping[str, Any]:
    """Return a line's JSON object.

    Raises:
        BrokenEventError: if it is none. NaN and infinities are no JSON (RFC 8259, section 6).
    """
    try:
        row = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BrokenEventError(f"no JSON: {error}") from None
    if not isinstance(row, dict):
        raise BrokenEventError(f"a {type(row).__name__}, not an object")
    return row


def checked(row: Mapping[str, Any], grading: Grading, catalogue: Catalogue, now: float) -> Event:
    """Return the event that an object tells of. A key with null is a key that is not there.

    Args:
        row: the object.
        grading: of outcomes.
        catalogue: has the texts that are left out.
        now: unix seconds; nothing has happened more than `AHEAD_S` after it.

    Raises:
        BrokenEventError: if anything in it is not as it must be.
    """
    time = _time(row.get("time"))
    if time > now + AHEAD_S:
        raise BrokenEventError(f"time {time:.0f} is in the future")
    query = _mapping(row.get("query"), "query")
    items = row.get("items")
    if not isinstance(items, list) or not items:
        raise BrokenEventError("items is no list with at least one item")
    shown = [_shown(_mapping(item, "an item"), grading, catalogue) for item in items]
    if len({item.id for item in shown}) < len(shown):
        raise BrokenEventError("an item stands in the list twice")
    return Event(
        id=_text(row.get("id"), "id"),
        time=time,
        user=_optional(row.get("user"), "user"),
        query=_told(query, catalogue.queries, "query"),
        items=shown,
        model=_optional(row.get("model"), "model"),
    )


def _shown(item: Mapping[str, Any], grading: Grading, catalogue: Catalogue) -> Shown:
    position, outcome = item.get("position"), item.get("outcome")
    if position is not None and (type(position) is not int or not 1 <= position <= MOST_POSITION):
        raise BrokenEventError(f"position {position!r} is no whole number from 1, the first")
    if item.get("rating") is not None:  # tables, whose columns have one type, tell a rating so
        if outcome is not None:
            raise BrokenEventError("an item has both outcome and rating")
        outcome = {"rating": item["rating"]}
    name = _text(item.get("id"), "an item's id")
    return Shown(name, _told(item, catalogue.items, "item"), grading.grade(outcome), position or 0)


def _told(row: Mapping[str, Any], texts: Mapping[str, str], what: str) -> str:
    """Return an object's text, or the one that its id has."""
    text = _optional(row.get("text"), f"{what} text").strip()
    if text:
        return text
    name = _optional(row.get("id"), f"{what} id")
    if name not in texts:
        raise UnknownTextError(f"{what} {name!r} has no text, and the catalogue has none of that id")
    return texts[name]


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BrokenEventError(f"{what} is no object")
    return value


def _optional(value: Any, what: str) -> str:
    return "" if value is None else _text(value, what, least=0)


def _text(value: Any, what: str, least: int = 1) -> str:
    if not isinstance(value, str) or len(value) < least:
        raise BrokenEventError(f"{what} {value!r} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BrokenEventError(f"{what} has half a surrogate pair") from None
    return value


def _time(value: Any) -> float:
    if isinstance(value, datetime):  # a table's; one without a zone is in UTC, as Arrow holds it
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    time = _number(value, "time")
    if time < 0:
        raise BrokenEventError(f"time {time} is before 1970")
    return time


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BrokenEventError(f"{what} {value!r} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BrokenEventError(f"{what} is not finite")
    return number


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no number")
