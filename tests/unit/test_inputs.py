"""What a student reads of items: fields, idf and gradients against what they are by hand, and the folder of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from rankdistill.data import beir as beir_data
from rankdistill.data import events, hub, shortened_items
from rankdistill.data.records import SPLITS, RankingData
from rankdistill.data.sources import templates
from rankdistill.errors import ConfigError
from rankdistill.export.runtime.text.shortener import Shortener
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.models import word_salience
from rankdistill.options import BeirData, Input, MovieLensData
from tests.composing import composed
from tests.conftest import write_beir
from tests.unit.test_movielens import SLATE, make_events

MAX_LENGTH = 16  # some pairs are cut


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BEIR set whose items have titles, words of several tokens, words that come again, and marks between."""
    folder = tmp_path_factory.mktemp("beir") / "set"
    write_beir(folder, queries=8, items=12, judged=4)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        words = row["text"].split()
        row["title"] = "" if number % 5 == 4 else f"{words[-1].title()} {number}"
        row["text"] = f"{words[0]}, {words[1]} redcar; {words[0]} x{number} quick"
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    beir_data.prepare(folder, out, name="set", relevant=1, candidates=4, dev_fraction=0.1, seed=0)
    return out


@pytest.fixture(scope="module")
def teacher(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(encoder, num_labels=1).save_pretrained(folder)
    BertTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def titles(data):
    return [text[:end] for text, end in zip(data.items.texts(), data.items.column("title"), strict=True)]


def test_beir_tells_where_titles_end(folder, prepared):
    data = RankingData.open(prepared)
    rows = {row["_id"]: row for row in map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())}
    expected = [rows[i]["title"] or rows[i]["text"] for i in data.items.ids()]
    assert titles(data) == expected
    assert any(not row["title"] for row in rows.values())


def test_events_and_hubs_tell_where_titles_end(tmp_path):
    log = make_events()
    log.titles[3] = ""
    (tmp_path / "events").mkdir()
    events.prepare(log, tmp_path / "events", SLATE, name="log", notes={})
    assert titles(RankingData.open(tmp_path / "events")) == [
        title or text for title, text in zip(log.titles, log.texts, strict=True)
    ]
    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        rows = [{"query": f"{split} {n}", "yes": [f"one {n}"], "no": [f"other {n}"]} for n in range(4)]
        (tmp_path / "hub" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "out").mkdir()
    hub.prepare(
        str(tmp_path / "hub"), tmp_path / "out", subset=None, splits={"train": "train", "test": "test"}, name="set",
        columns={"query": "query", "positive": "yes", "negative": "no"}, relevant=1, dev_fraction=0.4,
        max_queries=None, seed=0,
    )  # fmt: skip
    data = RankingData.open(tmp_path / "out")
    assert titles(data) == data.items.texts()


def test_idf_is_that_of_whole_texts_counted_by_hand():
    texts = ["red car, red lamp", "Red boat", "東京 boat", ""]
    weights, unseen = shortened_items.idf(iter([texts[:3], texts[3:]]))
    expected = {"red": 2, "car": 1, "lamp": 1, "boat": 2, "東": 1, "京": 1}
    assert weights == pytest.approx({term: math.log(5 / (df + 1)) for term, df in expected.items()})
    assert unseen == pytest.approx(math.log(5))
    assert unseen > max(weights.values())


@pytest.mark.parametrize("asked", [Input(words=2), Input(words=3, keep="idf"), Input(fields="title")])
def test_the_folder_has_the_same_pairs_and_shorter_items(prepared, tmp_path, asked):
    whole = RankingData.open(prepared)
    weights = (
        shortened_items.idf(shortened_items.field_texts(whole.items, asked.fields))
        if asked.keep == "idf"
        else ({}, 0.0)
    )
    shortened_items.write(prepared, asked, weights, tmp_path)
    read = RankingData.open(tmp_path)
    for split in SPLITS:
        for name in ("query", "offsets", "item", "grade"):
            np.testing.assert_array_equal(getattr(read.splits[split], name), getattr(whole.splits[split], name))
    assert (read.queries.texts(), read.items.ids()) == (whole.queries.texts(), whole.items.ids())
    fields = titles(whole) if asked.fields == "title" else whole.items.texts()
    assert read.items.texts(column=shortened_items.WHOLE) == fields
    shortener = shortened_items.shortener_of(tmp_path)
    if asked.words is None:
        assert shortener is None
        assert read.items.texts() == fields
    else:
        assert read.items.texts() == [shortener.shorten(text) for text in fields] != fields
        assert shortener == Shortener(asked.words, pytest.approx(weights[0], rel=1e-5), pytest.approx(weights[1]))
    lists = [items for _, items in read.lists(read.splits["dev"], shortened_items.WHOLE)]
    assert lists == [[fields[row] for row in _items(read, n)] for n in range(len(lists))]


def _items(data, number):
    split = data.splits["dev"]
    return split.item[split.offsets[number] : split.offsets[number + 1]]


def test_titles_of_items_that_are_nothing_else_are_refused(beir, tmp_path):
    for name in ("data", "read"):
        (tmp_path / name).mkdir()
    beir_data.prepare(beir, tmp_path / "data", name="things", relevant=1, candidates=4, dev_fraction=0.1, seed=0)
    with pytest.raises(ConfigError, match=r"student\.input\.fields=title: allowed is all with things"):
        shortened_items.write(tmp_path / "data", Input(fields="title"), ({}, 0.0), tmp_path / "read")


def test_first_words_are_the_first(prepared, tmp_path):
    shortened_items.write(prepared, Input(words=3), ({}, 0.0), tmp_path)
    read = RankingData.open(tmp_path)
    for whole, text in zip(read.items.texts(column=shortened_items.WHOLE), read.items.texts(), strict=True):
        cleaned = whole.replace(",", "").replace(";", "").split()
        assert text.replace(",", "").split() == list(dict.fromkeys(cleaned))[:3]


def slope(model, encoded, token, step=1e-4):
    """How the score moves when a token's embedding grows, by central differences."""
    words = model.bert.embeddings.word_embeddings(encoded["input_ids"]).detach()
    others = {name: encoded[name] for name in ("token_type_ids", "attention_mask")}
    scores = []
    for sign in (1, -1):
        moved = words.clone()
        moved[0, token] *= 1 + sign * step
        with torch.no_grad():
            scores.append(model(inputs_embeds=moved, **others).logits.item())
    return (scores[0] - scores[1]) / (2 * step)


def by_hand(model, tokenizer, pairs):
    """The words' weights from finite differences, pair by pair, words found in the text by spaces and marks."""
    found: dict[str, list[float]] = {}
    for query, item in pairs:
        encoded = tokenizer(
            query, item, truncation="longest_first", max_length=MAX_LENGTH, return_tensors="pt",
            return_offsets_mapping=True,
        )  # fmt: skip
        sums: dict[int, float] = {}
        for token, (start, end) in enumerate(encoded["offset_mapping"][0].tolist()):
            second = encoded["token_type_ids"][0, token] == 1 and end > start
            if second and item[start] not in ",;":
                begin = max(item.rfind(mark, 0, start) for mark in " ,;") + 1
                sums[begin] = sums.get(begin, 0.0) + abs(slope(model, encoded, token))
        for begin, total in sums.items():
            word = item[begin:].split()[0].strip(",;").lower()
            found.setdefault(word, []).append(total)
    return found


def test_gradients_are_slopes_averaged_over_where_a_word_stands(prepared, teacher):
    data, split = RankingData.open(prepared), RankingData.open(prepared).splits["train"]
    pairs = list(zip(data.queries.texts(split.pair_query()), data.items.texts(split.item), strict=True))
    model = load_ranker(str(teacher), cls_only=False, attention="eager").double()
    found = by_hand(model, BertTokenizer.from_pretrained(teacher), pairs)
    weights, unseen = word_salience.measure(model, teacher, MAX_LENGTH, data, 10**6, seed=3)
    assert weights == pytest.approx({word: np.mean(values) for word, values in found.items()}, rel=1e-4, abs=1e-7)
    once = [values[0] for values in found.values() if len(values) == 1]
    assert unseen == pytest.approx(np.mean(once), rel=1e-4)
    assert 0 < len(once) < len(found)
    fewer, _ = word_salience.measure(model, teacher, MAX_LENGTH, data, 3, seed=3)
    assert fewer.keys() < weights.keys()
    assert word_salience.measure(model, teacher, MAX_LENGTH, data, 3, seed=3)[0] == fewer


def test_a_padded_pair_weighs_what_it_does_alone(teacher):
    model, tokenizer = load_ranker(str(teacher), cls_only=False), BertTokenizer.from_pretrained(teacher)
    queries, items = ["red lamp", "old"], ["new red cup of many words", "car"]
    together = word_salience.token_weights(model, tokenizer(queries, items, padding=True, return_tensors="pt"))
    for row, pair in enumerate(zip(queries, items, strict=True)):
        alone = word_salience.token_weights(model, tokenizer(*pair, return_tensors="pt"))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-3, atol=1e-5)


def test_whole_is_the_default_and_told():
    asked = composed().student.input
    assert asked == Input()
    assert shortened_items.is_whole(asked)
    others = (asked, Input(fields="title"), Input("title", 3), Input("all", 9, "idf"))
    assert [shortened_items.told(each) for each in others] == [
        "whole items", "titles", "the first 3 words of titles", "the 9 words of items with the highest idf",
    ]  # fmt: skip
    assert templates(MovieLensData(), "title")["item"] == "title (year)"
    assert templates(BeirData(), "all")["item"] == "title text"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["student.input.words=0"], "student.input.words=0: allowed is a number from 1 to 1048576"),
        (["student.input.fields=text"], "student.input.fields=text: allowed is one of all, title"),
        (
            ["student.input.words=3", "student.input.keep=last"],
            "student.input.keep=last: allowed is one of first, idf,",
        ),
        (["student.input.keep=idf"], "student.input.keep=idf: allowed is first with student.input.words=null"),
        (["student.input.words=3", "student.input.pairs=0", "student.input.keep=gradient"], "student.input.pairs=0: "),
        (["student.input.words=3", "student.input.pairs=9"], "student.input.pairs=9: allowed is 2000 without"),
        (
            ["student.input.words=3", "loss=[kl,hidden]"],
            "student.input.words=3: allowed is null with loss.terms.hidden",
        ),
        (
            ["student.input.fields=title", "loss=attention"],
            "student.input.fields=title: allowed is all with loss.terms.",
        ),
        (["student.input.fields=title", "data=hub", "data.path=x"], "student.input.fields=title: allowed is all with"),
    ],
)
def test_wrong_options_are_refused_by_name(overrides, told):
    with pytest.raises(ConfigError) as refused:
        composed(*overrides)
    assert told in str(refused.value)


def test_state_losses_may_stand_beside_a_whole_input():
    composed("loss=[kl,hidden]")
    composed("loss=kl", "student.input.words=3", "student.input.keep=gradient", "student.input.pairs=9")
