"""The tokens a student keeps: counted, always kept, refused; and what a dropped one's id means to the model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from rankdistill.data.records import RankingData, RankingWriter
from rankdistill.data.tokens import PairTokens, TokenColumn, TokenTable, write
from rankdistill.errors import ConfigError
from rankdistill.export.graphs.tables import distinct_rows
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.models import vocabulary
from rankdistill.models.pruned_embedding import KeptEmbedding, cut, expand
from rankdistill.models.vocabulary import always_kept, choose, count_tokens
from rankdistill.options import Vocabulary
from tests.composing import composed
from tests.conftest import THINGS, WORDS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SCRIPTS = (
    "abcxyzABCÉ éàßñø019 红蓝台灯。、「」 .,-!#[] ё яЖ שלם مرح हिन ี ิ กข 한글 ᄒ ᅡ にほ カ゛"
    " ²½ ® 🙂 \u0301\u0323 İı K \u00ad"
)


def write_characters(folder, lowercase):
    """Write a tokenizer that has the characters of many scripts, alone and within words, also where none can come."""
    own = sorted(set(SCRIPTS) - {" "})
    vocab = folder / "vocab.txt"
    words = [*SPECIAL, *own, *("##" + character for character in own), "red", "##ed", "ab"]
    vocab.write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(vocab), do_lower_case=lowercase).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["lower case", "cased"])
def alphabet(request, tmp_path_factory):
    return write_characters(tmp_path_factory.mktemp("alphabet"), request.param)


def column_of(rows):
    offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    return TokenColumn(np.array([token for row in rows for token in row], dtype=np.int32), offsets)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=6), max_size=12),
    st.data(),
    st.sampled_from([1, 2, 5]),
    st.integers(1, 7),
)
def test_tokens_are_counted_once_a_text_as_far_as_it_is_read(rows, data, block, room):
    taken = data.draw(st.none() | st.lists(st.integers(0, len(rows) - 1), max_size=9) if rows else st.none())
    before, vocabulary.BLOCK = vocabulary.BLOCK, block
    counts = count_tokens(column_of(rows), None if taken is None else np.array(taken, dtype=np.int32), room, 9)
    vocabulary.BLOCK = before
    chosen = range(len(rows)) if taken is None else set(taken)
    expected = Counter(token for row in chosen for token in rows[row][:room])
    assert counts.tolist() == [expected[token] for token in range(9)]


@settings(max_examples=400, deadline=None)
@given(text=st.text(st.sampled_from(SCRIPTS), max_size=12) | st.text(max_size=12))
@example("a\u0301b 红a蓝 한글 aהa")
def test_every_character_that_a_text_comes_to_is_kept(alphabet, text):
    tokenizer = Tokenizer.from_file(str(alphabet / "tokenizer.json"))
    unknown, always = always_kept(Vocabulary(min_count=1), alphabet)
    whole = {tokenizer.token_to_id(word) for word in ("red", "##ed", "ab")}
    assert set(tokenizer.encode(text).ids) - whole <= set(always.tolist())
    assert not whole & set(always.tolist())
    assert tokenizer.id_to_token(unknown) == "[UNK]"


def test_what_no_text_comes_to_is_not_kept(tmp_path):
    folder = write_characters(tmp_path, lowercase=True)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    always = {tokens.id_to_token(int(number)) for number in always_kept(Vocabulary(min_count=1), folder)[1]}
    assert {*SPECIAL, "a", "##a", "0", "##0", "红", ".", "#", "##я"} <= always
    assert not {"A", "É", "é", "##A", "##红", "##!", "##."} & always


def test_safety_texts_keep_their_tokens(encoder, tmp_path):
    file = tmp_path / "safety.txt"
    file.write_text("Red, cup\n\n  tent \nred\n", encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    _, plain = always_kept(Vocabulary(min_count=1), encoder)
    _, more = always_kept(Vocabulary(min_count=1, safety=str(file)), encoder)
    added = {tokenizer.id_to_token(int(number)) for number in np.setdiff1d(more, plain)}
    assert added == {"red", "cup", "tent"}
    assert np.setdiff1d(plain, more).size == 0


def test_a_mark_of_byte_order_is_no_safety_text(encoder, tmp_path):
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_text("red\n", encoding="utf-8")
    marked.write_text("red\n", encoding="utf-8-sig")
    expected, found = (always_kept(Vocabulary(min_count=1, safety=str(file)), encoder) for file in (plain, marked))
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_long_safety_text_counts_to_its_end(encoder, tmp_path):
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.enable_truncation(4)  # as the files of many models say
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words, file = sorted(set(WORDS)), tmp_path / "safety.txt"
    file.write_text(" ".join(words), encoding="utf-8")
    _, kept = always_kept(Vocabulary(min_count=1, safety=str(file)), tmp_path)
    assert {tokenizer.token_to_id(word) for word in words} <= set(kept.tolist())
    file.write_text(" ".join([*words, "☃"]), encoding="utf-8")
    with pytest.raises(ConfigError, match="it has none for a part of"):
        always_kept(Vocabulary(min_count=1, safety=str(file)), tmp_path)


def test_safety_texts_without_tokens_are_told(encoder, tmp_path):
    file = tmp_path / "safety.txt"
    file.write_text("red\nred ☃ cup\n☂\n東京\n🙂\n", encoding="utf-8")
    expected = r"student\.vocabulary\.safety=.*safety\.txt: allowed are texts .* 'red ☃ cup', '☂', '東京' and 1 more"
    with pytest.raises(ConfigError, match=expected):
        always_kept(Vocabulary(min_count=1, safety=str(file)), encoder)
    file.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"safety\.txt: allowed is a file of texts, one a line; it has none"):
        always_kept(Vocabulary(min_count=1, safety=str(file)), encoder)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"safety\.txt: allowed is a file of texts in UTF-8"):
        always_kept(Vocabulary(min_count=1, safety=str(file)), encoder)


def test_only_wordpiece_with_an_unknown_token_is_pruned(tmp_path):
    Tokenizer(BPE({"a": 0}, [], unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"student\.vocabulary\.min_count=2: allowed is null with this teacher"):
        always_kept(Vocabulary(min_count=2), tmp_path)


@pytest.fixture(scope="module")
def pairs(encoder, tmp_path_factory):
    """Three training queries, an item nobody was shown, and a dev query; words come 1 to 9 times."""
    data, tokens = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("tokens")
    with RankingWriter(data, name="x") as writer:
        items = [writer.add_item(str(n), text) for n, text in enumerate(["red car", "blue car", "old kite", "red red"])]
        for query in ("red lamp", "car", "slow car"):
            writer.add_candidates("train", writer.add_query(f"t{query}", query), items[:2], [1, 0])
        for split, query in (("dev", "red sofa drum"), ("test", "quiet hat")):
            writer.add_candidates(split, writer.add_query(split, query), items[:2], [1, 0])
    records, pair = RankingData.open(data), PairEncoder.load(encoder, 24)
    write(records, pair, tokens)
    table = TokenTable.open(tokens)
    return PairTokens(records.splits["train"], table, pair), PairTokens(records.splits["dev"], table, pair)


def kept_words(encoder, pairs, **options):
    size = Tokenizer.from_file(str(encoder / "tokenizer.json")).get_vocab_size()
    kept = choose(Vocabulary(**options), encoder, *pairs, size=size, width=32)
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    return kept, {tokenizer.id_to_token(int(number)) for number in kept.ids} & {*WORDS, *THINGS}


def test_what_training_and_the_catalogue_show_often_enough_is_kept(encoder, pairs):
    kept, words = kept_words(encoder, pairs, min_count=1)
    assert words == {"red", "car", "blue", "old", "kite", "lamp", "slow"}
    assert kept.summary["unknown"] == {"training queries": 0, "items": 0, "dev queries": pytest.approx(2 / 3, abs=1e-6)}
    size = kept.summary["kept"] + kept.summary["dropped"]
    assert kept.summary["kept"] == len(kept.ids) == len(np.unique(kept.ids))
    assert kept.summary["bytes_saved"] == {
        "fp32": kept.summary["dropped"] * 128 - 4 * size,
        "int8": kept.summary["dropped"] * 32 - 4 * size,
    }
    kept, words = kept_words(encoder, pairs, min_count=3, max_unknown=0.5)
    assert words == {"red", "car"}  # 4 and 4; blue, old, kite, lamp and slow come once, of 13
    assert kept.summary["unknown"]["training queries"] == pytest.approx(2 / 5)
    assert kept.summary["unknown"]["items"] == pytest.approx(3 / 8)


def test_a_vocabulary_that_loses_too_much_is_refused_and_what_it_says_is_allowed_is(encoder, pairs):
    expected = (
        r"student\.vocabulary\.min_count=5: allowed is 1 to 4 with student\.vocabulary\.max_unknown=0\.4; 1\.0000 of"
    )
    with pytest.raises(ConfigError, match=expected):
        kept_words(encoder, pairs, min_count=5, max_unknown=0.4)
    assert kept_words(encoder, pairs, min_count=4, max_unknown=0.4)[1] == {"red", "car"}
    with pytest.raises(ConfigError, match="allowed is 1 to 1 with"):
        kept_words(encoder, pairs, min_count=2, max_unknown=0.38)  # 5 of 13 is more


def small(seed=0, vocab=40):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, num_labels=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


KEPT = np.array([0, 1, 2, 3, 7, 11, 12, 30])
UNKNOWN = 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=20))
def test_a_token_has_its_own_row_or_that_of_unknown(ids):
    model = small()
    full = model.bert.embeddings.word_embeddings.weight.detach().clone()
    cut(model, KEPT, UNKNOWN)
    rows = model.bert.embeddings.word_embeddings(torch.tensor([ids]))[0]
    expected = torch.stack([full[token] if token in KEPT else full[UNKNOWN] for token in ids])
    assert torch.equal(rows, expected)
    expand(model)
    assert type(model.bert.embeddings.word_embeddings) is torch.nn.Embedding
    assert torch.equal(model.bert.embeddings.word_embeddings(torch.tensor([ids]))[0], expected)


def test_training_moves_unknown_by_all_dropped_tokens_together():
    model, full = small(), small()
    table = full.bert.embeddings.word_embeddings.weight
    dropped = np.setdiff1d(np.arange(40), KEPT)
    with torch.no_grad():
        table[dropped] = table[UNKNOWN].clone()
    cut(model, KEPT, UNKNOWN)
    ids = torch.tensor([[2, 5, 6, 3, 7, 3, 0], [2, 1, 5, 3, 12, 20, 3]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}
    for each in (model, full):
        each(**inputs).logits.sum().backward()
    expected = table.grad[KEPT].clone()
    expected[UNKNOWN] += table.grad[dropped].sum(dim=0)
    found = model.bert.embeddings.word_embeddings.weight.grad
    assert found.shape == (len(KEPT), 16)
    torch.testing.assert_close(found, expected)
    assert (found[0] == 0).all()  # padding
    assert found[UNKNOWN].abs().sum() > 0


def test_a_cut_table_survives_its_state_and_takes_only_its_own():
    one, other = small(seed=1), small(seed=2)
    for model in (one, other):
        cut(model, KEPT, UNKNOWN)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.bert.embeddings.word_embeddings.weight, one.bert.embeddings.word_embeddings.weight)
    with pytest.raises(RuntimeError, match="word_embeddings"):
        other.load_state_dict(small().state_dict())
    assert isinstance(other.bert.embeddings.word_embeddings, KeptEmbedding)


def test_a_model_that_was_not_cut_stays_as_it_is():
    model = small()
    table = model.bert.embeddings.word_embeddings
    expand(model)
    assert model.bert.embeddings.word_embeddings is table
    with pytest.raises(ValueError, match="unknown token 1"):
        cut(model, np.array([0, 5]), UNKNOWN)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, -0.0, 1.0, float("nan")])] * 3), min_size=1, max_size=30))
def test_distinct_rows_are_found_bit_by_bit(rows):
    table = np.array(rows, dtype=np.float32)
    first, equal = distinct_rows(table)
    seen = list(dict.fromkeys(row.tobytes() for row in table))  # in the order in which they come first
    assert [table[number].tobytes() for number in first] == seen
    assert equal.tolist() == [seen.index(row.tobytes()) for row in table]
    assert equal.dtype == np.int32


def test_options_are_checked_before_anything_is_trained(tmp_path):
    assert composed().student.vocabulary == Vocabulary(min_count=None)
    assert composed("student.vocabulary.min_count=2").student.vocabulary.min_count == 2
    (tmp_path / "texts").write_text("red")
    for overrides, message in (
        (["student.vocabulary.min_count=0"], "student.vocabulary.min_count=0: allowed is a number >= 1"),
        (
            ["student.vocabulary.max_unknown=0.5"],
            "allowed is 0.001 with student.vocabulary.min_count=null: all are kept",
        ),
        (["student.vocabulary.max_unknown=1.5"], "student.vocabulary.max_unknown=1.5: allowed is a number from 0"),
        (
            ["student.vocabulary.min_count=1", "student.vocabulary.safety=/no/where"],
            "student.vocabulary.safety=/no/where: allowed is an existing file",
        ),
        ([f"student.vocabulary.safety={tmp_path / 'texts'}"], "allowed is null with student.vocabulary.min_count=null"),
    ):
        with pytest.raises(ConfigError) as raised:
            composed(*overrides)
        assert message in str(raised.value)
