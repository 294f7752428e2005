"""Lists of events on their way to a model: cut by time, tokenised, kept; old ones drawn and joined to them."""

from __future__ import annotations

import numpy as np
import pytest

from rankdistill.data import beir as beir_data
from rankdistill.data.records import UNKNOWN, RankingData
from rankdistill.data.tokens import PairTokens, TokenTable, write
from rankdistill.errors import StoreError
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import read_feedback
from rankdistill.online.events.labelled_lists import cut_newest, lists_of, load, save, tokenise, told
from rankdistill.online.replay import Old, calibration, joined, rows_of
from rankdistill.options.update import Events
from tests.event_rows import append, make_events
from tests.update_parts import random_lists, shown


@pytest.fixture(scope="module")
def pair_encoder(encoder):
    return PairEncoder.load(encoder, 24)


@pytest.fixture(scope="module")
def old(beir, pair_encoder, tmp_path_factory):
    """What a run would know of the generated set, with a teacher whose score of a pair is its row."""
    folder = tmp_path_factory.mktemp("old")
    data, tokens = folder / "data", folder / "tokens"
    data.mkdir()
    tokens.mkdir()
    beir_data.prepare(beir, data, name="things", relevant=1, candidates=50, dev_fraction=0.1, seed=0)
    records = RankingData.open(data)
    write(records, pair_encoder, tokens)
    table = TokenTable.open(tokens)
    train, test = (PairTokens(records.splits[name], table, pair_encoder) for name in ("train", "test"))
    teacher = np.arange(len(train), dtype=np.float32)
    return Old(data, data, train, teacher, test, np.zeros(len(test), np.float32), 1, "things")


def inputs(pairs, rows=None):
    batch = pairs.batch(np.arange(len(pairs)) if rows is None else rows)
    return [ids[mask > 0].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def test_events_come_through_a_log_as_they_were(tmp_path):
    events = make_events(5)
    events[2]["items"][1].pop("outcome")
    feedback = read_feedback(append(tmp_path / "log", events), None, Events(), Catalogue())
    found = lists_of(feedback)
    grades = {"skip": 0, "click": 1, "purchase": 2, None: UNKNOWN}
    assert [each.id for each in found] == [f"e{number}" for number in range(5)]
    for event, each in zip(events, found, strict=True):
        assert (each.user, each.query, each.time) == (event["user"], event["query"]["text"], event["time"])
        assert each.items == tuple(item["text"] for item in event["items"])
        assert each.grades == tuple(grades[item.get("outcome")] for item in event["items"])


def test_a_list_tells_only_if_its_outcomes_differ():
    assert shown("a", 0, 1).tells
    assert not shown("a", 1, 1).tells
    assert not shown("a", 1, UNKNOWN).tells
    assert not shown("a", UNKNOWN, UNKNOWN).tells


@pytest.mark.parametrize(
    ("count", "share", "newest"), [(30, 0.1, 3), (10, 0.25, 3), (7, 0.0, 0), (5, 1.0, 5), (1, 0.2, 1)]
)
def test_the_newest_by_time_are_held_back(count, share, newest):
    lists = [shown(str(number), 0, 1, at=(number * 7) % count) for number in range(count)]
    older, held = cut_newest(lists, share)
    assert len(held) == newest
    times = [each.time for each in [*older, *held]]
    assert times == sorted(times)
    assert {each.id for each in [*older, *held]} == {each.id for each in lists}


def test_tokens_are_those_of_the_texts(pair_encoder):
    lists = random_lists(6)
    tokens = tokenise(lists, pair_encoder, str.upper)
    texts = [(each.query, item.upper()) for each in lists for item in each.items]
    queries, items = zip(*texts, strict=True)
    wanted = pair_encoder.batch(pair_encoder.ids(list(queries)), pair_encoder.ids(list(items)))
    alone = [row[mask > 0].tolist() for row, mask in zip(wanted["input_ids"], wanted["attention_mask"], strict=True)]
    assert inputs(tokens.pairs) == alone
    assert tokens.pairs.split.grade.tolist() == [grade for each in lists for grade in each.grades]


def test_told_leaves_out_what_nobody_told(pair_encoder):
    lists = [shown("a", 1, UNKNOWN, 0), shown("b", UNKNOWN, UNKNOWN), shown("c", 2, 0)]
    split, kept = told(tokenise(lists, pair_encoder, str).pairs.split)
    assert split.offsets.tolist() == [0, 2, 2, 4]
    assert split.grade.tolist() == [1, 0, 2, 0]
    assert kept.tolist() == [0, 2, 5, 6]


def test_what_is_saved_comes_back_and_the_same_gives_the_same_bytes(tmp_path):
    lists = [
        *random_lists(3),
        shown("中文 \ud800", 1, UNKNOWN, items=["一台灯\nline", 'quote " \u2028']),
        shown("empty"),
    ]
    save(lists, tmp_path / "a")
    save(lists, tmp_path / "b")
    assert load(tmp_path / "a") == lists
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save([], tmp_path / "none")
    assert load(tmp_path / "none") == []


def test_a_torn_file_is_told(tmp_path):
    save(random_lists(3), tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:40])
    with pytest.raises(StoreError, match=r"a cannot be read .* roll back"):
        load(tmp_path / "a")
    with pytest.raises(StoreError, match="cannot be read"):
        load(tmp_path / "missing")


def test_old_lists_are_drawn_whole_with_their_teachers_scores(old):
    pairs, scores = old.sample(4, np.random.default_rng(0))
    assert len(pairs.split.query) == 4
    assert (pairs.split.grade == UNKNOWN).all()
    assert inputs(pairs) == inputs(old.train, scores.astype(np.int64))  # a score of this teacher is a pair's row
    starts = set(old.train.split.offsets.tolist())
    assert {int(scores[start]) for start in pairs.split.offsets[:-1]} <= starts
    lengths = np.diff(old.train.split.offsets)
    assert np.diff(pairs.split.offsets).tolist() == [lengths[0]] * 4  # each judged as often in this set


def test_a_draw_is_without_replacement_and_of_all_there_are(old):
    pairs, scores = old.sample(10**6, np.random.default_rng(0))
    assert scores.tolist() == list(range(len(old.train)))
    assert inputs(pairs) == inputs(old.train)
    drawn = [tuple(old.sample(3, np.random.default_rng(seed))[1].tolist()) for seed in range(20)]
    assert len(set(drawn)) > 5
    assert drawn[0] == tuple(old.sample(3, np.random.default_rng(0))[1].tolist())


def test_long_old_lists_are_cut_to_candidates_drawn_at_random(old):
    split = old.train.split
    pairs, scores = old.sample(5, np.random.default_rng(0), most=4)
    assert np.diff(pairs.split.offsets).tolist() == [4] * 5
    rows = scores.astype(np.int64)
    assert inputs(pairs) == inputs(old.train, rows)
    lists = np.searchsorted(split.offsets, rows, side="right") - 1
    assert (lists.reshape(5, 4) == lists[::4, None]).all()
    assert len(set(rows.tolist())) == 20
    firsts = {int(old.sample(1, np.random.default_rng(seed), most=1)[1][0] % 12) for seed in range(40)}
    assert len(firsts) > 6  # not always the same place of a list
    whole, as_they_are = (old.sample(3, np.random.default_rng(2), most=most)[1].tolist() for most in (12, None))
    assert whole == as_they_are


def test_joined_parts_read_as_they_did_apart(old, pair_encoder):
    parts = [
        tokenise(random_lists(3), pair_encoder, str).pairs,
        old.sample(2, np.random.default_rng(1))[0],
        tokenise([shown("x", 1, 0), shown("y", 2)], pair_encoder, str).pairs,
    ]
    whole = joined(parts)
    assert inputs(whole) == [row for part in parts for row in inputs(part)]
    assert whole.split.grade.tolist() == [grade for part in parts for grade in part.split.grade.tolist()]
    sizes = [size for part in parts for size in np.diff(part.split.offsets).tolist()]
    assert np.diff(whole.split.offsets).tolist() == sizes
    assert inputs(joined(parts[:1])) == inputs(parts[0])


def test_rows_of_lists_in_their_order(old):
    offsets = old.train.split.offsets
    wanted = [*range(offsets[3], offsets[4]), *range(offsets[1], offsets[2])]
    assert rows_of(old.train.split, np.array([3, 1])).tolist() == wanted
    assert rows_of(old.train.split, np.zeros(0, np.int64)).tolist() == []


def test_calibration_draws_pairs_one_at_a_time(old):
    feeds = calibration(old.train, 5, np.random.default_rng(0))
    assert [feed["input_ids"].shape[0] for feed in feeds] == [1] * 5
    every = inputs(old.train)
    assert all(feed["input_ids"][0].tolist() in every for feed in feeds)
    assert len(calibration(old.train, 10**6, np.random.default_rng(0))) == len(old.train)
