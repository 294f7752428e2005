"""Graded lists of events: labels as outcomes tell them, each event once, broken ones set aside."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rankdistill.data.records import UNKNOWN
from rankdistill.errors import DataError
from rankdistill.export.errors import UserError
from rankdistill.export.runtime.event_log import Cursor, EventLog
from rankdistill.online.events import feedback as feedback_module
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import BROKEN, read_feedback
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.events.source import identity, read_rows
from rankdistill.options.ranges import broken_rules
from rankdistill.options.update import Events

CATALOGUE = Catalogue(items={"i1": "red lamp", "i2": "blue lamp"}, queries={"q1": "a lamp"})


def item(name, outcome=None, **more):
    return {"id": name, "text": f"text of {name}", "outcome": outcome, **more}


def event(name, at=100.0, items=None, **more):
    shown = [item("a", "click"), item("b", "skip")] if items is None else items
    return {"id": name, "time": at, "query": {"text": "lamp"}, "items": shown, **more}


def write(path, events):
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in events]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read(tmp_path, events, options=None, **more):
    return read_feedback(
        write(tmp_path / "events.jsonl", events), None, options or Events(), more.pop("catalogue", CATALOGUE), **more
    )


def test_an_event_becomes_a_list(tmp_path):
    found = read(
        tmp_path,
        [
            event(
                "e1", 5.5, [item("a", "click", position=2), item("b", None), {"id": "i1", "outcome": "purchase"}],
                user="u", model="m",
            ),
            event("e2", 6, [item("b", {"rating": 4.5})], query={"id": "q1"}),
        ],
    )  # fmt: skip
    assert found.queries == ["lamp", "a lamp"]
    assert found.items == ["text of a", "text of b", "red lamp"]
    assert found.item_ids == ["a", "b", "i1"]
    assert found.split.query.tolist() == [0, 1]
    assert found.split.offsets.tolist() == [0, 3, 4]
    assert found.split.item.tolist() == [0, 1, 2, 1]
    assert found.split.grade.tolist() == [1, UNKNOWN, 2, 1]
    assert found.position.tolist() == [2, 0, 0, 0]
    assert found.weight.tolist() == [1, 1, 1, 1]
    assert (found.ids, found.users, found.model) == (["e1", "e2"], ["u", ""], ["m", ""])
    assert found.time.tolist() == [5.5, 6]
    assert dataclasses.asdict(found.counts) == {
        "read": 2, "used": 2, "duplicates": 0, "late": 0, "broken": 0, "unknown_items": 0, "unread_bytes": 0,
    }  # fmt: skip
    dtypes = [each.dtype for each in (found.split.query, found.split.offsets, found.split.item, found.split.grade)]
    assert dtypes == [np.int32, np.int64, np.int32, np.int32]
    assert (found.position.dtype, found.weight.dtype, found.time.dtype) == (np.int32, np.float32, np.float64)


@pytest.mark.parametrize(
    ("outcome", "grade"),
    [("click", 1), ("purchase", 2), ("skip", 0), (None, UNKNOWN), ({"rating": 5}, 2), ({"rating": 4}, 1),
     ({"rating": 3.99}, 0), ({"rating": -1}, 0), ({"rating": 1e300}, 2)],
)  # fmt: skip
def test_grades_by_default(tmp_path, outcome, grade):
    found = read(tmp_path, [event("e", items=[item("a", outcome)])])
    assert found.split.grade.tolist() == [grade]


def test_grades_by_option(tmp_path):
    options = Events(grades={"click": 0, "like": 3}, ratings=[0.5])
    found = read(
        tmp_path, [event("e", items=[item("a", "like"), item("b", {"rating": 1}), item("c", "click")])], options
    )
    assert found.split.grade.tolist() == [3, 1, 0]
    assert read(tmp_path, [event("e", items=[item("a", "purchase")])], options).counts.broken == 1


BROKEN_EVENTS = {
    "no JSON": b'{"id": ',
    "no JSON: NaN": json.dumps(event("x", math.nan)).encode(),
    "no JSON: Infinity": json.dumps(event("x", items=[item("a", {"rating": math.inf})])).encode(),
    "no JSON: 'utf-8'": b'{"id": "\xff"}',
    "a list, not an object": b"[1]",
    "no JSON: Expecting value": b"",
    "time None is no number": {**event("x"), "time": None},
    "time True is no number": event("x", True),
    "time '1' is no number": event("x", "1"),
    "time is not finite": json.dumps(event("x")).replace("100.0", "1" + "0" * 400).encode(),
    "rating is not finite": json.dumps(event("x", items=[item("a", {"rating": 7})])).replace("7", "1e999").encode(),
    "time -1.0 is before 1970": event("x", -1),
    "in the future": event("x", time.time() + 100_000),
    "in the future ": event("x", 1e12),  # milliseconds
    "id None is no text": {**event("x"), "id": None},
    "id '' is no text": event(""),
    "id 7 is no text": event(7),
    "user 7 is no text": event("x", user=7),
    "model [] is no text": event("x", model=[]),
    "query is no object": {**event("x"), "query": "lamp"},
    "query '' has no text": {**event("x"), "query": {}},
    "query 'q9' has no text": {**event("x"), "query": {"id": "q9"}},
    "at least one item": event("x", items=[]),
    "items is no list": {**event("x"), "items": {"id": "a"}},
    "an item is no object": event("x", items=["a"]),
    "an item's id None": event("x", items=[{"text": "t"}]),
    "item 'i9' has no text": event("x", items=[item("a", "click"), {"id": "i9"}]),
    "item 'i8' has no text": event("x", items=[{"id": "i8", "text": " "}]),
    "item text 7 is no text": event("x", items=[{"id": "a", "text": 7}]),
    "position 0 is no whole": event("x", items=[item("a", position=0)]),
    "position 1.0 is no whole": event("x", items=[item("a", position=1.0)]),
    "position True is no whole": event("x", items=[item("a", position=True)]),
    "position 2147483648": event("x", items=[item("a", position=2**31)]),
    "twice": event("x", items=[item("a"), item("a")]),
    "outcome 'share' is none of click, purchase, skip": event("x", items=[item("a", "share")]),
    "outcome 1 is none": event("x", items=[item("a", 1)]),
    "outcome {} is none": event("x", items=[item("a", {})]),
    "outcome ['click'] is none": event("x", items=[item("a", ["click"])]),
    "rating '5' is no number": event("x", items=[item("a", {"rating": "5"})]),
    "rating True is no number": event("x", items=[item("a", {"rating": True})]),
    "both outcome and rating": event("x", items=[item("a", "click", rating=5)]),
    "half a surrogate": event("x", items=[{"id": "a", "text": "\ud800"}]),
}


@pytest.mark.parametrize("reason", BROKEN_EVENTS)
def test_a_broken_event_is_set_aside_with_its_reason_and_the_rest_is_used(tmp_path, reason):
    broken = BROKEN_EVENTS[reason]
    found = read(tmp_path, [event("e1"), broken, event("e2")])
    assert found.ids == ["e1", "e2"]
    assert found.counts.broken == 1
    assert found.counts.unknown_items == (1 if "has no text" in reason else 0)
    found.save_broken(tmp_path)
    (line,) = (tmp_path / BROKEN).read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert reason.strip() in told["reason"]
    before = Cursor("events.jsonl", len(json.dumps(event("e1"))) + 1)
    again = read_feedback(tmp_path / "events.jsonl", before, Events(), CATALOGUE, most=1)  # the place is the cursor
    assert again.cursor == Cursor(told["segment"], told["offset"])
    assert again.counts.broken == 1


def test_what_is_set_aside_is_bounded_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback_module, "MOST_BROKEN", 3)
    found = read(tmp_path, [b"x" * 50_000] * 5)
    assert (len(found.broken), found.counts.broken) == (3, 5)
    assert max(len(each.text) + len(each.reason) for each in found.broken) < 2_500


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.binary(max_size=40)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                st.sampled_from("id time user query items text position outcome rating model".split()), inner),
        ).map(lambda value: json.dumps(value).encode()),
        max_size=5,
    )
)  # fmt: skip
def test_no_line_is_fatal(tmp_path, lines):
    lines = [line.replace(b"\n", b"") for line in lines]
    found = read(tmp_path, [*lines, event("good")])
    assert found.ids[-1] == "good"
    assert found.counts.read == len(lines) + 1
    assert found.counts.used + found.counts.broken + found.counts.duplicates == found.counts.read


def test_an_event_counts_once_and_its_first_line_stands(tmp_path):
    events = [event("e1"), event("e1", items=[item("c", "purchase")]), event("e2"), event("e1")]
    found = read(tmp_path, events)
    assert found.ids == ["e1", "e2"]
    assert found.items == ["text of a", "text of b"]
    assert found.counts.duplicates == 2


def test_a_broken_event_may_be_sent_again_mended(tmp_path):
    found = read(tmp_path, [event("e1", items=[]), event("e1")])
    assert (found.ids, found.counts.duplicates, found.counts.broken) == (["e1"], 0, 1)


@pytest.mark.parametrize("late", ["drop", "keep"])
def test_late_events(tmp_path, late):
    events = [event("old", 0), event("new", 100), event("late", 49.9), event("not", 50), event("then", 90)]
    found = read(tmp_path, events, Events(max_age_s=50, late=late))
    assert found.counts.late == 1
    assert found.ids == ["old", "new", *(["late"] if late == "keep" else []), "not", "then"]
    assert read(tmp_path, events, Events(max_age_s=None)).counts.late == 0


def reference(events, options):
    """The events that are used, by the words of the issue, with all ids remembered."""
    used, ids, newest = [], set(), -math.inf
    for each in events:
        if isinstance(each, bytes) or each["id"] in ids:
            continue
        ids.add(each["id"])
        late = newest - each["time"] > options.max_age_s
        newest = max(newest, each["time"])
        if not late or options.late == "keep":
            used.append(each["id"])
    return used


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.builds(lambda name, at: event(f"e{name}", at), st.integers(0, 8), st.integers(0, 40)) | st.just(b"broken"),
        max_size=20,
    ),
    cuts=st.lists(st.integers(1, 6), max_size=12),
    late=st.sampled_from(["drop", "keep"]),
    form=st.sampled_from(["file", "log"]),
)
def test_a_log_read_in_any_parts_gives_what_it_gives_at_once(tmp_path_factory, events, cuts, late, form):
    folder, memory = tmp_path_factory.mktemp("log"), tmp_path_factory.mktemp("memory") / "seen.json"
    options = Events(max_age_s=20, late=late)
    path = folder / "a.jsonl"
    write(path, events)
    if form == "log":
        for number, start in enumerate(range(0, len(events), 3)):
            write(folder / f"b{number:02}.jsonl", events[start : start + 3])
        path.unlink()
        path = folder
    whole = read_feedback(path, None, options, CATALOGUE)
    assert whole.ids == reference(events, options)
    ids, counts, cursor, seen = [], [], None, None
    for most in [*cuts, None]:
        part = read_feedback(path, cursor, options, CATALOGUE, seen=seen, most=most)
        part.seen.save(memory)
        cursor, seen = part.cursor, SeenEvents.load(memory)
        ids += part.ids
        counts.append(part.counts)
    assert ids == whole.ids
    assert cursor == whole.cursor
    for name in ("read", "used", "duplicates", "late", "broken"):
        assert sum(getattr(each, name) for each in counts) == getattr(whole.counts, name)


def test_the_memory_of_ids_is_bounded_and_not_changed_by_reading(tmp_path):
    options = Events(remembered=2)
    first = read(tmp_path, [event("e1"), event("e2"), event("e3")], options)
    assert len(first.seen) == 2
    again = read(tmp_path, [event("e2"), event("e1")], options, seen=first.seen)
    assert (again.ids, again.counts.duplicates) == (["e1"], 1)
    assert len(first.seen) == 2
    once_more = read(tmp_path, [event("e2"), event("e1")], options, seen=first.seen)  # a refused update reads again
    assert once_more.ids == again.ids
    smaller = read(tmp_path, [event("e2"), event("e3")], Events(remembered=1), seen=first.seen)
    assert smaller.ids == ["e2", "e3"]  # e3 alone was remembered, until e2 came


@pytest.mark.parametrize("content", [None, "", "[]", '{"ids": "!", "capacity": 1, "newest": 1}',
                                     '{"ids": "AAAA", "capacity": 1, "newest": 1}', '{"ids": ""}'])  # fmt: skip
def test_a_broken_memory_is_refused(tmp_path, content):
    path = tmp_path / "seen.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"seen\.json: no memory"):
        SeenEvents.load(path)


def test_a_last_line_without_an_end_is_told(tmp_path):
    path = write(tmp_path / "events.jsonl", [event("e1")])
    with path.open("ab") as file:
        file.write(json.dumps(event("e2")).encode())
    found = read_feedback(path, None, Events(), CATALOGUE)
    assert found.ids == ["e1"]
    assert found.counts.unread_bytes == len(json.dumps(event("e2")))


def many(tmp_path, times):
    rng = np.random.default_rng(0)
    events = [
        event(
            f"e{number}", at, [item(f"i{n}", "click", position=n + 1) for n in range(rng.integers(1, 5))],
            user=f"u{number}", model=f"m{number}",
        )
        for number, at in enumerate(times)
    ]  # fmt: skip
    return read(tmp_path, events, Events(max_age_s=None, propensity="power"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.integers(0, 5), max_size=12), share=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.99, 1.0]))
def test_before_and_after_split_by_time(tmp_path, times, share):
    found = many(tmp_path, times)
    before, after = found.before(share), found.after(share)
    assert len(after) == math.ceil(len(times) * share - 1e-9)
    assert sorted(before.ids + after.ids) == sorted(found.ids)
    by_time = sorted(range(len(times)), key=lambda row: (times[row], row))
    assert after.ids == [f"e{row}" for row in sorted(by_time[len(before) :])]


def test_taken_lists_are_those_of_the_whole(tmp_path):
    found = many(tmp_path, range(6))
    rows = np.array([4, 1])
    taken = found.take(rows)
    assert (taken.ids, taken.users, taken.model) == (["e4", "e1"], ["u4", "u1"], ["m4", "m1"])
    assert taken.time.tolist() == [4, 1]
    offsets = found.split.offsets
    for place, row in enumerate(rows):
        ours = slice(taken.split.offsets[place], taken.split.offsets[place + 1])
        theirs = slice(offsets[row], offsets[row + 1])
        for mine, whole in ((taken.split.item, found.split.item), (taken.split.grade, found.split.grade),
                            (taken.position, found.position), (taken.weight, found.weight)):  # fmt: skip
            assert mine[ours].tolist() == whole[theirs].tolist()
    assert len(taken.split.item) == len(taken.weight) == taken.split.offsets[-1]
    assert len(found.take(np.zeros(0, dtype=np.int64))) == 0


def as_table(events):
    rows = [
        {
            **each,
            "items": [
                {"position": None, **shown, "outcome": shown["outcome"] if isinstance(shown["outcome"], str) else None,
                 "rating": shown["outcome"]["rating"] if isinstance(shown["outcome"], dict) else None}
                for shown in each["items"]
            ],
        }
        for each in events
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def lists_of(found):
    lists = found.split.offsets
    return [
        (found.ids[row], found.time[row], found.queries[found.split.query[row]],
         [found.items[at] for at in found.split.item[lists[row] : lists[row + 1]]],
         found.split.grade[lists[row] : lists[row + 1]].tolist())
        for row in range(len(found))
    ]  # fmt: skip


EVENTS = [
    event(f"e{number}", 100.0 + number, [item("a", "click"), item("b", {"rating": number % 6}), item(f"c{number}")])
    for number in range(20)
]


def saved_forms(tmp_path):
    import datasets

    table = as_table(EVENTS)
    one, folder, hub, disk = (tmp_path / name for name in ("one.parquet", "segments", "hub", "disk"))
    parquet.write_table(table, one, row_group_size=3)
    folder.mkdir()
    parquet.write_table(table.slice(0, 9), folder / "a.parquet", row_group_size=4)
    parquet.write_table(table.slice(9), folder / "b.parquet")
    (hub / "data").mkdir(parents=True)
    parquet.write_table(table, hub / "data" / "train-00000-of-00001.parquet")
    (hub / "README.md").write_text("---\nlicense: mit\n---\n")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(table.to_pylist()).save_to_disk(disk)
    log = tmp_path / "log"
    EventLog(log, segment_bytes=500).append(EVENTS[:11])
    EventLog(log, segment_bytes=500).append(EVENTS[11:])
    return [one, folder, hub, disk, log]


def test_a_source_that_changes_while_its_time_and_size_stay_is_another(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    told = []
    for tag in ("old", "new"):
        with (folder / "train.json").open("r+" if told else "w") as file:
            file.writelines(json.dumps(event(f"{tag}{number}")) + "\n" for number in range(3))
        os.utime(folder / "train.json", (1_600_000_000, 1_600_000_000))
        told.append((identity(folder), [row["id"] for _, row in read_rows(folder, None, "train")]))
    assert [ids for _, ids in told] == [["old0", "old1", "old2"], ["new0", "new1", "new2"]]
    assert told[0][0] != told[1][0]
    assert identity(folder) == told[1][0]


def test_every_source_gives_the_same_lists_at_once_and_in_parts(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    wanted = lists_of(read(tmp_path, EVENTS))
    assert len(wanted) == 20
    for source in saved_forms(tmp_path):
        found = read_feedback(source, None, Events(), CATALOGUE)
        assert lists_of(found) == wanted, source
        assert found.counts.unread_bytes == 0
        parts, cursor = [], None
        for most in (1, 6, 2, 5, None):
            part = read_feedback(source, cursor, Events(), CATALOGUE, most=most)
            parts, cursor = parts + lists_of(part), Cursor.from_dict(part.cursor.as_dict())
        assert parts == wanted, source
        assert read_feedback(source, cursor, Events(), CATALOGUE).cursor == cursor


def test_times_of_tables_may_be_timestamps(tmp_path):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    table = as_table([{**EVENTS[0], "time": moment}])
    for name, unit in (("zone", pa.timestamp("us", "Europe/Berlin")), ("none", pa.timestamp("ms"))):
        column = table.column("time").cast(pa.timestamp("us", "UTC")).cast(unit)
        parquet.write_table(table.set_column(1, "time", column), tmp_path / f"{name}.parquet")
        found = read_feedback(tmp_path / f"{name}.parquet", None, Events(), CATALOGUE)
        assert found.time.tolist() == [moment.timestamp()]


def test_a_broken_row_of_a_table_is_set_aside(tmp_path):
    table = as_table([*EVENTS[:3], event("bad", items=[item("a", {"rating": math.nan})])])
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_feedback(tmp_path / "t.parquet", None, Events(), CATALOGUE)
    assert (len(found), found.counts.broken) == (3, 1)
    assert found.broken[0].reason == "rating is not finite"
    assert "'bad'" in found.broken[0].text


@pytest.mark.parametrize("name", ["torn.parquet", "events.csv", "nothing", "both"])
def test_what_is_no_source_is_refused(tmp_path, name):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 half")
    (tmp_path / "events.csv").write_text("id\n")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.parquet").touch()
    (tmp_path / "both" / "a.jsonl").touch()
    with pytest.raises(DataError, match=name):
        read_feedback(tmp_path / name, None, Events(), CATALOGUE)


def test_a_log_that_nobody_has_written_to_has_no_events(tmp_path):
    EventLog(tmp_path / "log")
    found = read_feedback(tmp_path / "log", None, Events(propensity="estimated"), CATALOGUE)
    assert (len(found), found.cursor, found.split.pairs) == (0, None, 0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("grades", {}), ("grades", {"click": -1}), ("grades", {"click": 31}), ("ratings", [5.0, 4.0]),
     ("ratings", [math.nan]), ("ratings", [4.0, 4.0]), ("max_age_s", -1.0), ("max_age_s", math.nan), ("late", "maybe"),
     ("remembered", 0), ("propensity", "yes"), ("eta", -0.5), ("max_weight", 0.5), ("split", "")],
)  # fmt: skip
def test_an_option_out_of_its_range_is_told(option, value):
    (line,) = broken_rules(Events(**{option: value}), "feedback.")
    assert line.startswith(f"feedback.{option}={value}: allowed is ")
    assert list(broken_rules(Events(), "feedback.")) == []


def test_texts_come_from_a_data_set_or_its_files(tmp_path, beir):
    from rankdistill.data.beir import prepare
    from rankdistill.data.records import RankingData

    out = tmp_path / "out"
    out.mkdir()
    prepare(beir, out, name="things", relevant=1, candidates=10, dev_fraction=0.1, seed=0)
    prepared, files = Catalogue.of(RankingData.open(out)), Catalogue.read(beir)
    assert prepared.items == files.items
    assert prepared.queries.items() <= files.queries.items()
    assert len(prepared.queries) > 10
    named = event("e", items=[{"id": "i3", "outcome": "click"}], query={"id": next(iter(prepared.queries))})
    found = read(tmp_path, [named], catalogue=prepared)
    assert found.items == [files.items["i3"]]
    with pytest.raises(DataError, match=r"no items\.jsonl"):
        Catalogue.read(out)
