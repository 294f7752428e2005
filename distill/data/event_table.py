"""A log of events as a table: its header and rows, and what they must be before lists are made of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rankdistill.data.mismatch import Mismatch
from rankdistill.data.records import Int32, Int64
from rankdistill.data.text_files import column_name, is_number, lines, number
from rankdistill.errors import DataError

log = logging.getLogger(__name__)

Float64 = npt.NDArray[np.float64]
Parsed = TypeVar("Parsed")
Columns = tuple[Int32, Int32, Float64, Float64]  # of events: user, item, rating, time

LIKED = 4.0  # a rating from here on is a positive: grade 1, and from LOVED on grade 2
LOVED = 5.0
USERS = ("user", "user-id", "userid")  # first column of a header
PLACES = {"item": 1, "item-id": 1, "itemid": 1, "rating": 2, "timestamp": 3, "time": 3} | dict.fromkeys(USERS, 0)
COLUMNS = ("user", "item", "rating", "timestamp")
SECONDS = 1e8, 1e10  # unix seconds from 1973 to 2286; what is a thousand times as much is in milliseconds


def read_rows(path: Path, parse: Callable[[str, Sequence[str]], Parsed]) -> Iterator[Parsed]:
    """Yield `parse("file:line", cells)` of each line but a header; all have as many cells as the first.

    Raises:
        DataError: naming the file and line that has too few cells or others than the first, or is not text.
    """
    wanted = 0
    for place, (number_, line) in enumerate(lines(path)):
        parts = line.split("\t")
        if len(parts) < len(COLUMNS):
            raise DataError(
                f"{path}:{number_}: {len(parts)} columns; {len(COLUMNS)} separated by tabs are needed: "
                f"{', '.join(COLUMNS)}"
            )
        wanted = wanted or len(parts)
        if len(parts) != wanted:
            raise DataError(f"{path}:{number_}: {len(parts)} columns; the first line has {wanted}")
        if place == 0 and is_header(f"{path}:{number_}", parts):
            continue
        yield parse(f"{path}:{number_}", parts)


def is_header(where: str, parts: Sequence[str]) -> bool:
    """Return whether a first line names columns: neither its rating nor its time is a number.

    Raises:
        DataError: if it names others, or in another order.
    """
    if is_number(parts[2]) or is_number(parts[3]):
        return False
    names = [column_name(part) for part in parts]
    if names[0] not in USERS or any(PLACES.get(name, at) != at for at, name in enumerate(names[: len(COLUMNS)])):
        raise DataError(f"{where}: the first line is no header: {', '.join(COLUMNS)}; it has {', '.join(parts)}")
    return True


def columns_of(rows: Sequence[tuple[int, int, float, float]]) -> Columns:
    """Turn rows (user, item, rating, time) into columns."""
    users, items, ratings, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return (
        np.array(users, dtype=np.int32),
        np.array(items, dtype=np.int32),
        np.array(ratings, dtype=np.float64),
        np.array(times, dtype=np.float64),
    )


def rating_of(text: str, line: str) -> float:
    """Parse a rating on a scale of 5.

    Raises:
        DataError: naming the line, if it is none.
    """
    rating = number(text, line, "rating")
    if not 0 <= rating <= LOVED:
        raise DataError(
            f"{line}: rating {text.strip()} is not on a scale to {LOVED:g}, where {LIKED:g} is grade 1 and {LOVED:g} "
            f"grade 2; give ratings of 0 to {LOVED:g}"
        )
    return rating


def sound_columns(path: Path, columns: Columns, mismatch: Mismatch) -> Columns:
    """Return a log's events without those that repeat a user, an item and a time: the last of them is kept.

    Args:
        path: of the log, for messages.
        columns: user, item, rating, time [events].
        mismatch: tells of repeats and of users whose events all have one time.

    Raises:
        DataError: if times have two units, nobody can have liked anything, or too many events or users are unfit.
    """
    user, _, rating, time = columns
    if not len(user):
        raise DataError(f"{path} has no events")
    _check_units(path, time)
    _check_ratings(path, rating)
    kept = last_of_each(columns)
    example = event_line(path, int(np.setdiff1d(np.arange(len(user)), kept)[0])) if len(kept) < len(user) else ""
    what = f"events of {path.name} stand there again with the same user, item and time (first: {example})"
    mismatch.tell(len(user) - len(kept), len(user), what, "the last of each is kept")
    sound = (user[kept], columns[1][kept], rating[kept], time[kept])
    _tell_timeless(path, sound, mismatch)
    return sound


def event_line(path: Path, row: int) -> str:
    """Return "file:line" of a log's event, from 0."""
    return next(itertools.islice(read_rows(path, lambda line, _cells: line), row, None), str(path))


def _check_units(path: Path, time: Float64) -> None:
    """Refuse times of which some are in seconds and some in a smaller unit: their order says nothing."""
    seconds = (time >= SECONDS[0]) & (time < SECONDS[1])
    smaller = time >= SECONDS[0] * 1000
    if seconds.any() and smaller.any():
        rare = smaller if smaller.sum() <= seconds.sum() else seconds
        row = int(np.flatnonzero(rare)[0])
        unit, others = ("a smaller unit", "seconds") if rare is smaller else ("seconds", "a smaller unit")
        raise DataError(
            f"{event_line(path, row)}: timestamp {time[row]:.0f} is in {unit}, as {rare.sum()} of {len(time)} are; "
            f"others are in {others}: give one unit"
        )


def _check_ratings(path: Path, rating: Float64) -> None:
    low, high = float(rating.min()), float(rating.max())
    if high < LIKED:
        raise DataError(
            f"{path}: ratings are {low:g} to {high:g}; {LIKED:g} is grade 1 and {LOVED:g} grade 2: nothing is liked; "
            f"give ratings of 0 to {LOVED:g}"
        )
    if low == high:
        log.warning("%s: every rating is %g; only items that a user has not seen are grade 0", path, low)


def last_of_each(columns: Columns) -> Int64:
    """Return the rows of the events, in their order, whose user, item and time do not come again."""
    user, item, _, time = columns
    order = np.lexsort((np.arange(len(user)), time, item, user))
    sorted_ = [each[order] for each in (user, item, time)]
    again = np.ones(len(order) - 1, dtype=bool)
    for each in sorted_:
        again &= each[1:] == each[:-1]
    return np.sort(order[np.r_[~again, True]])


def _tell_timeless(path: Path, columns: Columns, mismatch: Mismatch) -> None:
    """Tell of users whose events all have one time, so that nothing says which came first."""
    user, _, _, time = columns
    users = int(user.max()) + 1
    first, last = np.full(users, np.inf), np.full(users, -np.inf)
    np.minimum.at(first, user, time)
    np.maximum.at(last, user, time)
    several = np.bincount(user, minlength=users) > 1
    timeless = several & (first == last)
    if timeless.any():
        row = int(np.flatnonzero(timeless[user])[0])
        what = f"users of {path.name} have all their events at one time (first: {event_line(path, row)})"
        mismatch.tell(int(timeless.sum()), int(several.sum()), what, "the order of the file stands for their past")
