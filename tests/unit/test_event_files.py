"""Files of events that come late, in another order, or are not what was read: noticed, named, never silently unread."""

from __future__ import annotations

import gzip
import json
import logging
import shutil

import pyarrow as pa
import pytest
from pyarrow import parquet

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.event_log import Cursor, EventLog
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import read_feedback
from rankdistill.options.update import Events


def event(number):
    items = [
        {"id": "a", "text": "x", "position": 1, "outcome": "click"},
        {"id": "b", "text": "y", "position": 2, "outcome": "skip"},
    ]
    return {"id": f"e{number}", "time": 1e9 + number, "query": {"text": f"q {number}"}, "items": items}


def write(path, *numbers):
    path.write_text("".join(json.dumps(event(number)) + "\n" for number in numbers))


def read(path, before=None):
    """Read on as an update does: the cursor has been on disk meanwhile."""
    cursor = None if before is None else Cursor.from_dict(json.loads(json.dumps(before.cursor.as_dict())))
    return read_feedback(path, cursor, Events(), Catalogue(), seen=None if before is None else before.seen)


@pytest.fixture
def parts(tmp_path):
    for number in range(1, 10):
        write(tmp_path / f"part-{number}.jsonl", number)
    return tmp_path


@pytest.mark.parametrize("name", ["part-10.jsonl", "part-00000-9ab1.jsonl", "2024-01-01.jsonl"])
def test_a_file_that_comes_before_the_one_that_was_read_is_refused_by_name(parts, name):
    before = read(parts)
    assert before.counts.used == 9
    write(parts / name, 10)
    with pytest.raises(UserError, match=rf"{name} came after part-9\.jsonl was read.*such as part-9_{name}$"):
        read(parts, before)
    (parts / name).rename(parts / f"part-9_{name}")
    assert read(parts, before).ids == ["e10"]


def test_files_with_rising_names_are_read_on(parts):
    before = read(parts)
    write(parts / "part-9a.jsonl", 10)
    write(parts / "q.jsonl", 11)
    after = read(parts, before)
    assert after.ids == ["e10", "e11"]
    assert read(parts, after).counts.read == 0


def change_grown(path):
    write(path, 3, 30)


def change_cut(path):
    path.write_text("")


def change_replaced(path):
    write(path, 4)


@pytest.mark.parametrize(
    ("change", "told"), [(change_grown, "it grew"), (change_cut, "of which"), (change_replaced, "another file")]
)
def test_a_file_that_was_read_and_changed_since_is_refused(parts, change, told):
    before = read(parts)
    change(parts / "part-3.jsonl")
    with pytest.raises(UserError, match=rf"part-3\.jsonl .*{told}"):
        read(parts, before)


def test_files_that_were_read_may_be_deleted_or_compressed(parts, caplog):
    before = read(parts)
    (parts / "part-1.jsonl").unlink()
    (parts / "part-2.jsonl.gz").write_bytes(gzip.compress((parts / "part-2.jsonl").read_bytes()))
    (parts / "part-2.jsonl").unlink()
    write(parts / "part-9a.jsonl", 10)
    after = read(parts, before)
    assert after.ids == ["e10"]
    write(parts / "part-9b.jsonl", 11)
    assert read(parts, after).ids == ["e11"]
    assert "not read" not in caplog.text


@pytest.mark.parametrize("rows", [(5,), (5, 6, 7, 8)], ids=["shorter", "longer"])
def test_a_log_that_is_rotated_is_refused(tmp_path, rows):
    path = tmp_path / "events.jsonl"
    write(path, 1, 2, 3)
    for source in (path, tmp_path):
        before = read(source)
        path.rename(tmp_path / "events.jsonl.1")
        write(path, *rows)
        with pytest.raises(UserError, match=r"events\.jsonl .*(rotated|of which)"):
            read(source, before)
        (tmp_path / "events.jsonl.1").replace(path)


def test_a_log_that_grows_is_read_on(tmp_path):
    path = tmp_path / "events.jsonl"
    write(path, *range(300))  # longer than what is looked at again
    before = read(path)
    write(path, *range(310))
    assert len(read(path, before).ids) == 10


def test_a_log_of_the_product_is_read_on_over_torn_lines_and_segments(tmp_path):
    log = EventLog(tmp_path, segment_bytes=500)
    before = None
    for number in range(12):
        end = log.append([event(number)])
        if number % 3 == 0:
            with (tmp_path / end.segment).open("ab") as file:
                file.write(b'{"torn')
        before = read(tmp_path, before)
        assert before.ids == [f"e{number}"]


def test_a_cursor_of_before_takes_what_is_there_for_read(parts):
    before = read(parts)
    old = Cursor(before.cursor.segment, before.cursor.offset)
    again = read_feedback(parts, old, Events(), Catalogue())
    assert again.counts.read == 0
    write(parts / "part-10.jsonl", 10)
    with pytest.raises(UserError, match=r"part-10\.jsonl came after"):
        read(parts, again)


def test_numbers_that_are_read_in_another_order_and_files_in_other_forms_are_told(parts, caplog):
    caplog.set_level(logging.WARNING)
    write(parts / "part-10.jsonl", 10)
    write(parts / "older.jsonl.1", 11)
    (parts / "part-11.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    (parts / ".part-12.jsonl").write_text("{")  # still being written
    (parts / "README.md").write_text("of events")
    assert len(read(parts).ids) == 10
    told = [record.getMessage() for record in caplog.records]
    assert told[0].endswith("part-10.jsonl is read before part-2.jsonl, in the order of their names; give numbers "
                            "leading zeros")  # fmt: skip
    assert [each.split()[0].rsplit("/")[-1] for each in told[1:]] == ["older.jsonl.1", "part-11.jsonl.gz"]


def table(path, *numbers):
    parquet.write_table(pa.Table.from_pylist([event(number) for number in numbers]), path)


def test_tables_that_come_late_or_are_written_anew_are_refused(tmp_path):
    for number in range(1, 4):
        table(tmp_path / f"part-{number}.parquet", number)
    before = read(tmp_path)
    assert before.counts.used == 3
    table(tmp_path / "part-4.parquet", 4)
    after = read(tmp_path, before)
    assert after.ids == ["e4"]
    table(tmp_path / "part-10.parquet", 10)
    with pytest.raises(UserError, match=r"part-10\.parquet came after part-4\.parquet"):
        read(tmp_path, after)
    (tmp_path / "part-10.parquet").unlink()
    for name in ("part-2.parquet", "part-4.parquet"):
        shutil.copy(tmp_path / name, tmp_path / "kept")
        table(tmp_path / name, 4, 5)
        with pytest.raises(UserError, match=name):
            read(tmp_path, after)
        (tmp_path / "kept").replace(tmp_path / name)
    assert read(tmp_path, after).counts.read == 0


def test_rows_that_come_before_those_that_were_read_are_refused(tmp_path, monkeypatch):
    from rankdistill.online.events import source

    rows = [event(number) for number in range(3)]
    monkeypatch.setattr(source, "_load", lambda *_: rows)
    before = read("owner/set")
    assert before.counts.used == 3
    rows.append(event(3))
    assert read("owner/set", before).ids == ["e3"]
    rows.insert(0, event(9))
    with pytest.raises(UserError, match="row 3 is not the one that was read"):
        read("owner/set", before)


@pytest.mark.parametrize("files", [[], {"a": 1}, {"a": ["x", "y"]}])
def test_a_damaged_cursor_is_told(files):
    with pytest.raises(UserError, match="cursor of an event log after byte 1 of a is damaged"):
        Cursor.from_dict({"segment": "a", "offset": 1, "files": files})
