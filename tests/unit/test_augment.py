"""Unlabelled pairs: where they come from, that none is known already, and what becomes of hard negatives."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data import tokens, unlabelled_pairs
from rankdistill.data.beir import prepare
from rankdistill.data.records import UNKNOWN, RankingData, Split
from rankdistill.data.scored_pairs import Lessons, join, label_hard_negatives
from rankdistill.data.tokens import PairTokens, TokenTable
from rankdistill.errors import ConfigError
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.options import Draw
from tests.composing import composed
from tests.conftest import write_beir

WIDTH = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory, beir):
    folder = tmp_path_factory.mktemp("data")
    prepare(beir, folder, name="things", relevant=1, candidates=10, dev_fraction=0.1, seed=0)
    return RankingData.open(folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory, data, encoder):
    folder = tmp_path_factory.mktemp("tokens")
    tokens.write(data, PairEncoder.load(encoder, 24), folder)
    return TokenTable.open(folder)


def unit(rows, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, data, encoder):
    folder = tmp_path_factory.mktemp("drawn")
    counts = Draw(bm25=3, embedding=4, random=5, item_queries=6, crossed_queries=7)
    vectors = unit(len(data.queries), 1), unit(len(data.items), 2)
    embed = lambda texts: unit(len(texts), 3)  # noqa: E731
    unlabelled_pairs.write(data, counts, PairEncoder.load(encoder, 24), vectors, embed, folder)
    return folder, vectors


def test_no_pair_is_known_or_drawn_twice(data, drawn):
    judged = {(q, i) for q, i in zip(data.splits["train"].pair_query(), data.splits["train"].item, strict=True)}
    split = Split.open(drawn[0] / unlabelled_pairs.PAIRS)
    found = list(zip(split.pair_query(), split.item, strict=True))
    assert len(found) == len(set(found)) > 0
    assert not judged & set(found)
    assert (split.grade == UNKNOWN).all()


def test_dev_and_test_queries_get_none(data, drawn):
    rows = set(Split.open(drawn[0] / unlabelled_pairs.PAIRS).query.tolist())
    assert set(data.splits["train"].query.tolist()) < rows
    held_out = {*data.splits["dev"].query.tolist(), *data.splits["test"].query.tolist()}
    assert not rows & held_out


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_no_made_query_reads_like_one_that_is_judged(data, encoder, split):
    own = data.queries.texts(data.splits[split].query)
    made = [own[0], f"  {own[1].upper()} ", f"{own[0]} {own[1]}"]
    assert unlabelled_pairs.new_queries(made, data, PairEncoder.load(encoder, 24)) == made[2:]


def test_items_that_begin_like_a_test_query_make_no_query(tmp_path, encoder):
    write_beir(tmp_path / "beir")
    lines = (tmp_path / "beir" / "queries.jsonl").read_text().splitlines()
    text = json.loads(lines[3])["text"]  # of the test split
    corpus = tmp_path / "beir" / "corpus.jsonl"
    rows = [json.loads(line) | {"text": f"{text} {number}"} for number, line in enumerate(corpus.open())]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "beir", tmp_path, name="things", relevant=1, candidates=10, dev_fraction=0.1, seed=0)
    records = RankingData.open(tmp_path)
    counts, encoder = Draw(random=2, item_queries=20), PairEncoder.load(encoder, 24)
    assert unlabelled_pairs.make_queries(records, counts, np.random.default_rng(counts.seed)) == [text]
    (tmp_path / "out").mkdir()
    unlabelled_pairs.write(records, counts, encoder, None, lambda texts: unit(len(texts), 3), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["made_queries"] == 0


def test_counts_are_what_was_asked_for(data, drawn):
    summary = json.loads((drawn[0] / "summary.json").read_text())
    queries = summary["queries"] + summary["made_queries"]
    assert summary["made_queries"] == len(unlabelled_pairs.read_vectors(drawn[0])) > 7
    assert summary["pairs"]["embedding"] == 4 * queries
    assert summary["pairs"]["random"] == 5 * queries
    assert 0 < summary["pairs"]["bm25"] <= 3 * queries


def test_embedding_neighbours_are_the_nearest_left(data, drawn):
    folder, (queries, items) = drawn
    split = Split.open(folder / unlabelled_pairs.PAIRS)
    known = {q: set() for q in split.query.tolist()}
    train = data.splits["train"]
    for q, i in zip(train.pair_query(), train.item, strict=True):
        known[q].add(i)
    for number, row in enumerate(train.query):
        own = split.item[split.offsets[number] : split.offsets[number + 1]].tolist()
        order = [i for i in np.argsort(-(items @ queries[row]), kind="stable").tolist() if i not in known[row]]
        text = data.queries.texts([row])[0]
        lexical = own[: len(own) - 4 - 5]
        assert all(set(text.split()) & set(data.items.texts([i])[0].split()) for i in lexical)
        assert own[len(lexical) : -5] == [i for i in order if i not in lexical][:4]


def test_made_queries_have_their_tokens(data, drawn, table, encoder):
    pairs = unlabelled_pairs.open_pairs(drawn[0], table, PairEncoder.load(encoder, 24))
    from rankdistill.data.records import TextTable

    texts = TextTable.open(drawn[0] / unlabelled_pairs.QUERIES).texts()
    row = len(data.queries) + 2
    expected = PairEncoder.load(encoder, 24).ids([texts[2]])[0]
    assert pairs.table.queries[row].tolist() == expected.tolist()
    assert pairs.table.queries[0].tolist() == table.queries[0].tolist()


def test_made_queries_are_of_the_datas_words_and_lengths(data):
    counts = Draw(item_queries=10, crossed_queries=10)
    made = unlabelled_pairs.make_queries(data, counts, np.random.default_rng(0))
    own = [text.split() for text in data.queries.texts(data.splits["train"].query)]
    starts = {text[: len(query)] for text in data.items.texts() for query in made if text.startswith(query)}
    crossed = [query for query in made if query not in starts]
    assert len(starts) > 0
    assert len(crossed) > 0
    halves = [(w[: (len(w) + 1) // 2], w[(len(w) + 1) // 2 :]) for w in own]
    for query in crossed:
        words = query.split()
        assert any(words[: len(one)] == one and words[len(one) :] == two for one, _ in halves for _, two in halves)
    assert made == unlabelled_pairs.make_queries(data, counts, np.random.default_rng(0))


def test_a_few_items_that_are_nearly_all_that_is_shown_leave_room_for_others():
    shown = np.cumsum([0.2] * 5 + [1e-6] * 500)
    neighbours = unlabelled_pairs.Neighbours(None, None, shown / shown[-1], Draw(random=20))
    drawn = [neighbours.draw("", None, np.zeros(0, np.int32), np.random.default_rng(n))["random"] for n in range(20)]
    assert all(len(set(rows.tolist())) == 20 and set(range(5)) < set(rows.tolist()) for rows in drawn)


def texts_of(queries, items):
    """Return a data set of nothing but these texts, all queries in train."""
    rows = np.arange(len(queries), dtype=np.int32)
    split = Split(rows, np.arange(len(rows) + 1), np.zeros(len(rows), np.int32), np.ones(len(rows), np.int32))
    return SimpleNamespace(queries=Texts(queries), items=Texts(items), splits={"train": split})


class Texts(list):
    def texts(self, rows):
        return [self[row] for row in rows]


def test_a_character_of_chinese_is_a_word_of_a_made_query():
    data = texts_of(["红色的台灯", "usb 充电线"], ["黑色手机壳现代简约风格", "LED 台灯,暖光"])
    made = unlabelled_pairs.make_queries(data, Draw(item_queries=2, crossed_queries=60), np.random.default_rng(0))
    # as many words as one of the queries: five, or four
    assert set(made[:2]) <= {"黑色手机壳", "黑色手机", "LED 台灯,暖", "LED 台灯,"}
    halves = ["红色的", "台灯"], ["usb 充", "电线"]
    crossed = {f"{one} {other}" for one, _ in halves for _, other in halves}
    assert set(made[2:]) == crossed


WRITTEN = st.text(st.sampled_from("ab 红灯カ,-\n"), max_size=20)


@settings(max_examples=200, deadline=None)
@given(WRITTEN, st.integers(0, 9), st.integers(0, 9))
def test_parts_of_a_text_are_its_words_in_its_spelling(text, start, stop):
    words = unlabelled_pairs._Words.of(text)
    whole = " ".join(text.split())
    assert words.part(0, len(words)) == whole
    assert len(words) == sum(len(re.findall("[红灯カ]|[^红灯カ]+", word)) for word in text.split())
    part = words.part(start, stop)
    assert part in whole
    assert len(unlabelled_pairs._Words.of(part)) == len(range(len(words))[start:stop])


@st.composite
def two_splits(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))

    def split(queries):
        sizes = rng.integers(1, 5, len(queries))
        count = int(sizes.sum())
        offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
        items = rng.permutation(100)[:count].astype(np.int32)
        return Split(np.array(queries, dtype=np.int32), offsets, items, rng.integers(0, 3, count).astype(np.int32))

    own = rng.permutation(12)[: draw(st.integers(1, 6))].tolist()
    other = rng.permutation(12)[: draw(st.integers(1, 6))].tolist()
    return split(own), split(other)


@settings(max_examples=100, deadline=None)
@given(two_splits())
def test_joined_lists_are_the_lists_of_both(pair):
    one, other = pair
    joined, order = join(one, other)
    expected: dict[int, list] = {}
    for split in pair:
        for q, i, g in zip(split.pair_query().tolist(), split.item.tolist(), split.grade.tolist(), strict=True):
            expected.setdefault(q, []).append((i, g))
    assert joined.query.tolist() == list(expected)
    found = list(zip(joined.pair_query().tolist(), joined.item.tolist(), joined.grade.tolist(), strict=True))
    assert found == [(q, i, g) for q, rows in expected.items() for i, g in rows]
    assert np.concatenate([one.item, other.item])[order].tolist() == joined.item.tolist()


def lists(rows):
    """Return a split of [(query, [(item, grade)...])]."""
    sizes = [len(pairs) for _, pairs in rows]
    flat = [pair for _, pairs in rows for pair in pairs]
    columns = (np.array([query for query, _ in rows]), np.r_[0, np.cumsum(sizes)], *np.array(flat).T)
    query, offsets, item, grade = columns
    return Split(query.astype(np.int32), offsets.astype(np.int64), item.astype(np.int32), grade.astype(np.int32))


def test_hard_negatives_stay_a_margin_below_the_least_relevant():
    judged = lists([(0, [(1, 2), (2, 0), (3, 1)]), (1, [(1, 1)])])
    drawn = lists([(0, [(n, -1) for n in range(10, 16)]), (7, [(20, -1)])])
    judged_scores = np.array([9.0, 8.9, 5.0, 4.0], dtype=np.float32)
    drawn_scores = np.array([8.0, 4.5, 3.0, 2.9, -1.0, 2.0, 0.0], dtype=np.float32)
    grades = label_hard_negatives(judged, judged_scores, drawn, drawn_scores, 1, count=2, margin=2.0)
    assert grades.tolist() == [-1, -1, 0, 0, -1, -1, -1]  # at most 5 - 2; made queries have no positive
    none = label_hard_negatives(judged, judged_scores, drawn, drawn_scores, 1, count=0, margin=2.0)
    assert set(none.tolist()) == {-1}


def test_lessons_keep_each_pairs_score(data, drawn, table, encoder):
    pair_encoder = PairEncoder.load(encoder, 24)
    judged = PairTokens(data.splits["train"], table, pair_encoder)
    more = unlabelled_pairs.open_pairs(drawn[0], table, pair_encoder)
    value = lambda pairs: (pairs.query * 1000.0 + pairs.split.item).astype(np.float32)  # noqa: E731
    both = Lessons(judged, value(judged), "logit").with_drawn(
        Lessons(more, value(more), "logit"), 1, hard_negatives=1, margin=0.0
    )
    assert len(both.pairs) == len(judged) + len(more)
    assert (both.scores == value(both.pairs)).all()
    assert (both.pairs.split.grade == 0).sum() > (judged.split.grade == 0).sum()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["augment=neighbours", "augment.bm25=-1"], "augment.bm25=-1"),
        (["augment=neighbours", "augment.bm25=0", "augment.embedding=0", "augment.random=0"], "at least one must draw"),
        (["augment=neighbours", "loss=labels"], "augment.hard_negatives=0"),
        (
            ["augment=neighbours", "augment.hard_negatives=5", "loss=kl"],
            "augment.hard_negatives=5: allowed is 0 without",
        ),
        (["augment=neighbours", "augment.margin=5"], "augment.margin=5.0: allowed is 2 with augment.hard_negatives=0"),
        (["rivals=/no/where.json"], "rivals=/no/where.json: no file of a search's curves"),
        (["augment=neighbours", "teacher=cross_encoder"], "augment.embedding=20"),
        (["warm=similarity", "teacher=cross_encoder"], "warm=similarity"),
        (["warm=similarity", "warm.scale=0"], "warm.scale=0"),
        (["warm=similarity", "warm.pairs.random=-2"], "warm.pairs.random=-2"),
        (["warm=similarity", "warm.fit.epochs=0"], "warm.fit.epochs=0"),
    ],
)
def test_wrong_options_are_refused_by_name(wrong, told):
    with pytest.raises(ConfigError) as refused:
        composed(*wrong)
    assert told in str(refused.value)


@pytest.mark.parametrize("recipe", ["histories", "passages", "product_search"])
def test_a_recipe_can_do_without_its_warm_up_and_its_drawn_pairs(recipe):
    asked = ["data=beir", "data.path=.", f"experiment={recipe}"]
    whole, bare = composed(*asked), composed(*asked, "warm=none", "augment=none")
    assert (whole.warm.kind, whole.augment.kind) == ("similarity", "drawn")
    assert (bare.warm.kind, bare.augment.kind) == ("none", "none")
    assert whole.student == bare.student


def test_a_warm_up_on_histories_makes_no_query_of_an_item():
    histories, others = composed("warm=histories").warm, composed("warm=similarity").warm
    assert histories.pairs == replace(others.pairs, item_queries=0)
    assert histories.fit == replace(others.fit, max_pairs=14_000, evaluations=1)


def test_scores_of_another_scale_are_refused(data, table, encoder):
    judged = PairTokens(data.splits["train"], table, PairEncoder.load(encoder, 24))
    scores = np.zeros(len(judged), dtype=np.float32)
    with pytest.raises(ConfigError, match="probability"):
        Lessons(judged, scores, "logit").with_drawn(
            Lessons(judged, scores, "probability"), 1, hard_negatives=0, margin=0
        )
