"""Events (who rated what, when) to ranking records: a user's past is the query, what came next are the candidates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankdistill.data.event_table import (
    LIKED,
    LOVED,
    Columns,
    Float64,
    columns_of,
    event_line,
    rating_of,
    read_rows,
    sound_columns,
)
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch, alike, text_key
from rankdistill.data.records import Int32, Int64, RankingWriter
from rankdistill.data.text_files import number, read_objects, text_of
from rankdistill.errors import DataError

FILES = ("events.tsv", "items.jsonl", "users.jsonl")
POPULARITY_POWER = 0.75  # negatives are drawn by popularity^0.75 (Mikolov et al. 2013, section 2.2)


@dataclass(frozen=True)
class Events:
    """A log of events and the texts of those in it.

    Attributes:
        user: int32 [events], rows of user_ids.
        item: int32 [events], rows of item_ids.
        rating: float64 [events].
        time: float64 [events]; events of one time keep their order.
        user_ids: ids of users, and `profiles` a text of each (may be empty).
        item_ids: ids of items, `titles` the short text that stands for it in a user's history, `texts` what is ranked.
    """

    user: Int32
    item: Int32
    rating: Float64
    time: Float64
    user_ids: Sequence[str]
    profiles: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class Slate:
    """How candidate lists are made of events.

    Attributes:
        history: share of a user's events, in time, that makes the query; the rest is ranked.
        liked_titles: most recent liked titles in the query's text.
        max_positives: positives kept of a user's later events, drawn at random.
        max_disliked: rated but not liked items kept as grade 0, drawn at random.
        candidates: length of a list, filled up with unseen items.
        dev_users: users of the dev split; test_users: of the test split; the rest are train.
        seed: of every draw; a change gives another split.
    """

    history: float
    liked_titles: int
    max_positives: int
    max_disliked: int
    candidates: int
    dev_users: int
    test_users: int
    seed: int


@dataclass(frozen=True)
class Past:
    """One user's events: those of the query and those to rank, each in time."""

    user: int
    history: Int64
    later: Int64


def prepare(
    events: Events,
    out: Path,
    slate: Slate,
    *,
    name: str,
    notes: Mapping[str, object],
    max_left_out: float = MOST_LEFT_OUT,
) -> None:
    """Write candidate lists of every user who liked something later.

    Raises:
        DataError: if there are fewer such users than dev and test ask for, or most lists of a split rank nothing.
    """
    pasts = [p for p in _pasts(events, slate.history) if (events.rating[p.later] >= LIKED).any() and len(p.history)]
    wanted = slate.dev_users + slate.test_users
    if len(pasts) <= wanted:
        raise DataError(
            f"{name}: {len(pasts)} users liked something in the last {1 - slate.history:.0%} of their events; "
            f"data.dev_users + data.test_users = {wanted} leaves none to train on"
        )
    popularity = np.zeros(len(events.item_ids), dtype=np.int64)
    for past in pasts:
        np.add.at(popularity, events.item[past.history], 1)
    order = np.random.default_rng(slate.seed).permutation(len(pasts))
    split_of = np.full(len(pasts), "train", dtype=object)
    split_of[order[: slate.dev_users]] = "dev"
    split_of[order[slate.dev_users : wanted]] = "test"
    with RankingWriter(out, name=name, popularity=True, notes=notes, max_left_out=max_left_out) as writer:
        for row, item_id in enumerate(events.item_ids):
            title = _title_length(events.titles[row], events.texts[row])
            writer.add_item(item_id, events.texts[row], int(popularity[row]), title)
        for past, split in zip(pasts, split_of, strict=True):
            rng = np.random.default_rng([slate.seed, past.user])
            items, grades = _candidates(events, past, popularity, slate, rng)
            query = writer.add_query(events.user_ids[past.user], _query_text(events, past, slate.liked_titles))
            writer.add_candidates(split, query, items, grades)


def _title_length(title: str, text: str) -> int:
    """Return the characters of a text's first field: of its title, or of all of a text that has none before it."""
    return len(title) if title and text.startswith(title) else len(text)


def _pasts(events: Events, share: float) -> Iterator[Past]:
    """Yield each user's events in time, cut into history and later; ties in time keep the file's order.

    An item of the history that comes again later is not ranked: it is no discovery.
    """
    order = np.lexsort((np.arange(len(events.user)), events.time, events.user))
    users = events.user[order]
    bounds = np.flatnonzero(np.r_[True, users[1:] != users[:-1], True]) if len(users) else np.zeros(1, dtype=np.int64)
    for start, stop in itertools.pairwise(bounds.tolist()):
        cut = start + math.floor((stop - start) * share)
        history, later = order[start:cut], order[cut:stop]
        yield Past(int(users[start]), history, later[~np.isin(events.item[later], events.item[history])])


def _candidates(
    events: Events, past: Past, popularity: Int64, slate: Slate, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Draw a user's candidate list: items and grades, in an order that says nothing of the grade."""
    rating = dict(zip(events.item[past.later].tolist(), events.rating[past.later].tolist(), strict=True))
    liked = [item for item, value in rating.items() if value >= LIKED]
    disliked = [item for item, value in rating.items() if value < LIKED]
    positives = rng.permutation(liked)[: slate.max_positives].tolist()
    negatives = rng.permutation(disliked)[: min(slate.max_disliked, slate.candidates - len(positives))].tolist()
    weights = popularity.astype(np.float64) ** POPULARITY_POWER
    weights[events.item[past.history]] = 0.0
    weights[list(rating)] = 0.0
    room = min(slate.candidates - len(positives) - len(negatives), int(np.count_nonzero(weights)))
    if room > 0:
        negatives += rng.choice(len(weights), size=room, replace=False, p=weights / weights.sum()).tolist()
    items = rng.permutation([int(i) for i in positives + negatives]).tolist()
    grade = {item: 2 if rating[item] >= LOVED else 1 for item in positives}
    return items, [grade.get(item, 0) for item in items]


def _query_text(events: Events, past: Past, liked_titles: int) -> str:
    """Join a user's profile and the titles liked most recently, newest first."""
    liked = [row for row in past.history[::-1] if events.rating[row] >= LIKED][:liked_titles]
    titles = "; ".join(events.titles[events.item[row]] for row in liked)
    profile = events.profiles[past.user]
    return ". ".join(part for part in (profile, f"liked: {titles}" if titles else "") if part) or "new user"


def read(folder: Path, mismatch: Mismatch) -> Events:
    """Read events.tsv (user, item, rating, timestamp), items.jsonl and, if there, users.jsonl from a folder.

    A line of items.jsonl is `{"_id": ..., "title": ..., "text": ...}` (either text may be missing), of users.jsonl
    `{"_id": ..., "text": ...}`.

    Args:
        folder: with the files.
        mismatch: tells of what does not match.

    Raises:
        DataError: naming the file and line.
    """
    items = _read_texts(folder / "items.jsonl")
    titles = [title or text for title, text in items.values()]
    texts = [" ".join(part for part in pair if part) for pair in items.values()]
    users_file = folder / "users.jsonl"
    users = _read_texts(users_file) if users_file.is_file() else {}
    item_row = {item: row for row, item in enumerate(items)}
    user_row: dict[str, int] = {}
    keys = np.array([text_key(text) for text in texts], dtype=np.int64)
    mismatch.tell_copies(folder / "items.jsonl", keys, list(items))

    def row_of(line: str, columns: Sequence[str]) -> tuple[int, int, float, float]:
        user, item = columns[0].strip(), columns[1].strip()
        if item not in item_row:
            raise DataError(f"{line}: item {item!r} is not in items.jsonl{alike(item, item_row, 'items.jsonl')}")
        if not user:
            raise DataError(f"{line}: the user is empty")
        rating, time = rating_of(columns[2], line), number(columns[3], line, "timestamp")
        return user_row.setdefault(user, len(user_row)), item_row[item], rating, time

    columns = columns_of(list(read_rows(folder / "events.tsv", row_of)))
    if users:
        _tell_without_profile(folder, users, list(user_row), columns, mismatch)
    profiles = [(users.get(user) or ("", ""))[1] for user in user_row]
    sound = sound_columns(folder / "events.tsv", columns, mismatch)
    return Events(*sound, list(user_row), profiles, list(items), titles, texts)


def _tell_without_profile(
    folder: Path, users: Collection[str], found: Sequence[str], columns: Columns, mismatch: Mismatch
) -> None:
    without = [row for row, user in enumerate(found) if user not in users]
    if without:
        first = found[without[0]]
        where = event_line(folder / "events.tsv", int(np.flatnonzero(columns[0] == without[0])[0]))
        example = f"{where}: {first!r}{alike(first, users, 'users.jsonl')}"
        what = f"users of events.tsv are not in users.jsonl ({example})"
        mismatch.tell(len(without), len(found), what, "their queries have no profile")


def _read_texts(path: Path) -> dict[str, tuple[str, str]]:
    """Read a JSON Lines file of `_id`, `title`, `text` to id -> (title, text)."""
    texts: dict[str, tuple[str, str]] = {}
    for where, row in read_objects(path):
        title, text = text_of(row, "title", where), text_of(row, "text", where)
        if not title and not text:
            raise DataError(f"{where}: {row['_id']!r} has neither title nor text")
        identity = row["_id"].strip()
        if identity in texts:
            raise DataError(f"{where}: {identity!r} stands there twice")
        texts[identity] = (title, text)
    return texts
