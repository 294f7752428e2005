"""The log of events: what was appended is read, once, in order, by any readers and writers, over torn lines."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankdistill.export.errors import UserError
from rankdistill.export.runtime import event_log
from rankdistill.export.runtime.event_log import Cursor, EventLog, read_lines, unread_bytes

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)


def ids(path, after=None):
    return [json.loads(line)["id"] for _, line in read_lines(path, after)]


def numbered(start, stop):
    return [{"id": number} for number in range(start, stop)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(OBJECTS, max_size=4), max_size=5), segment_bytes=st.integers(1, 60))
def test_what_is_appended_is_read_in_order_from_every_cursor(tmp_path_factory, batches, segment_bytes):
    folder = tmp_path_factory.mktemp("log")
    log, wanted, ends = EventLog(folder, segment_bytes), [], []
    for batch in batches:
        end = log.append(batch)
        wanted += batch
        ends.append((end, len(wanted)))
    read = list(read_lines(folder))
    assert [json.loads(line) for _, line in read] == wanted
    cursors = [cursor for cursor, _ in read]
    assert cursors == sorted(set(cursors))
    for number, cursor in enumerate(cursors, start=1):
        assert list(read_lines(folder, cursor)) == read[number:]
    for end, number in ends:  # what append returns is the cursor after its last event
        assert list(read_lines(folder, end)) == read[number:]


def test_segments_are_begun_when_the_last_is_full(tmp_path):
    log = EventLog(tmp_path, segment_bytes=100)
    for number in range(30):
        log.append([{"id": number}])
    names = [path.name for path in event_log.segments(tmp_path)]
    assert len(names) == 3  # 11 or 12 events of 9 or 10 bytes each
    assert all(path.stat().st_size < 110 for path in event_log.segments(tmp_path))
    assert ids(tmp_path) == list(range(30))


@pytest.mark.parametrize("torn", [b'{"id":', b'{"id":"\xe4', b"\x00\x00\x00", b'{"id": 99}'])
@pytest.mark.parametrize("segment_bytes", [1, 1000])
def test_a_torn_last_line_is_closed_off_and_never_glued_to_the_next(tmp_path, torn, segment_bytes):
    log = EventLog(tmp_path, segment_bytes)
    end = log.append(numbered(0, 2))
    with (tmp_path / end.segment).open("ab") as file:
        file.write(torn)
    assert ids(tmp_path) == [0, 1]  # nobody can say yet that the line will not go on
    assert unread_bytes(tmp_path, end) == len(torn)
    log.append(numbered(2, 4))
    lines = [line for _, line in read_lines(tmp_path)]
    assert lines == [b'{"id":0}', b'{"id":1}', torn, b'{"id":2}', b'{"id":3}']
    assert [line for _, line in read_lines(tmp_path, end)] == lines[2:]
    log.append(numbered(4, 5))
    assert [line for _, line in read_lines(tmp_path)] == [*lines, b'{"id":4}']


def test_a_line_that_grows_is_read_once_it_is_complete(tmp_path):
    path = tmp_path / "events.jsonl"
    content = b'{"id":0}\n{"id":1}\n'
    read, cursor = [], None
    with path.open("ab", buffering=0) as file:
        for byte in content:
            file.write(bytes([byte]))
            for after, line in list(read_lines(path, cursor)):
                read.append(line)
                cursor = after
    assert read == content.splitlines()
    assert cursor == Cursor("events.jsonl", len(content))
    assert unread_bytes(path, cursor) == 0


def test_the_last_line_of_a_segment_that_others_left_without_an_end_counts_once_the_next_is_there(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"id":0}\r\n{"id":1}')
    assert ids(tmp_path) == [0]
    cursor = next(read_lines(tmp_path))[0]
    (tmp_path / "b.jsonl").write_bytes(b'{"id":2}\n')
    assert ids(tmp_path) == [0, 1, 2]
    assert ids(tmp_path, cursor) == [1, 2]
    assert ids(tmp_path, list(read_lines(tmp_path))[1][0]) == [2]


def append_many(folder, writer, count):
    log = EventLog(folder, segment_bytes=2000)
    for number in range(count):
        log.append([{"id": [writer, number, part], "pad": "x" * (number % 50)} for part in range(3)])


def test_writers_in_processes_and_threads_and_a_reader_meanwhile(tmp_path):
    processes = [multiprocessing.get_context("spawn").Process(target=append_many, args=(tmp_path, n, 40)) for n in "ab"]
    threads = [threading.Thread(target=append_many, args=(tmp_path, n, 40)) for n in "cd"]
    for worker in (*processes, *threads):
        worker.start()
    read, cursor = [], None
    while any(worker.is_alive() for worker in (*processes, *threads)):
        for after, line in read_lines(tmp_path, cursor):
            read.append(json.loads(line)["id"])
            cursor = after
    for worker in (*processes, *threads):
        worker.join()
    read += ids(tmp_path, cursor)
    assert [process.exitcode for process in processes] == [0, 0]
    assert read == ids(tmp_path)
    for writer in "abcd":  # each once, in its writer's order
        assert [each[1:] for each in read if each[0] == writer] == [[n, p] for n in range(40) for p in range(3)]
    assert len(event_log.segments(tmp_path)) > 5


def test_segments_that_were_read_may_be_deleted_and_their_names_never_come_again(tmp_path):
    log = EventLog(tmp_path, segment_bytes=1)
    for number in range(3):
        end = log.append([{"id": number}])
    for path in event_log.segments(tmp_path):
        path.unlink()
    assert ids(tmp_path, end) == []
    log.append([{"id": 3}])
    assert ids(tmp_path, end) == [3]


def test_a_clock_that_goes_back_does_not_put_a_segment_before_the_last(tmp_path, monkeypatch):
    log = EventLog(tmp_path, segment_bytes=1)
    end = log.append(numbered(0, 1))
    monkeypatch.setattr(event_log.time, "time_ns", lambda: 1)
    log.append(numbered(1, 2))
    assert ids(tmp_path, end) == [1]


@pytest.mark.parametrize(
    "event", [{"id": float("nan")}, {"id": float("inf")}, {"id": object()}, {"id": "\ud800"}, {"id": "x" * 2**20}]
)
def test_an_event_that_no_line_can_hold_is_refused_with_its_whole_batch(tmp_path, event):
    log = EventLog(tmp_path)
    with pytest.raises(UserError, match="event 2 "):
        log.append([{"id": 0}, event])
    assert list(read_lines(tmp_path)) == []


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "LONGEST", 10)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 95 + b"\n" + b'{"id":1}\n' + b"y" * 10 + b"\n")
    lines = list(read_lines(path))
    assert [line for _, line in lines] == [b"x" * 10, b'{"id":1}', b"y" * 10]
    assert [cursor.offset for cursor, _ in lines] == [96, 105, 116]


def test_what_fails_on_the_way_to_the_disk_is_not_acknowledged_and_nothing_is_cut_off(tmp_path, monkeypatch):
    log = EventLog(tmp_path)
    log.append(numbered(0, 1))
    real = os.fsync

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(event_log.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        log.append(numbered(1, 2))
    cursor = list(read_lines(tmp_path))[-1][0]  # a reader that was quick
    monkeypatch.setattr(event_log.os, "fsync", real)
    log.append(numbered(1, 3))
    assert ids(tmp_path, cursor) == [1, 2]


def test_every_append_is_on_the_disk_before_it_is_acknowledged(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def note(descriptor):
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))
        real(descriptor)

    monkeypatch.setattr(event_log.os, "fsync", note)
    end = EventLog(tmp_path).append(numbered(0, 3))
    assert [path for path, _ in synced] == [str(tmp_path), str(tmp_path / end.segment)]
    assert synced[-1][1] == end.offset


@pytest.mark.parametrize("offset", [1, 8, 10, 1000])
def test_a_cursor_of_another_log_is_refused(tmp_path, offset):
    log = EventLog(tmp_path)
    end = log.append(numbered(0, 2))
    with pytest.raises(UserError, match="none of this log's"):
        list(read_lines(tmp_path, Cursor(end.segment, offset)))
    with pytest.raises(UserError, match="another file"):
        list(read_lines(tmp_path / end.segment, Cursor("x.jsonl", 0)))


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such event log"):
        list(read_lines(tmp_path / "nothing"))
    (tmp_path / "part-1.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"part-1\.jsonl is no segment"):
        EventLog(tmp_path)


@given(st.builds(Cursor, st.text(), st.integers(0)))
def test_a_cursor_comes_back_from_json(cursor):
    assert Cursor.from_dict(json.loads(json.dumps(cursor.as_dict()))) == cursor


@pytest.mark.parametrize("values", [None, [], {}, {"segment": "a"}, {"segment": "a", "offset": -1},
                                    {"segment": "a", "offset": True}, {"segment": 1, "offset": 1}])  # fmt: skip
def test_what_is_no_cursor_is_refused(values):
    with pytest.raises(UserError, match="no cursor"):
        Cursor.from_dict(values)
