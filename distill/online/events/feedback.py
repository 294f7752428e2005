"""Graded lists out of a log of events: each event once, its labels as its outcomes tell them."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.data.records import Float32, Int32, Int64, Split
from rankdistill.export.files import write_atomic
from rankdistill.export.runtime.event_log import Cursor
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.event import BrokenEventError, Event, Grading, UnknownTextError, checked, parse
from rankdistill.online.events.propensity import ESTIMATED, pair_weights
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.events.source import Row, marked, read_rows, unread
from rankdistill.options.update import Events

log = logging.getLogger(__name__)

BROKEN = "broken.jsonl"
MOST_BROKEN = 10_000  # set aside of one reading; of further ones the log still has the lines, and the count tells
MOST_TEXT = 2_000  # characters kept of a broken line
MOST_REASON = 300

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """What became of the events of a reading.

    Attributes:
        read: all of them; the sum of used, duplicates, broken and, if they are dropped, late.
        used: lists that came of them.
        duplicates: left out, as an event of that id was read before.
        late: more than `max_age_s` older than the newest event before them.
        broken: set aside.
        unknown_items: of the broken, those with an item or a query that has no text, and an id not in the catalogue.
        unread_bytes: after the cursor: events beyond those asked for, or a last line without its end.
    """

    read: int = 0
    used: int = 0
    duplicates: int = 0
    late: int = 0
    broken: int = 0
    unknown_items: int = 0
    unread_bytes: int = 0


@dataclass(frozen=True)
class Broken:
    """An event that was set aside: the cursor after it, why, and the beginning of it."""

    after: Cursor
    reason: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**self.after.place(), "reason": self.reason, "text": self.text}


@dataclass(frozen=True)
class Feedback:
    """Events as candidate lists, one an event, in the log's order.

    Attributes:
        queries: texts, each once; rows that `split.query` refers to.
        items: texts, each (id, text) once, and `item_ids` their ids; rows that `split.item` refers to.
        split: the lists; a grade is `rankdistill.data.records.UNKNOWN` where no outcome is told.
        ids: [lists], of the events.
        users: [lists], "" where not told.
        time: float64 [lists], unix seconds.
        model: [lists], key of the model that served it, "" where not told.
        position: int32 [pairs] from 1, 0 where not logged.
        weight: float32 [pairs], 1 / propensity, clipped; ones unless asked for.
        cursor: after the last event read; None if there is none and there was none before.
        seen: what to read on with, besides the cursor.
        counts: of the reading.
        broken: the first `MOST_BROKEN` that were set aside.
    """

    queries: list[str]
    items: list[str]
    item_ids: list[str]
    split: Split
    ids: list[str]
    users: list[str]
    time: Float64
    model: list[str]
    position: Int32
    weight: Float32
    cursor: Cursor | None
    seen: SeenEvents
    counts: Counts
    broken: list[Broken]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64) -> Feedback:
        """Return these lists alone, in this order, of the same texts and the same reading."""
        offsets = self.split.offsets
        flat = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows] or [np.zeros(0, np.int64)])
        return dataclasses.replace(
            self,
            split=self.split.take(rows),
            ids=[self.ids[row] for row in rows],
            users=[self.users[row] for row in rows],
            time=self.time[rows],
            model=[self.model[row] for row in rows],
            position=self.position[flat],
            weight=self.weight[flat],
        )

    def before(self, newest: float) -> Feedback:
        """Return all lists but the share `newest` that `after` returns."""
        return self.take(self._by_time(newest)[0])

    def after(self, newest: float) -> Feedback:
        """Return the newest lists by time, this share of them rounded up; of one time the later in the log."""
        return self.take(self._by_time(newest)[1])

    def save_broken(self, folder: Path) -> None:
        """Write what was set aside to `BROKEN` in a folder, a line each."""
        lines = (json.dumps(each.as_dict(), ensure_ascii=False) + "\n" for each in self.broken)
        write_atomic(folder / BROKEN, "".join(lines).encode(errors="backslashreplace"))

    def _by_time(self, newest: float) -> tuple[Int64, Int64]:
        if not 0 <= newest <= 1:
            raise ValueError(f"a share is a number from 0 to 1, not {newest}")
        order = np.argsort(self.time, kind="stable")
        cut = len(order) - math.ceil(round(newest * len(order), 9))  # .1 * 30 is a little more than 3
        return np.sort(order[:cut]), np.sort(order[cut:])


def read_feedback(
    source: str | Path,
    after: Cursor | None,
    options: Events,
    catalogue: Catalogue,
    *,
    seen: SeenEvents | None = None,
    most: int | None = None,
    least: int = 0,
) -> Feedback:
    """Read the events after a cursor. Read in any number of parts, a log gives the same lists as in one.

    Args:
        source: as `rankdistill.online.events.source.read_rows` takes it.
        after: cursor of the feedback before; None reads from the beginning.
        options: how outcomes become grades, and what is late.
        catalogue: texts that events may leave out.
        seen: memory of the feedback before; it is not changed.
        most: events to read at most, of all kinds; None reads all there are.
        least: events with outcomes that differ, from which on a bias of positions is estimated; fewer weigh 1.

    Raises:
        DataError: if the source cannot be read, or positions are to be corrected and tell too little.
        UserError: if the cursor is none of this source's, or a file before it came late or is not what was read.
    """
    reader = _Reader(options, catalogue, (seen or SeenEvents(options.remembered)).copy(options.remembered))
    rows = read_rows(source, after, options.split)
    cursor, read = after, 0
    while (most is None or read < most) and (row := next(rows, None)) is not None:
        cursor, read = row[0], read + 1
        reader.take(*row)
    cursor = marked(source, cursor)
    counts = dataclasses.replace(reader.counts, read=read, unread_bytes=unread(source, cursor))
    if counts.broken:
        log.warning("%s of %s events are broken: %s", counts.broken, read, reader.broken[0].reason)
    if options.propensity == ESTIMATED and sum(event.tells for event in reader.events) < least:
        options = dataclasses.replace(options, propensity="none")
    return _feedback(reader, options, cursor, counts)


class _Reader:
    """Sorts events into used and not used, in the log's order."""

    def __init__(self, options: Events, catalogue: Catalogue, seen: SeenEvents) -> None:
        self._options, self._catalogue, self.seen = options, catalogue, seen
        self._grading = Grading(options.grades, options.ratings)
        self._now = time.time()
        self.events: list[Event] = []
        self.broken: list[Broken] = []
        self.counts = Counts()

    def take(self, after: Cursor, row: Row) -> None:
        try:
            event = checked(parse(row) if isinstance(row, bytes) else row, self._grading, self._catalogue, self._now)
        except BrokenEventError as error:
            self._count("broken")
            if isinstance(error, UnknownTextError):
                self._count("unknown_items")
            if len(self.broken) < MOST_BROKEN:
                text = row[:MOST_TEXT].decode(errors="backslashreplace") if isinstance(row, bytes) else repr(row)
                self.broken.append(Broken(after, str(error)[:MOST_REASON], text[:MOST_TEXT]))
            return
        if not self.seen.add(event.id):
            self._count("duplicates")
            return
        age, self.seen.newest = self.seen.newest - event.time, max(self.seen.newest, event.time)
        if self._options.max_age_s is not None and age > self._options.max_age_s:
            self._count("late")
            if self._options.late == "drop":
                return
        self._count("used")
        self.events.append(event)

    def _count(self, what: str) -> None:
        self.counts = dataclasses.replace(self.counts, **{what: getattr(self.counts, what) + 1})


def _feedback(reader: _Reader, options: Events, cursor: Cursor | None, counts: Counts) -> Feedback:
    queries: dict[str, int] = {}
    items: dict[tuple[str, str], int] = {}
    events = reader.events
    shown = [item for event in events for item in event.items]
    split = Split(
        query=np.array([queries.setdefault(event.query, len(queries)) for event in events], dtype=np.int32),
        offsets=np.cumsum([0, *(len(event.items) for event in events)], dtype=np.int64),
        item=np.array([items.setdefault((item.id, item.text), len(items)) for item in shown], dtype=np.int32),
        grade=np.array([item.grade for item in shown], dtype=np.int32),
    )
    position = np.array([item.position for item in shown], dtype=np.int32)
    return Feedback(
        queries=list(queries),
        items=[text for _, text in items],
        item_ids=[name for name, _ in items],
        split=split,
        ids=[event.id for event in events],
        users=[event.user for event in events],
        time=np.array([event.time for event in events], dtype=np.float64),
        model=[event.model for event in events],
        position=position,
        weight=pair_weights(split, position, options),
        cursor=cursor,
        seen=reader.seen,
        counts=counts,
        broken=reader.broken,
    )
