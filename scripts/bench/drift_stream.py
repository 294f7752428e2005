"""Streams of events in the order of time, as a log would have them: MovieLens, Amazon games, and an abrupt change.

An event is a list shown to a user: what was liked (or bought) next, and unseen items drawn by the popularity they had
until then. Its query is the user's profile and the titles liked last before it. Everything is of the past of the event,
but one: items that the user takes later are not shown as unseen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rankdistill.data import movielens
from rankdistill.data.event_table import LIKED, LOVED
from rankdistill.data.events import POPULARITY_POWER, Events
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch
from rankdistill.online.events.labelled_lists import Shown

OLD_USERS = 5  # one user in so many is of the old test set, and takes no part in anything else
UNCOUNTED = 1000  # first events, which only tell what is popular


@dataclass(frozen=True)
class Plan:
    """How a stream is cut, in events.

    Attributes:
        keep: share of the likes that become events.
        shown: items in a list.
        titles: liked titles in a query.
        old: events until the first student is made.
        dev: events after them that hyperparameters may be chosen on.
        most: events after the old ones, at most.
        seed: of every draw.
    """

    keep: float
    shown: int
    titles: int
    old: int
    dev: int
    most: int
    seed: int = 0


@dataclass(frozen=True)
class Stream:
    """A stream and what came before it.

    Attributes:
        old: lists that the first student is made of.
        test: lists of the same time and of other users, which tell forgetting.
        lists: of the stream, in time.
        change: how many of the stream's lists come before the abrupt change; None without one.
    """

    old: Sequence[Shown]
    test: Sequence[Shown]
    lists: Sequence[Shown]
    change: int | None


def read_movielens() -> Events:
    """Return MovieLens-100K in the order of time over all users."""
    return _in_time(movielens.read(*movielens.locate(None), Mismatch(movielens.NAME, MOST_LEFT_OUT)))


def read_games(folder: Path) -> Events:
    """Return Amazon games with the users interleaved: everyone's first purchase, everyone's second, ...

    The source has no clock, only the position within a user's history.

    Args:
        folder: with corpus.jsonl and ratings.tsv (user, item, rating, position); items without a text are left out.
    """
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    titles = [f"{row['title']} {row['text']}".strip() for row in rows]
    item_of = {row["_id"]: number for number, row in enumerate(rows)}
    table = [line.rstrip("\n").split("\t") for line in (folder / "ratings.tsv").open(encoding="utf-8")][1:]
    table = [row for row in table if row[1] in item_of]
    users: dict[str, int] = {}
    user = np.array([users.setdefault(row[0], len(users)) for row in table], dtype=np.int32)
    place = np.random.default_rng(0).permutation(len(users))  # of a user in every round
    time = np.array([float(row[3]) for row in table]) + place[user] / len(users)
    item = np.array([item_of[row[1]] for row in table], dtype=np.int32)
    liked = np.full(len(table), LIKED)
    names = list(users)
    return _in_time(Events(user, item, liked, time, names, [""] * len(names), list(item_of), titles, titles))


def swapped(events: Events, genres: tuple[str, str], begin: float) -> Events:
    """Return the events with two genres' popularity swapped from a time on.

    From then on who took the most popular film of one genre takes the most popular of the other, and so on down to the
    least of the smaller genre. Films of both genres stay.

    Args:
        events: in the order of time.
        genres: two words of the items' texts.
        begin: time of the first event that is changed.
    """
    before = np.bincount(events.item[events.time < begin], minlength=len(events.item_ids))
    has = [np.array([genre in text.split() for text in events.texts]) for genre in genres]
    ranked = [np.flatnonzero(own & ~other) for own, other in (has, has[::-1])]
    ranked = [rows[np.argsort(-before[rows], kind="stable")] for rows in ranked]
    count = min(map(len, ranked))
    other = np.arange(len(events.item_ids))
    other[ranked[0][:count]], other[ranked[1][:count]] = ranked[1][:count], ranked[0][:count]
    return replace(events, item=np.where(events.time < begin, events.item, other[events.item]).astype(np.int32))


def stream_of(events: Events, plan: Plan, change: tuple[tuple[str, str], int] | None = None) -> Stream:
    """Return the stream of events in time, with an abrupt change or without.

    Args:
        events: in the order of time.
        plan: how they are cut.
        change: genres that are swapped, and after how many lists of the stream.
    """
    rest, apart = _likes(events, plan)
    begin = events.time[rest[plan.old]]  # of the stream
    test = apart[events.time[apart] < begin]
    rows = np.r_[rest[: plan.old + plan.most], test]
    lists = _shown(events, plan, rows)
    if change is not None:  # what comes before is the same to the last draw
        when = float(events.time[rest[plan.old + change[1]]])
        lists |= _shown(swapped(events, change[0], when), plan, rows[events.time[rows] >= when])
        change = change[0], int(np.sum(events.time[rest[plan.old :]] < when))
    return Stream(
        old=[lists[row] for row in rest[: plan.old].tolist()],
        test=[lists[row] for row in test.tolist()],
        lists=[lists[row] for row in rest[plan.old : plan.old + plan.most].tolist()],
        change=None if change is None else change[1],
    )


def _in_time(events: Events) -> Events:
    order = np.argsort(events.time, kind="stable")
    columns = {name: getattr(events, name)[order] for name in ("user", "item", "rating", "time")}
    return replace(events, **columns)


def _likes(events: Events, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return which events become lists, of the users of the stream and of those of the old test set.

    They are a share of those that like something, with a like of the user before them; of the old test set's users,
    who are few, twice the share.
    """
    likes = np.flatnonzero(events.rating >= LIKED)
    _, first = np.unique(events.user[likes], return_index=True)
    likes = np.delete(likes, first)
    likes = likes[likes >= UNCOUNTED]
    count = len(events.user_ids)
    apart = np.random.default_rng(plan.seed).permutation(count)[: count // OLD_USERS]
    draw, old = np.random.default_rng(plan.seed + 1).random(len(likes)), np.isin(events.user[likes], apart)
    return likes[~old & (draw < plan.keep)], likes[old & (draw < 2 * plan.keep)]


def _shown(events: Events, plan: Plan, rows: np.ndarray) -> dict[int, Shown]:
    """Return the lists of these events, by row; goes through all events once to know their past."""
    wanted, last = set(rows.tolist()), int(rows.max(initial=0))
    taken: dict[int, set[int]] = {}
    for user, item in zip(events.user.tolist(), events.item.tolist(), strict=True):
        taken.setdefault(user, set()).add(item)
    liked: dict[int, list[int]] = {}
    popularity = np.zeros(len(events.item_ids))
    found = {}
    for row in range(last + 1):
        user, item, rating = int(events.user[row]), int(events.item[row]), float(events.rating[row])
        if row in wanted:
            weights = popularity**POPULARITY_POWER
            weights[list(taken[user])] = 0.0
            found[row] = _list(events, plan, row, liked.get(user, []), weights)
        popularity[item] += 1
        if rating >= LIKED:
            liked.setdefault(user, []).append(item)
    return found


def _list(events: Events, plan: Plan, row: int, liked: Sequence[int], weights: np.ndarray) -> Shown:
    rng = np.random.default_rng([plan.seed, row])
    own = int(events.item[row])
    unseen = rng.choice(len(weights), size=plan.shown - 1, replace=False, p=weights / weights.sum())
    items = rng.permutation(np.r_[own, unseen]).tolist()
    grade = 2 if events.rating[row] >= LOVED else 1
    user = int(events.user[row])
    titles = "; ".join(events.titles[item] for item in liked[::-1][: plan.titles])
    query = ". ".join(part for part in (events.profiles[user], f"liked: {titles}") if part)
    grades = tuple(grade if item == own else 0 for item in items)
    texts = tuple(events.texts[item] for item in items)
    name = f"{row}"
    return Shown(name, float(events.time[row]), events.user_ids[user], query, texts, grades, (1.0,) * len(items))
