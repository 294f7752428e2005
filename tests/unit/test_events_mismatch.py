"""What of a log of events silently did not match: marks, headers, cells, scales of ratings, times, repeats, ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data import events, movielens
from rankdistill.data.event_table import last_of_each
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch
from rankdistill.errors import DataError
from tests.unit.test_movielens import write_official_form, write_wheel_form

MISMATCH = Mismatch("log", MOST_LEFT_OUT)
HEADER = "user\titem\trating\ttimestamp"
ROWS = ["1\ta\t5\t10", "1\tb\t3\t11", "2\tb\t4\t12", "2\tc\t2\t13"]


@pytest.fixture
def folder(tmp_path) -> Path:
    items = [{"_id": each, "title": f"thing {each}", "text": "x"} for each in "abc"]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    write(tmp_path, HEADER, *ROWS)
    return tmp_path


def write(folder: Path, *rows: str, encoding: str = "utf-8") -> None:
    (folder / "events.tsv").write_text("\n".join(rows) + "\n", encoding=encoding)


def read(folder: Path, most: float = MOST_LEFT_OUT) -> events.Events:
    return events.read(folder, Mismatch("log", most))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    "header", [[], [HEADER], ["user_id\titem_id\trating\ttimestamp"], ['"User"\t"Item"\t"Rating"\t"Time"'],
               [" user \tmovie\tstars\twhen"], ["", HEADER]],
)  # fmt: skip
def test_a_first_line_is_a_header_or_an_event_never_a_new_user(folder, header, encoding):
    write(folder, *header, *ROWS, encoding=encoding)
    log = read(folder)
    assert log.user_ids == ["1", "2"]
    assert log.rating.tolist() == [5, 3, 4, 2]


@pytest.mark.parametrize(
    "header", ["item\tuser\trating\ttimestamp", "user\titem\ttimestamp\trating", "who\twhat\tstars\twhen"]
)
def test_a_header_of_other_columns_is_refused(folder, header):
    write(folder, header, *ROWS)
    with pytest.raises(DataError, match=r"events\.tsv:1: the first line is no header: user, item, rating, timestamp"):
        read(folder)


def test_marks_in_every_file_are_no_text(folder):
    (folder / "users.jsonl").write_text('{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n')
    expected = read(folder)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    log = read(folder)
    assert (log.user_ids, log.item_ids, log.profiles) == (expected.user_ids, expected.item_ids, ["one", "two"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HEADER, *ROWS, "2\ta\t4\t14\tmore"], r"events\.tsv:6: 5 columns; the first line has 4"),
        ([HEADER + "\tplace", *ROWS], r"events\.tsv:2: 4 columns; the first line has 5"),
        ([HEADER, *ROWS, "2\ta\t4"], r"events\.tsv:6: 3 columns; 4 separated by tabs are needed"),
        ([*ROWS, "2\ta\t8\t14"], r"events\.tsv:5: rating 8 is not on a scale to 5"),
        ([*ROWS, "2\ta\t-1\t14"], r"events\.tsv:5: rating -1 is not on a scale to 5"),
        (["1\ta\t1\t10", "2\tb\t1\t11"], r"events\.tsv: ratings are 1 to 1; 4 is grade 1 and 5 grade 2: nothing is"),
        ([*ROWS, "2\ta\t4\t2026-01-01"], r"events\.tsv:5: timestamp '2026-01-01' is no number"),
        ([HEADER], r"events\.tsv has no events"),
        ([*ROWS, "2\tA\t4\t14"], r"events\.tsv:5: item 'A' is not in items\.jsonl; items\.jsonl has 'a'"),
        ([*ROWS, "\ta\t4\t14"], r"events\.tsv:5: the user is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named(folder, rows, message):
    write(folder, *rows)
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize(("rare", "told"), [(1_600_000_000_000, "a smaller unit"), (1_600_000_000, "seconds")])
def test_times_of_two_units_are_refused(folder, rare, told):
    often = 1_600_000_001 if rare > 1e12 else 1_600_000_000_001
    write(folder, HEADER, f"1\ta\t5\t{often}", f"1\tb\t5\t{often + 1}", f"1\tc\t5\t{rare}")
    with pytest.raises(DataError, match=rf"events\.tsv:4: timestamp {rare} is in {told}, as 1 of 3 are"):
        read(folder)
    write(folder, HEADER, f"1\ta\t5\t{often}", f"1\tb\t5\t{often + 1}")
    assert len(read(folder).time) == 2


def test_events_that_come_again_are_counted_and_the_last_is_kept(folder, caplog):
    write(folder, HEADER, *ROWS, "1\ta\t4\t10", "1\ta\t5\t99")
    log = read(folder)
    assert log.rating[log.user == 0].tolist() == [3, 4, 5]  # that of time 10 as it is told last, that of time 99 too
    (told,) = (line for line in caplog.messages if "stand there again" in line)
    assert told.startswith("log: 1 of 6 events of events.tsv")
    assert "events.tsv:2" in told
    write(folder, HEADER, *ROWS * 3)
    with pytest.raises(DataError, match=r"8 of 12 events of events\.tsv stand there again"):
        read(folder)


def test_users_without_a_time_are_counted(folder, caplog):
    write(folder, HEADER, "1\ta\t5\t7", "1\tb\t3\t7", "2\tb\t4\t12", "2\tc\t2\t13", "3\ta\t4\t7")
    read(folder)
    (told,) = (line for line in caplog.messages if "at one time" in line)
    assert told.startswith("log: 1 of 2 users of events.tsv")
    write(folder, HEADER, "1\ta\t5\t0", "1\tb\t3\t0", "2\tb\t4\t0", "2\tc\t2\t0")
    with pytest.raises(DataError, match=r"2 of 2 users of events\.tsv have all their events at one time"):
        read(folder)
    assert len(read(folder, most=1.0).time) == 4


def test_ratings_that_are_all_equal_are_told(folder, caplog):
    write(folder, HEADER, "1\ta\t5\t7", "1\tb\t5\t8")
    read(folder)
    assert [line for line in caplog.messages if "every rating is 5; only items that a user has not seen" in line]


def test_profiles_that_meet_no_user_are_counted(folder, caplog):
    (folder / "users.jsonl").write_text('{"_id": "1", "text": "one"}\n{"_id": "02", "text": "two"}\n')
    read(folder)
    (told,) = (line for line in caplog.messages if "not in users.jsonl" in line)
    assert told.startswith("log: 1 of 2 users of events.tsv")
    assert "events.tsv:4: '2'; users.jsonl has '02'" in told
    (folder / "users.jsonl").write_text('{"_id": "01", "text": "one"}\n')
    with pytest.raises(DataError, match="2 of 2 users"):
        read(folder)


def test_items_of_one_text_are_counted(folder, caplog):
    with (folder / "items.jsonl").open("a") as file:
        file.write('\n{"_id": "d", "title": "Thing A", "text": "x"}')
    read(folder)
    assert [line for line in caplog.messages if "1 of 4 items of items.jsonl" in line and ":4: 'd' as 'a'" in line]


def test_what_matches_is_told_nothing(folder, caplog):
    read(folder)
    assert not caplog.messages


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 5), st.integers(0, 2)), min_size=1))
def test_the_last_of_each_user_item_and_time_is_kept_in_order(rows):
    user, item, rating, time = (np.array(column) for column in zip(*rows, strict=True))
    kept = last_of_each((user.astype(np.int32), item.astype(np.int32), rating.astype(float), time.astype(float)))
    last = {(u, i, t): place for place, (u, i, _, t) in enumerate(rows)}
    assert kept.tolist() == sorted(last.values())


@pytest.mark.parametrize("write_form", [write_wheel_form, write_official_form])
def test_movielens_reads_marks_and_refuses_repeated_ids(tmp_path, write_form):
    write_form(tmp_path)
    found = movielens.locate(str(tmp_path))
    expected = movielens.read(*found, MISMATCH)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path, content in contents.items():
        path.write_bytes(b"\xef\xbb\xbf" + content)
    log = movielens.read(*found, MISMATCH)
    assert (log.user_ids, log.item_ids, log.texts) == (expected.user_ids, expected.item_ids, expected.texts)
    for name in found[1][1:]:
        path = tmp_path / name
        path.write_bytes(contents[path] + contents[path].splitlines()[-1] + b"\n")
        with pytest.raises(DataError, match=rf"{name}: '\d' stands there twice"):
            movielens.read(*found, MISMATCH)
        path.write_bytes(contents[path])


def test_items_of_movielens_without_their_header_are_refused(tmp_path):
    write_wheel_form(tmp_path)
    path = tmp_path / "ml-100k.item"
    path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(DataError, match=r"ml-100k\.item:1: the first line is no header: item_id"):
        movielens.read(*movielens.locate(str(tmp_path)), MISMATCH)


def test_movielens_is_found_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ml").mkdir()
    write_official_form(tmp_path / "ml")
    assert movielens.locate("~/ml")[0] == tmp_path / "ml"
    with pytest.raises(DataError, match=r"data\.path=~nobody-here/ml: .*give the whole path"):
        movielens.locate("~nobody-here/ml")
