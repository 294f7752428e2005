"""Pair encoding must equal transformers' own, for any text and any truncation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from distill.records import RankingData, RankingWriter
from distill.tokens import PairTokens, TokenTable, length_sorted, write
from export.errors import ModelError
from export.runtime.tokens import PairEncoder, kept_lengths

TEXT = st.text(max_size=60) | st.lists(st.sampled_from(["red", "car", "blue", "x9", "東京", "🙂"]), max_size=30).map(
    " ".join
)


@pytest.fixture(scope="module")
def reference(encoder) -> BertTokenizerFast:
    return BertTokenizerFast.from_pretrained(encoder)


@settings(max_examples=300, deadline=None)
@given(query=TEXT, item=TEXT, max_length=st.integers(5, 40))
def test_join_equals_transformers_longest_first(encoder, reference, query, item, max_length):
    pair = PairEncoder.load(encoder, max_length)
    ids, types = pair.join(*pair.ids([query, item]))
    expected = reference([query], [item], truncation="longest_first", max_length=max_length)
    assert ids.tolist() == expected["input_ids"][0]
    assert types.tolist() == expected["token_type_ids"][0]


def test_kept_lengths_equal_the_tokenizer_for_every_small_case(reference):
    for max_length in (5, 6, 9, 10):
        for query in range(14):
            for item in range(14):
                expected = reference(
                    ["red"] * 1 and [" ".join(["red"] * query)],
                    [" ".join(["car"] * item)],
                    truncation=True,
                    max_length=max_length,
                )["token_type_ids"][0]
                left, right = kept_lengths(query, item, max_length - 3)
                assert (int(left) + 2, int(right) + 1) == (expected.count(0), expected.count(1))


def test_batch_pads_and_masks(encoder):
    pair = PairEncoder.load(encoder, 32)
    short, long = pair.ids(["red car", "small blue boat with a lamp"])
    batch = pair.batch([short, short], [short, long])
    lengths = batch["attention_mask"].sum(axis=1)
    assert lengths.tolist() == [len(short) * 2 + 3, len(short) + len(long) + 3]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert batch["input_ids"][0, : lengths[0]].tolist() == pair.join(short, short)[0].tolist()


def test_no_room_for_text_is_refused(encoder):
    with pytest.raises(ModelError, match="max_length=4"):
        PairEncoder.load(encoder, 4)


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        PairEncoder.load(tmp_path, 16)
    (tmp_path / "tokenizer.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(ModelError, match="is no tokenizer"):
        PairEncoder.load(tmp_path, 16)


def test_token_table_gives_what_the_encoder_gives(encoder, tmp_path):
    data, tokens = tmp_path / "data", tmp_path / "tokens"
    data.mkdir()
    tokens.mkdir()
    texts = ["red car", "", "a very long text about blue boats and lamps " * 9, "東京 🙂"]
    with RankingWriter(data, name="x") as writer:
        rows = [writer.add_item(str(n), text) for n, text in enumerate(texts)]
        for split in ("train", "dev", "test"):
            writer.add_candidates(split, writer.add_query(split, "red boat"), rows, [1, 0, 0, 0])
    records, pair = RankingData.open(data), PairEncoder.load(encoder, 24)
    write(records, pair, tokens)
    pairs = PairTokens(records.splits["train"], TokenTable.open(tokens), pair)
    query, *items = pair.ids(["red boat", *texts])
    assert pairs.lengths.tolist() == [len(pair.join(query, item)[0]) for item in items]
    batch = pairs.batch(np.array([2, 0]))
    expected = pair.batch([query, query], [items[2], items[0]])
    for name, values in expected.items():
        np.testing.assert_array_equal(batch[name], values)


@given(st.lists(st.integers(1, 99), max_size=50), st.integers(1, 9))
def test_length_sorted_covers_every_row_once(lengths, size):
    batches = list(length_sorted(np.array(lengths, dtype=np.int64), size))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    flat = [lengths[row] for batch in batches for row in batch]
    assert flat == sorted(lengths, reverse=True)
