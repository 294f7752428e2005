"""What of a BEIR folder silently did not match: marks, headers, kinds of judgements, the query's own item, copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data.mismatch import alike, copies, text_key
from rankdistill.data.records import SPLITS
from rankdistill.errors import DataError
from rankdistill.options import BeirData
from rankdistill.options.ranges import broken_rules
from tests.conftest import write_beir
from tests.unit.test_beir import lists, prepare, qrels

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_beir(tmp_path / "set")
    return tmp_path / "set"


def keep_relevant(folder: Path) -> None:
    for split in SPLITS:
        rows = [(q, i) for q, grades in qrels(folder, split).items() for i, g in grades.items() if g >= 2]
        (folder / "qrels" / f"{split}.tsv").write_text(HEADER + "".join(f"{q}\t{i}\t1\n" for q, i in rows))


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_mark_of_byte_order_is_no_text(folder, tmp_path, name):
    expected = prepare(folder, tmp_path / "plain")
    path = folder / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    data = prepare(folder, tmp_path / "marked")
    assert lists(data, "test") == lists(expected, "test")
    assert data.items.ids() == expected.items.ids()


def test_a_mark_before_a_line_of_joined_files_is_no_text_either(folder, tmp_path):
    path = folder / "qrels/test.tsv"
    head, _, rest = path.read_text().partition("\n")
    expected = lists(prepare(folder, tmp_path / "plain"), "test")
    path.write_text(f"{head}\n\ufeff{rest}", encoding="utf-8")
    assert lists(prepare(folder, tmp_path / "joined"), "test") == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_utf_16_is_refused_by_name(folder, tmp_path, name, encoding):
    path = folder / name
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(DataError, match=rf"{name}:1: not utf-8 text but UTF-16 or binary; convert"):
        prepare(folder, tmp_path / "out")


def test_lines_that_end_in_a_carriage_return_alone_are_refused(folder, tmp_path):
    path = folder / "qrels/test.tsv"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    prepare(folder, tmp_path / "crlf")
    path.write_bytes(content.replace(b"\n", b"\r"))
    with pytest.raises(DataError, match=r"test\.tsv:1: a carriage return inside the line"):
        prepare(folder, tmp_path / "cr")


@pytest.mark.parametrize(
    "header", ["query_id\tcorpus_id\tscore", '"query-id"\t"corpus-id"\t"score"', "query-id \tcorpus-id\tscore ",
               "Query-ID\tCorpus-ID\tScore", "\n\nquery-id\tcorpus-id\tscore"],
)  # fmt: skip
def test_a_header_may_be_written_otherwise(folder, tmp_path, header):
    expected = lists(prepare(folder, tmp_path / "plain"), "test")
    path = folder / "qrels/test.tsv"
    path.write_text(header + "\n" + path.read_text().partition("\n")[2])
    assert lists(prepare(folder, tmp_path / "out"), "test") == expected


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("qid\tdocid\trel", r"test\.tsv:1: the first line is no header: query-id, corpus-id, score"),
        ("corpus-id\tquery-id\tscore", r"test\.tsv:1: the first line is no header"),
        ("query-id\tscore\tcorpus-id", r"test\.tsv:1: the first line is no header"),
        ("q3\t0\ti1\t1", r"test\.tsv:1: 4 columns; query-id, .*TREC's qrels.*leave its second column out"),
        ("q3 0 i1 1", r"test\.tsv:1: 1 column; query-id, .*TREC's qrels"),
        ("q3,i1,1", r"test\.tsv:1: 1 column; query-id, corpus-id and score, separated by tabs, are needed$"),
    ],
)
def test_a_first_line_that_is_neither_header_nor_judgement_is_named(folder, tmp_path, first, message):
    (folder / "qrels/test.tsv").write_text(f"{first}\nq3\ti1\t1\nq3\ti2\t0\n")
    with pytest.raises(DataError, match=message):
        prepare(folder, tmp_path / "out")


@pytest.mark.parametrize("written", ["{}.0", "{}.", "{}.000", "+{}", " {} "])
def test_a_whole_grade_may_be_written_as_a_float(folder, tmp_path, written):
    expected = lists(prepare(folder, tmp_path / "plain"), "test")
    rows = [(q, i, written.format(g)) for q, grades in qrels(folder, "test").items() for i, g in grades.items()]
    (folder / "qrels/test.tsv").write_text("".join(f"{q}\t{i}\t{g}\n" for q, i, g in rows))
    assert lists(prepare(folder, tmp_path / "out"), "test") == expected


def test_files_of_qrels_that_are_not_read_are_told(folder, tmp_path, caplog):
    (folder / "qrels/dev.tsv").rename(folder / "qrels/validation.tsv")
    (folder / "qrels/.DS_Store").touch()
    prepare(folder, tmp_path / "out")
    (told,) = (line for line in caplog.messages if "not read: validation.tsv" in line)
    assert told.endswith("read are train.tsv, dev.tsv, test.tsv, and dev is cut from train")


@pytest.mark.parametrize(
    ("written", "hint"),
    [("I1", "'i1'"), ('"i1"', "'i1'"), ("\ufeffi1", "'i1'"), ("i1.0", "'i1'"), ("nope", "add it there or remove")],
)
def test_an_id_that_meets_none_is_named_with_one_that_is_written_almost_so(folder, tmp_path, written, hint):
    (folder / "qrels/test.tsv").write_text(f"q3\ti2\t0\nq3\t{written}\t1\nq7\t{written}\t1\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"test\.tsv:2: item .* is not in corpus\.jsonl; .*{hint}.*2 of 3 lines"):
        prepare(folder, tmp_path / "out")


def test_ids_are_read_without_spaces_around(folder, tmp_path):
    expected = lists(prepare(folder, tmp_path / "plain"), "test")
    for name in ("corpus.jsonl", "queries.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        (folder / name).write_text("\n".join(json.dumps(row | {"_id": f" {row['_id']} "}) for row in rows))
    assert lists(prepare(folder, tmp_path / "out"), "test") == expected


def test_an_object_without_id_tells_what_it_has(folder, tmp_path):
    append(folder / "corpus.jsonl", '{"id": "x", "text": "x"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:81: _id None is no text; the object has 'id', 'text'"):
        prepare(folder, tmp_path / "out")


@pytest.mark.parametrize("grade", [0, -1, -2])
def test_one_line_that_is_not_relevant_changes_the_list_of_its_query_alone(folder, tmp_path, caplog, grade):
    keep_relevant(folder)
    before = lists(prepare(folder, tmp_path / "before"), "test")
    assert not [line for line in caplog.messages if "relevant items only" in line]
    query = next(iter(before))
    other = next(f"i{n}" for n in range(80) if f"i{n}" not in before[query])
    append(folder / "qrels/test.tsv", f"{query}\t{other}\t{grade}\n")
    after = lists(prepare(folder, tmp_path / "after"), "test")
    assert {q: g for q, g in after.items() if q != query} == {q: g for q, g in before.items() if q != query}
    assert after[query] == {item: 1 for item, told in before[query].items() if told} | {other: 0}
    (told,) = (line for line in caplog.messages if "relevant items only" in line)
    assert f"{len(before) - 1} of {len(before)} queries of the test split" in told
    assert "test.tsv:" in told
    assert bool([line for line in caplog.messages if "have a negative grade (first: " in line]) is (grade < 0)


def test_lists_stay_as_they_are_judged_where_nothing_is_to_be_filled(folder, tmp_path):
    (folder / "qrels/test.tsv").write_text("q3\ti1\t1\nq3\ti2\t2\n")
    assert lists(prepare(folder, tmp_path / "out", candidates=None), "test") == {"q3": {"i1": 1, "i2": 2}}


def test_a_split_that_is_left_out_for_the_most_part_is_refused(folder, tmp_path):
    (folder / "qrels/test.tsv").write_text("q3\ti1\t1\nq3\ti2\t0\nq7\ti1\t0\nq11\ti1\t0\n")
    with pytest.raises(DataError, match=r"set: 2 of 3 queries of the test split are left out.*data\.max_left_out=0\.5"):
        prepare(folder, tmp_path / "out")
    assert len(lists(prepare(folder, tmp_path / "allowed", max_left_out=0.7), "test")) == 1


def test_a_file_of_negative_grades_is_refused(folder, tmp_path):
    (folder / "qrels/test.tsv").write_text("q3\ti1\t1\nq3\ti2\t-1\nq3\ti3\t-2\n")
    with pytest.raises(DataError, match=r"2 of 3 lines of test\.tsv have a negative grade \(first: .*test\.tsv:2\)"):
        prepare(folder, tmp_path / "out")


def test_a_query_is_never_its_own_candidate(folder, tmp_path):
    keep_relevant(folder)
    texts = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))}
    corpus = [{"_id": "q3", "text": texts["q3"] + " and more"}, {"_id": "same", "text": texts["q7"].upper()},
              {"_id": "body", "title": "a title", "text": f" {texts['q11']}  "}]  # fmt: skip
    append(folder / "corpus.jsonl", "".join(json.dumps(row) + "\n" for row in corpus))
    found = lists(prepare(folder, tmp_path / "out", candidates=30), "test")
    for query, own in (("q3", "q3"), ("q7", "same"), ("q11", "body")):
        assert own not in found[query]
        assert len(found[query]) == 30


def test_a_query_that_is_judged_for_itself_is_told(folder, tmp_path, caplog):
    texts = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))}
    append(folder / "corpus.jsonl", json.dumps({"_id": "q3", "text": texts["q3"]}) + "\n")
    append(folder / "corpus.jsonl", json.dumps({"_id": "q7", "text": "quite another thing"}) + "\n")
    append(folder / "qrels/test.tsv", "q3\tq3\t3\nq7\tq7\t3\n")
    found = lists(prepare(folder, tmp_path / "out"), "test")
    assert "q3" not in found["q3"]
    assert found["q7"]["q7"] == 3  # the same number by chance, and judged
    (told,) = (line for line in caplog.messages if "judge themselves" in line)
    assert told.startswith("set: 1 of 6 queries of the test split")


def test_a_copy_of_a_relevant_item_is_not_filled_in_as_grade_0(folder, tmp_path, caplog):
    keep_relevant(folder)
    query, grades = next((q, g) for q, g in qrels(folder, "test").items() if g)
    texts = {row["_id"]: row["text"] for row in map(json.loads, (folder / "corpus.jsonl").open(encoding="utf-8"))}
    append(folder / "corpus.jsonl", "".join(
        json.dumps({"_id": f"copy-{item}", "text": texts[item].title()}) + "\n" for item in grades))  # fmt: skip
    found = lists(prepare(folder, tmp_path / "out", candidates=60), "test")[query]
    assert len(found) == 60
    assert not [item for item in found if item.startswith("copy-")]
    assert [line for line in caplog.messages if "items of corpus.jsonl have the text of another" in line]


def test_copies_and_empty_items_are_refused_where_they_are_most(folder, tmp_path):
    append(folder / "corpus.jsonl", "".join(f'{{"_id": "c{n}", "text": "the same"}}\n' for n in range(90)))
    with pytest.raises(
        DataError, match=r"items of corpus\.jsonl have the text of another \(.*corpus\.jsonl:\d+: 'c?i?\d"
    ):
        prepare(folder, tmp_path / "copies")
    rows = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:80]
    empty = [f'{{"_id": "e{n}", "text": ""}}' for n in range(81)]
    (folder / "corpus.jsonl").write_text("\n".join(rows + empty), encoding="utf-8")
    with pytest.raises(DataError, match=r"81 of 161 items of corpus\.jsonl have no text \(first: .*corpus\.jsonl:81\)"):
        prepare(folder, tmp_path / "empty")


def test_empty_items_and_unjudged_queries_are_told(folder, tmp_path, caplog):
    append(folder / "corpus.jsonl", '{"_id": "void", "text": ""}\n')
    append(folder / "queries.jsonl", '{"_id": "idle", "text": "lamp"}\n')
    prepare(folder, tmp_path / "out")
    assert [line for line in caplog.messages if "1 of 81 items of corpus.jsonl have no text (first: " in line]
    assert [line for line in caplog.messages if "1 of 25 queries of queries.jsonl are judged in no split" in line]


def test_a_test_split_that_stands_in_train_is_refused(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    for test, train in ((3, 0), (7, 1), (11, 4), (15, 5)):
        rows[test]["text"] = f" {rows[train]['text'].upper()}"
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"4 of 6 queries of the test split have the text of one of train"):
        prepare(folder, tmp_path / "out")
    prepare(folder, tmp_path / "allowed", max_left_out=1.0)


def test_what_matches_is_told_nothing(tmp_path, caplog):
    write_beir(tmp_path / "set", items=12, judged=8, seed=3)
    rows = [json.loads(line) for line in (tmp_path / "set/corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    named = [json.dumps(row | {"title": f"item {number}"}) for number, row in enumerate(rows)]
    (tmp_path / "set/corpus.jsonl").write_text("\n".join(named))
    for split in SPLITS:
        graded = {query: {item: place % 2 for place, item in enumerate(grades)}
                  for query, grades in qrels(tmp_path / "set", split).items()}  # fmt: skip
        text = "".join(f"{q}\t{i}\t{g}\n" for q, grades in graded.items() for i, g in grades.items())
        (tmp_path / "set/qrels" / f"{split}.tsv").write_text(HEADER + text)
    prepare(tmp_path / "set", tmp_path / "out")
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("share", "fine"), [(0.0, True), (0.5, True), (1.0, True), (-0.1, False), (1.1, False)])
def test_the_share_that_may_be_unfit_is_from_0_to_1(share, fine):
    told = [line for line in broken_rules(BeirData(path=".", max_left_out=share), "data.") if "max_left_out" in line]
    assert told == ([] if fine else [f"data.max_left_out={share}: allowed is a number from 0 to 1"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_copies_are_those_after_the_first(values):
    count, (row, other) = copies([text_key(f"text {value}") for value in values])
    assert count == len(values) - len(set(values))
    if count:
        assert values[row] == values[other]
        assert other < row


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["{:08d}", "{}.0", " {} ", '"{}"', "'{}'", "\ufeff{}"]))
def test_ids_that_differ_in_writing_alone_are_alike(number, form):
    assert repr(str(number)) in alike(form.format(number), [str(number)], "corpus.jsonl")
    assert not alike(form.format(number), [str(number + 1)], "corpus.jsonl")
