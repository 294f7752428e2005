"""A BEIR folder: what is read, BM25 where only positives are judged, and every refusal with file and line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data import beir
from rankdistill.data.bm25 import BM25, terms
from rankdistill.data.records import SPLITS, RankingData
from rankdistill.errors import DataError
from tests.conftest import write_beir


def prepare(folder: Path, out: Path, **options) -> RankingData:
    out.mkdir()
    options_ = {"name": "set", "relevant": 1, "candidates": 10, "dev_fraction": 0.25, "seed": 0} | options
    beir.prepare(folder, out, **options_)
    return RankingData.open(out)


def lists(data: RankingData, split: str) -> dict[str, dict[str, int]]:
    part = data.splits[split]
    queries, items = data.queries.ids(), data.items.ids()
    return {
        queries[row]: {items[part.item[p]]: int(part.grade[p]) for p in range(part.offsets[n], part.offsets[n + 1])}
        for n, row in enumerate(part.query)
    }


def qrels(folder: Path, split: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]:
        query, item, grade = line.split("\t")
        found.setdefault(query, {})[item] = int(grade)
    return found


@pytest.fixture
def folder(tmp_path) -> Path:
    write_beir(tmp_path / "set")
    return tmp_path / "set"


def test_candidates_are_the_judged_rows_grade_0_included(folder, tmp_path):
    data = prepare(folder, tmp_path / "out")
    for split in SPLITS:
        expected = {q: g for q, g in qrels(folder, split).items() if max(g.values()) > 0 and len(set(g.values())) > 1}
        assert lists(data, split) == expected
        assert data.summary["splits"][split]["left_out"] == len(qrels(folder, split)) - len(expected)


def test_the_tables_open_with_datasets(folder, tmp_path):
    from datasets import Dataset

    data = prepare(folder, tmp_path / "out")
    items = Dataset.from_file(str(tmp_path / "out/items.arrow"))
    assert items["text"][:5] == data.items.texts(slice(0, 5))
    pairs = Dataset.from_file(str(tmp_path / "out/pairs-test.arrow"))
    assert pairs["grade"][:] == data.splits["test"].grade.tolist()


def test_the_order_of_candidates_is_a_seeded_shuffle(folder, tmp_path):
    first = prepare(folder, tmp_path / "a").splits["test"]
    again = prepare(folder, tmp_path / "b").splits["test"]
    other = prepare(folder, tmp_path / "c", seed=1).splits["test"]
    np.testing.assert_array_equal(first.item, again.item)
    assert not np.array_equal(first.item, other.item)
    in_file = [int(item[1:]) for grades in qrels(folder, "test").values() for item in grades]
    assert not np.array_equal(first.item, in_file)


def test_a_missing_dev_is_cut_from_train_by_query(folder, tmp_path):
    (folder / "qrels/dev.tsv").unlink()
    data = prepare(folder, tmp_path / "out")
    train, dev = lists(data, "train"), lists(data, "dev")
    assert dev
    assert not train.keys() & dev.keys()
    assert train.keys() | dev.keys() <= qrels(folder, "train").keys()
    assert lists(prepare(folder, tmp_path / "again"), "dev") == dev
    assert lists(prepare(folder, tmp_path / "other", seed=1), "dev").keys() != dev.keys()


def keep_positives(folder: Path, split: str) -> None:
    rows = [(q, i) for q, grades in qrels(folder, split).items() for i, g in grades.items() if g == 3]
    text = "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{i}\t1\n" for q, i in rows)
    (folder / "qrels" / f"{split}.tsv").write_text(text)


def test_positives_alone_are_filled_by_bm25(folder, tmp_path):
    for split in SPLITS:
        keep_positives(folder, split)
    data = prepare(folder, tmp_path / "out")
    index = BM25([data.items.texts()])
    texts = dict(zip(data.queries.ids(), data.queries.texts(), strict=True))
    ids = data.items.ids()
    for split in SPLITS:
        for query, grades in lists(data, split).items():
            judged = qrels(folder, split)[query]
            assert len(grades) == 10
            assert {item for item, grade in grades.items() if grade} == set(judged)
            best = [ids[row] for row in index.top(texts[query], 10)[0]]
            unjudged = [item for item in best if item not in judged]
            assert {item for item, grade in grades.items() if not grade} <= set(unjudged)


@pytest.mark.parametrize(("relevant", "filled"), [(1, True), (2, False)])
def test_a_query_is_filled_where_all_that_is_judged_is_relevant(folder, tmp_path, relevant, filled):
    (folder / "qrels/test.tsv").write_text("q3\ti1\t1\nq3\ti2\t2\n")
    found = lists(prepare(folder, tmp_path / "out", relevant=relevant), "test")
    assert {item: grade for item, grade in found["q3"].items() if grade} == {"i1": 1, "i2": 2}
    assert len(found["q3"]) == (10 if filled else 2)


def test_queries_that_are_left_out_are_told(folder, tmp_path, caplog):
    prepare(folder, tmp_path / "whole")
    assert "left out" not in caplog.text
    append("qrels/test.tsv", "q30\ti1\t0\n")(folder)
    append("queries.jsonl", '{"_id": "q30", "text": "lamp"}\n')(folder)
    prepare(folder, tmp_path / "out")
    (told,) = (line for line in caplog.messages if "of the test split" in line)
    assert told.startswith("set: 1 of 7 queries of the test split are left out; nothing of grade >= 1 beside")


def test_queries_of_train_that_stand_in_another_split_too_are_told(folder, tmp_path, caplog):
    rows = (folder / "queries.jsonl").read_text().splitlines()
    for test, train in ((3, 0), (7, 0), (11, 3)):  # q3, q7 and q11 are of test, q0 of train
        rows[test] = json.dumps({"_id": f"q{test}", "text": json.loads(rows[train])["text"]})
    (folder / "queries.jsonl").write_text("\n".join(rows))
    prepare(folder, tmp_path / "out")
    (told,) = (line for line in caplog.messages if "of the test split" in line)
    assert told.startswith("set: 3 of 6 queries of the test split have the text of one of train")
    assert "queries.jsonl:4: 'q3' as 'q0'" in told


def test_queries_with_positives_alone_share_one_index_and_graded_ones_are_left_as_judged(folder, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(beir, "BM25", lambda batches: built.append(1) or BM25(batches))
    graded = lists(prepare(folder, tmp_path / "graded"), "test")
    assert not built
    for split in ("train", "dev"):
        keep_positives(folder, split)
    data = prepare(folder, tmp_path / "out")
    assert len(built) == 1
    assert lists(data, "test") == graded


def test_a_list_that_positives_fill_alone_is_left_out(folder, tmp_path):
    keep_positives(folder, "train")
    positives = "".join(f"q2\ti{n}\t1\n" for n in range(7))
    (folder / "qrels/dev.tsv").write_text(positives + "q6\ti1\t1\n")  # q6 is filled, so that dev has something to rank
    data = prepare(folder, tmp_path / "out", candidates=4)
    assert data.summary["splits"]["dev"] == {"queries": 1, "pairs": 4, "left_out": 1}  # q2 has positives alone


def test_an_item_without_a_text_is_never_offered(folder, tmp_path):
    append("corpus.jsonl", '{"_id": "void", "title": "", "text": " "}\n')(folder)
    keep_positives(folder, "test")
    data = prepare(folder, tmp_path / "out", candidates=1000)
    assert "void" not in data.items.ids()
    assert all(len(grades) == 80 for grades in lists(data, "test").values())


def test_rows_are_line_order_and_unjudged_queries_are_left_out(folder, tmp_path):
    append("queries.jsonl", '{"_id": "idle", "text": ""}\n\n\n')(folder)
    append("corpus.jsonl", "\n")(folder)
    data = prepare(folder, tmp_path / "out")
    assert data.items.ids() == [f"i{n}" for n in range(80)]
    assert data.queries.ids() == [f"q{n}" for n in range(24)]
    assert data.summary["source"] == "set"


def test_a_qrels_file_without_a_header_reads_the_same(folder, tmp_path):
    expected = lists(prepare(folder, tmp_path / "a"), "test")
    path = folder / "qrels/test.tsv"
    path.write_text(path.read_text().partition("\n")[2])
    assert lists(prepare(folder, tmp_path / "b"), "test") == expected


def test_titles_chinese_and_empty_items_nobody_judges(folder, tmp_path):
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "zh", "title": "台灯", "text": "暖光 🙂"}, ensure_ascii=False) + "\n")
        file.write('{"_id": "void", "title": "", "text": " "}\n')
        file.write(json.dumps({"_id": "bare", "text": "红色小汽车"}, ensure_ascii=False) + "\n")
    append("queries.jsonl", '{"_id": "问", "text": "红色的灯"}\n')(folder)
    append("qrels/test.tsv", "问\tzh\t1\n问\tbare\t0\n")(folder)
    data = prepare(folder, tmp_path / "out")
    assert data.items.texts()[-2:] == ["台灯 暖光 🙂", "红色小汽车"]
    assert data.queries.texts()[-1] == "红色的灯"
    assert lists(data, "test")["问"] == {"zh": 1, "bare": 0}


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Zs", "Zl", "Zp", "Cc"]), min_size=1, max_size=12)
GRADES = st.lists(st.integers(-1, 3), min_size=6, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXTS, min_size=6, max_size=6), st.lists(GRADES, min_size=1, max_size=4), st.integers(0, 2**32))
def test_texts_and_grades_come_back_as_they_were_written(texts, graded, seed):
    anchor = [1, 0, 0, 0, 0, 0]  # each split ranks something, whatever is drawn
    splits = {"train": [anchor, *graded], "dev": [anchor], "test": [anchor]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        (folder / "qrels").mkdir(parents=True)
        rows = [json.dumps({"_id": f"i{n}", "text": text}) for n, text in enumerate(texts)]
        (folder / "corpus.jsonl").write_text("\n".join(rows))
        names = [f"{split}{n}" for split, lists_ in splits.items() for n in range(len(lists_))]
        (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": n, "text": n}) for n in names))
        for split, lists_ in splits.items():
            lines = [f"{split}{q}\ti{i}\t{g}\n" for q, grades in enumerate(lists_) for i, g in enumerate(grades)]
            (folder / "qrels" / f"{split}.tsv").write_text("".join(lines))
        data = prepare(folder, Path(temporary) / "out", seed=seed, max_left_out=1.0)
        assert data.items.texts() == [text.strip() for text in texts]
        expected = {
            f"train{q}": {f"i{i}": max(g, 0) for i, g in enumerate(grades)} for q, grades in enumerate(splits["train"])
        }
        assert lists(data, "train") == {q: g for q, g in expected.items() if len(set(g.values())) > 1}


def replace(path: str, text: str):
    return lambda folder: (folder / path).write_text(text, encoding="utf-8")


def append(path: str, text: str):
    def change(folder: Path) -> None:
        with (folder / path).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


BROKEN = [
    (lambda f: (f / "qrels/test.tsv").unlink(), r"lacks qrels/test\.tsv; a BEIR folder has corpus\.jsonl"),
    (lambda f: (f / "corpus.jsonl").unlink(), r"lacks corpus\.jsonl; a BEIR folder has"),
    (append("corpus.jsonl", '{"text": "x"}\n'), r"corpus\.jsonl:81: _id None is no text"),
    (append("corpus.jsonl", '{"_id": "x"}\n'), r"corpus\.jsonl:81: text is missing"),
    (append("corpus.jsonl", '{"_id": "x", "title": 1, "text": "x"}\n'), r"corpus\.jsonl:81: title 1 is no text"),
    (append("corpus.jsonl", '{"_id": "x", "text": "\\ud800"}\n'), r"corpus\.jsonl:81: half a surrogate pair"),
    (append("queries.jsonl", "{]\n"), r"queries\.jsonl:25: broken JSON"),
    (append("queries.jsonl", '{"_id": "x", "text": null}\n'), r"queries\.jsonl:25: text is missing"),
    (append("queries.jsonl", '{"_id": "\\ud800", "text": "x"}\n'), r"queries\.jsonl:25: half a surrogate pair"),
    (replace("qrels/dev.tsv", "query-id\tcorpus-id\tscore\n"), r"the dev split has nothing to rank"),
    (replace("qrels/test.tsv", "q3\ti1\t1\t0\n"), r"qrels/test\.tsv:1: 4 columns"),
    (replace("qrels/test.tsv", "q3\ti1\t1_0\n"), r"qrels/test\.tsv:1: score '1_0' is no whole number"),
    (append("corpus.jsonl", '{"_id": "x", "text"\n'), r"corpus\.jsonl:81: broken JSON"),
    (append("corpus.jsonl", "[1]\n"), r"corpus\.jsonl:81: a list; an object"),
    (append("corpus.jsonl", '{"_id": 7, "text": "x"}\n'), r"corpus\.jsonl:81: _id 7 is no text"),
    (append("corpus.jsonl", '{"_id": "x", "text": 5}\n'), r"corpus\.jsonl:81: text 5 is no text"),
    (append("corpus.jsonl", '{"_id": "i3", "text": "x"}\n'), r"corpus\.jsonl:81: item 'i3' stands there twice"),
    (append("queries.jsonl", '{"_id": "q3", "text": "x"}\n'), r"queries\.jsonl:25: query 'q3' stands there twice"),
    (
        lambda f: (f / "corpus.jsonl").write_bytes(b'{"_id": "i0", "text": "\xff"}\n'),
        r"corpus\.jsonl:1: not utf-8",
    ),
    (replace("qrels/test.tsv", "q3\ti1\n"), r"qrels/test\.tsv:1: 2 columns"),
    (
        replace("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq3\ti1\t0.5\n"),
        r"qrels/test\.tsv:2: score '0\.5' is no",
    ),
    (replace("qrels/test.tsv", "q3\ti1\tnan\n"), r"qrels/test\.tsv:1: score 'nan' is no whole number"),
    (replace("qrels/test.tsv", "q3\ti1\t31\n"), r"qrels/test\.tsv:1: score 31 is no grade; at most 30"),
    (replace("qrels/test.tsv", "q3\ti1\t1\nq3\ti1\t2\n"), r"qrels/test\.tsv:2: the pair 'q3', 'i1' stands there twice"),
    (replace("qrels/test.tsv", "q0\ti1\t1\n"), r"qrels/test\.tsv:1: query 'q0' is in train\.tsv too"),
    (replace("qrels/test.tsv", "q3\tnope\t1\n"), r"qrels/test\.tsv:1: item 'nope' is not in corpus\.jsonl"),
    (replace("qrels/test.tsv", "nope\ti1\t1\n"), r"qrels/test\.tsv:1: query 'nope' is not in queries\.jsonl"),
    (replace("qrels/test.tsv", "q3\ti1\t0\nq3\ti2\t-1\n"), r"the test split has nothing to rank"),
]


@pytest.mark.parametrize(("breaking", "message"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_broken_is_named(folder, tmp_path, breaking, message):
    breaking(folder)
    with pytest.raises(DataError, match=message):
        prepare(folder, tmp_path / "out")


def test_an_empty_text_that_is_judged_is_named_with_both_lines(folder, tmp_path):
    append("corpus.jsonl", '{"_id": "void", "text": " "}\n')(folder)
    append("qrels/test.tsv", "q3\tvoid\t1\n")(folder)
    with pytest.raises(DataError, match=r"corpus\.jsonl:81: item 'void' has no text, yet .*test\.tsv:\d+ judges it"):
        prepare(folder, tmp_path / "out")
    rows = (folder / "queries.jsonl").read_text().splitlines()
    rows[3] = '{"_id": "q3", "text": ""}'
    (folder / "queries.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"queries\.jsonl:4: query 'q3' has no text"):
        prepare(folder, tmp_path / "out2")


def test_terms_of_english_and_chinese():
    assert terms("Red-Lamp 2x, 台灯!") == ["red", "lamp", "2x", "台", "灯"]


def test_bm25_against_the_written_out_formula():
    texts = ["red lamp", "red red car", "blue boat on a lake", "台灯 red"]
    index = BM25([texts[:2], texts[2:]])
    k1, b = 1.5, 0.75
    documents = [terms(text) for text in texts]
    mean = np.mean([len(d) for d in documents])
    for query in ("red", "lamp red", "灯", "nothing"):
        expected = []
        for document in documents:
            score = 0.0
            for term in terms(query):
                df = sum(term in d for d in documents)
                tf = document.count(term)
                idf = np.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean)) if tf else 0.0
            expected.append(score)
        np.testing.assert_allclose(
            index.scores(query, np.arange(4, dtype=np.int32)), expected, rtol=1e-5, err_msg=query
        )
        assert index.top(query, 1)[0][0] == int(np.argmax(expected))
