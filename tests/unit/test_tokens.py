"""Pair encoding must equal transformers' own, for any text and any truncation."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertTokenizer

from rankdistill.data.records import RankingData, RankingWriter
from rankdistill.data.tokens import PairTokens, TokenTable, length_sorted, write
from rankdistill.export.errors import ModelError
from rankdistill.export.runtime.text import tokens as tokens_
from rankdistill.export.runtime.text.tokens import PairEncoder, kept_lengths
from rankdistill.export.runtime.text.word_tokens import Words

TEXT = st.text(max_size=60) | st.lists(st.sampled_from(["red", "car", "blue", "x9", "東京", "🙂"]), max_size=30).map(
    " ".join
)


@pytest.fixture(scope="module")
def reference(encoder) -> BertTokenizer:
    return BertTokenizer.from_pretrained(encoder)


@settings(max_examples=300, deadline=None)
@given(query=TEXT, item=TEXT, max_length=st.integers(5, 40))
def test_join_equals_transformers_longest_first(encoder, reference, query, item, max_length):
    pair = PairEncoder.load(encoder, max_length)
    ids, types = pair.join(*pair.ids([query, item]))
    expected = reference([query], [item], truncation="longest_first", max_length=max_length)
    assert ids.tolist() == expected["input_ids"][0]
    assert types.tolist() == expected["token_type_ids"][0]


ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz ABCXYZ 0123456789",
    "".join(map(chr, range(128))),  # control characters and punctuation
    "红蓝绿小大旧新 台灯。、「」ｆｕｌｌ１２",
    "éàüßñøåçÉÀÜ İıſK naive",
    "\u0300\u0301\u0323\u20dd e a o",  # combining marks
    "🙂🚀❤️👨‍👩‍👧🇨🇳",
    "اللغة עברית हिन्दी ไทย 한국어 にほんご",
    "\u00a0\u2003\u200b\u200d\ufeff\u2028\x85\x00\x7f\ufffd \t\r\n",
)
WHOLE = ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "[sep]", "red", "car", "##s", "don't", "a-b", "x9"]


def random_texts(count, seed):
    rng = np.random.default_rng(seed)
    texts = ["", " ", "\n", "[SEP]", "a" * 101, "red " * 25_000, "红" * 33_000, "\u0301" * 500, "a\u0301" * 20_000]
    while len(texts) < count:
        alphabet = list(ALPHABETS[rng.integers(len(ALPHABETS))])
        mixed = list("".join(ALPHABETS)) if rng.random() < 0.2 else alphabet
        parts = ["".join(rng.choice(mixed, rng.integers(0, 12))) for _ in range(rng.integers(0, 12))]
        parts = [str(rng.choice(WHOLE)) if rng.random() < 0.1 else part for part in parts]
        texts.append(str(rng.choice(["", " ", "  "])).join(parts))
    return texts


@pytest.mark.parametrize("lowercase", [True, False])
def test_ten_thousand_random_texts_have_the_tokens_of_transformers(encoder, tmp_path, lowercase):
    reference = BertTokenizer(vocab=str(encoder / "vocab.txt"), do_lower_case=lowercase)
    reference.save_pretrained(tmp_path)
    texts = random_texts(10_000, seed=1)
    queries = [texts[(n * 7919 + 1) % len(texts)] for n in range(len(texts))]
    pair = PairEncoder.load(tmp_path, 64)
    both = pair.ids([*queries, *texts])
    expected = reference(queries, texts, truncation="longest_first", max_length=64)
    for row, (query, item) in enumerate(zip(both[: len(texts)], both[len(texts) :], strict=True)):
        ids, types = pair.join(query, item)
        assert ids.tolist() == expected["input_ids"][row], (queries[row], texts[row])
        assert types.tolist() == expected["token_type_ids"][row]


def test_forked_processes_tokenise_the_same(encoder):
    texts = random_texts(500, seed=2)
    pair, forked = PairEncoder.load(encoder, 64), PairEncoder.load(encoder, 64)
    forked.forked()
    for one, other in zip(pair.ids(texts), forked.ids(texts), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.text(st.characters(max_codepoint=127), max_size=80) | st.text(max_size=60))
@settings(max_examples=500, deadline=None)
def test_texts_taken_apart_have_the_tokenizers_own_ids(encoder, text):
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    found = Words.of(tokenizer).ids(text)
    if found is not None:
        assert found.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    else:
        assert "[" in text or any(len(stretch) > 24 for stretch in text.split(" "))


@given(
    query=st.lists(st.integers(5, 60), max_size=30), item=st.lists(st.integers(5, 60), max_size=30),
    max_length=st.integers(5, 40),
)  # fmt: skip
def test_a_pair_alone_is_joined_as_in_a_batch(encoder, query, item, max_length):
    pair = PairEncoder.load(encoder, max_length)
    query, item = np.array(query, dtype=np.int32), np.array(item, dtype=np.int32)
    batch = pair.batch([query], [item])
    for name, values in pair.one(query, item).items():
        assert values.dtype == np.int64
        np.testing.assert_array_equal(values, batch[name])


def test_only_bert_tokenizers_have_the_short_way(encoder):
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    assert Words.of(tokenizer) is not None
    tokenizer.pre_tokenizer = Whitespace()
    assert Words.of(tokenizer) is None


def test_words_beyond_what_is_kept_are_asked_for_again(encoder, monkeypatch):
    monkeypatch.setattr("rankdistill.export.runtime.text.word_tokens.MOST_WORDS", 3)
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    words = Words.of(tokenizer)
    for text in ("red car", "blue boat and lamp", "red lamp", "old chair table red") * 3:
        assert words.ids(text).tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_half_a_surrogate_pair_is_no_crash(encoder):
    pair = PairEncoder.load(encoder, 64)
    lone, replaced = pair.ids(["red \ud800 car", "red \ufffd car"])
    np.testing.assert_array_equal(lone, replaced)


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


def test_a_panic_is_no_tokenizer_and_what_ends_the_program_passes(encoder, tmp_path, monkeypatch):
    content = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))
    content["post_processor"]["special_tokens"] = {}  # its template names some
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="is no tokenizer: no entry found"):
        PairEncoder.load(tmp_path, 16)

    class Ended(BaseException):
        pass

    def end(_):
        raise Ended

    monkeypatch.setattr(tokens_, "Tokenizer", SimpleNamespace(from_file=end))
    with pytest.raises(Ended):
        PairEncoder.load(encoder, 16)


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


def test_a_word_too_long_for_the_vocabulary_is_not_kept(encoder):
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    words = Words.of(tokenizer)
    for length in (99, 100, 101, 5000):
        text = "a" * length
        assert words.ids(text).tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert {len(word) for word in words._known} == {99, 100}
