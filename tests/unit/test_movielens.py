"""Events to candidate lists: the cut in time, grades, negatives, splits; both forms of MovieLens-100K."""

from __future__ import annotations

import numpy as np
import pytest

from rankdistill.data import events, movielens
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch
from rankdistill.data.records import SPLITS, RankingData
from rankdistill.errors import DataError

MISMATCH = Mismatch("log", MOST_LEFT_OUT)
SLATE = events.Slate(
    history=0.5, liked_titles=2, max_positives=3, max_disliked=2, candidates=8, dev_users=2, test_users=2, seed=0
)


def make_events(users: int = 12, items: int = 40, each: int = 12, seed: int = 0) -> events.Events:
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)]).astype(np.int32)
    user = np.repeat(np.arange(users), each).astype(np.int32)
    rating = rng.integers(1, 6, len(user)).astype(float)
    time = rng.integers(0, 4, len(user)).astype(float)  # many events share a time
    order = rng.permutation(len(user))
    return events.Events(
        user[order], item[order], rating[order], time[order],
        [f"u{n}" for n in range(users)], [f"person {n}" for n in range(users)],
        [f"i{n}" for n in range(items)], [f"title {n}" for n in range(items)],
        [f"title {n} genre" for n in range(items)],
    )  # fmt: skip


def prepared(tmp_path, log, slate=SLATE) -> RankingData:
    events.prepare(log, tmp_path, slate, name="log", notes={})
    return RankingData.open(tmp_path)


def by_user(log, user):
    """A user's events in time, by a sort written out: time, then place in the file."""
    rows = [row for row in range(len(log.user)) if log.user[row] == user]
    return sorted(rows, key=lambda row: (log.time[row], row))


def test_candidates_come_after_the_history_and_have_the_ratings_grades(tmp_path):
    log = make_events()
    data = prepared(tmp_path, log)
    ids = data.queries.ids()
    for split in SPLITS:
        lists = data.splits[split]
        for number, row in enumerate(lists.query):
            user = log.user_ids.index(ids[row])
            rows = by_user(log, user)
            history, later = rows[: len(rows) // 2], rows[len(rows) // 2 :]
            rating = {int(log.item[r]): log.rating[r] for r in later}
            seen = {int(log.item[r]) for r in history}
            span = slice(lists.offsets[number], lists.offsets[number + 1])
            items, grades = lists.item[span].tolist(), lists.grade[span].tolist()
            assert len(set(items)) == len(items) <= SLATE.candidates
            assert not seen & set(items)
            for item, grade in zip(items, grades, strict=True):
                value = rating.get(item, 0)
                assert grade == (2 if value == 5 else 1 if value == 4 else 0)
            assert 1 <= sum(grade > 0 for grade in grades) <= SLATE.max_positives
            assert (
                sum(item in rating for item, grade in zip(items, grades, strict=True) if not grade)
                <= SLATE.max_disliked
            )


def test_query_names_the_newest_liked_titles_first(tmp_path):
    log = make_events()
    data = prepared(tmp_path, log)
    texts = dict(zip(data.queries.ids(), data.queries.texts(), strict=True))
    for user_id, text in texts.items():
        user = log.user_ids.index(user_id)
        rows = by_user(log, user)
        liked = [f"title {log.item[r]}" for r in rows[: len(rows) // 2][::-1] if log.rating[r] >= 4][:2]
        assert text == f"person {user}" + (f". liked: {'; '.join(liked)}" if liked else "")


def test_popularity_counts_histories_alone(tmp_path):
    log = make_events()
    data = prepared(tmp_path, log)
    expected = np.zeros(len(log.item_ids), dtype=int)
    for user_id in data.queries.ids():
        rows = by_user(log, log.user_ids.index(user_id))
        for row in rows[: len(rows) // 2]:
            expected[log.item[row]] += 1
    np.testing.assert_array_equal(data.items.column("popularity"), expected)


def test_splits_are_disjoint_fixed_and_change_with_the_seed(tmp_path):
    log = make_events(users=20)
    users = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        slate = events.Slate(**{**SLATE.__dict__, "seed": seed})
        data = prepared(tmp_path / name, log, slate)
        ids = data.queries.ids()
        users.append({split: {ids[row] for row in data.splits[split].query} for split in SPLITS})
    assert users[0] == users[1] != users[2]
    assert len(users[0]["dev"]) == len(users[0]["test"]) == 2
    assert not users[0]["train"] & users[0]["dev"]
    assert not users[0]["train"] & users[0]["test"]


def test_order_of_candidates_does_not_give_the_grade_away(tmp_path):
    data = prepared(tmp_path, make_events(users=200, items=90, each=30))
    lists = data.splits["train"]
    places = [
        (lists.grade[s:e] > 0).argmax() / (e - s) for s, e in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    ]
    assert 0.1 < np.mean(places) < 0.5  # the first of one to three relevant ones among eight, drawn evenly


def test_too_few_users_is_told(tmp_path):
    with pytest.raises(DataError, match=r"data\.dev_users \+ data\.test_users = 4"):
        prepared(tmp_path, make_events(users=3))


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEMS = [
    ("1", "Toy Story", "1995", "Animation Comedy"),
    ("2", "Heat", "1995", "Crime"),
    ("3", "unknown", "", "unknown"),
]
USERS = [("1", "24", "M", "technician"), ("2", "53", "F", "other")]
RATINGS = [("1", "1", "5", "10"), ("1", "2", "3", "11"), ("2", "3", "4", "9")]


def write_wheel_form(folder):
    (folder / "ml-100k.inter").write_text(INTER + "".join("\t".join(r) + "\n" for r in RATINGS))
    rows = "".join("\t".join(item) + "\n" for item in ITEMS)
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + rows
    )
    rows = "".join("\t".join([*user, "00000"]) + "\n" for user in USERS)
    (folder / "ml-100k.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n" + rows
    )


def write_official_form(folder):
    (folder / "u.data").write_text("".join("\t".join(r) + "\n" for r in RATINGS))
    lines = []
    for item, title, year, genres in ITEMS:
        flags = ["1" if genre in genres.split() else "0" for genre in movielens.GENRES]
        lines.append("|".join([item, f"{title} ({year})" if year else title, "01-Jan-1995", "", "http://x", *flags]))
    (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
    (folder / "u.user").write_text("".join("|".join([*user, "00000"]) + "\n" for user in USERS))


def test_both_forms_of_movielens_read_alike(tmp_path):
    read = []
    for name, write in (("wheel", write_wheel_form), ("official", write_official_form)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        read.append(movielens.read(*movielens.locate(str(tmp_path / name)), MISMATCH))
    one, other = read
    assert one.texts == other.texts == ["Toy Story (1995) Animation Comedy", "Heat (1995) Crime", "unknown unknown"]
    assert one.profiles == other.profiles == ["24 year old male technician", "53 year old female other"]
    for column in ("user", "item", "rating", "time"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("u.data", "1\t1\tgood\t10\n", r"u\.data:1: rating 'good' is no number"),
        ("u.data", "1\t1\tnan\t10\n", r"u\.data:1: rating 'nan' is no number"),
        ("u.data", "1\t1\t5\t10\n1\t77\t5\t10\n", r"u\.data:2: unknown item '77'"),
        ("u.data", "9\t1\t5\t10\n", r"u\.data:1: unknown user '9'"),
        ("u.data", "1 1 5 10\n", r"u\.data:1: 1 columns; 4"),
        ("u.item", "1|Toy Story\n", r"u\.item:1: 2 columns"),
        ("u.user", "1|24\n", r"u\.user:1: 2 columns"),
    ],
)
def test_broken_movielens_names_file_and_line(tmp_path, file, text, message):
    write_official_form(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        movielens.read(*movielens.locate(str(tmp_path)), MISMATCH)


def test_a_folder_without_ratings_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"u\.data.*ml-100k\.inter"):
        movielens.locate(str(tmp_path))


def test_another_file_in_the_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKDISTILL_CACHE", str(tmp_path))
    (tmp_path / "ml-100k").mkdir()
    write_wheel_form(tmp_path / "ml-100k")
    with pytest.raises(DataError, match="sha256 differs"):
        movielens.locate(None)


def test_events_folder_reads_users_items_and_repeats(tmp_path):
    (tmp_path / "items.jsonl").write_text(
        '{"_id": "a", "title": "Lamp", "text": "bright"}\n{"_id": "b", "text": "Car"}\n'
    )
    (tmp_path / "users.jsonl").write_text('{"_id": "u", "text": "likes light"}\n')
    (tmp_path / "events.tsv").write_text("user\titem\trating\ttimestamp\nu\ta\t5\t1\nv\tb\t4\t2\n")
    log = events.read(tmp_path, MISMATCH)
    assert (log.texts, log.titles, log.profiles) == (["Lamp bright", "Car"], ["Lamp", "Car"], ["likes light", ""])
    (tmp_path / "users.jsonl").unlink()
    (tmp_path / "events.tsv").write_text("user1\ta\t5\t1\nuser2\tb\t4\t2\n")
    assert events.read(tmp_path, MISMATCH).user_ids == ["user1", "user2"]
    (tmp_path / "events.tsv").write_text("u\tz\t5\t1\n")
    with pytest.raises(DataError, match=r"events\.tsv:1: item 'z' is not in items\.jsonl"):
        events.read(tmp_path, MISMATCH)
