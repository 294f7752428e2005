"""Data sets of `datasets.load_dataset`, from local folders: both shapes of columns, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankdistill.data import hub
from rankdistill.data.records import SPLITS, RankingData
from rankdistill.data.sources import locate
from rankdistill.errors import DataError
from rankdistill.options import HubData

MARCO = {"query": "query", "items": "passages.passage_text", "grades": "passages.is_selected"}
MTEB = {"query": "query", "positive": "positive", "negative": "negative"}
THREE = {"train": "train", "dev": "validation", "test": "test"}


def write(folder: Path, rows: dict[str, list[dict]]) -> Path:
    folder.mkdir()
    for split, objects in rows.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in objects]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def marco(prefix: str, count: int = 3) -> list[dict]:
    return [
        {"query": f"{prefix} query {n}", "passages": {"passage_text": [f"{prefix} {n} a", "shared", f"灯 {n}"],
                                                       "is_selected": [0, 1, 0]}}
        for n in range(count)
    ]  # fmt: skip


def prepare(source: Path, out: Path, columns=MARCO, splits=THREE, **options) -> RankingData:
    out.mkdir()
    settings = {
        "subset": None,
        "name": "set",
        "relevant": 1,
        "dev_fraction": 0.4,
        "max_queries": None,
        "seed": 0,
    } | options
    hub.prepare(str(source), out, columns=columns, splits=splits, **settings)
    return RankingData.open(out)


def lists(data: RankingData, split: str) -> dict[str, dict[str, int]]:
    part = data.splits[split]
    queries, items = data.queries.texts(), data.items.texts()
    return {
        queries[row]: {items[part.item[p]]: int(part.grade[p]) for p in range(part.offsets[n], part.offsets[n + 1])}
        for n, row in enumerate(part.query)
    }


def test_rows_with_lists_in_a_struct(tmp_path):
    source = write(tmp_path / "set", {"train": marco("a"), "validation": marco("b"), "test": marco("c")})
    data = prepare(source, tmp_path / "out")
    assert lists(data, "train")["a query 1"] == {"a 1 a": 0, "shared": 1, "灯 1": 0}
    assert {split: len(lists(data, split)) for split in SPLITS} == {"train": 3, "dev": 3, "test": 3}
    assert data.items.texts().count("shared") == 1


def test_rows_with_positives_and_negatives_and_dev_cut_from_train(tmp_path):
    rows = [{"query": f"q{n}", "positive": [f"p{n}"], "negative": [f"n{n}", "m"]} for n in range(5)]
    source = write(tmp_path / "set", {"train": rows, "test": [row | {"query": row["query"] + "t"} for row in rows]})
    data = prepare(source, tmp_path / "out", MTEB, {"train": "train", "test": "test"})
    train, dev = lists(data, "train"), lists(data, "dev")
    assert len(train) == 3
    assert len(dev) == 2
    assert not train.keys() & dev.keys()
    assert (train | dev)["q3"] == {"p3": 1, "n3": 0, "m": 0}


def test_parquet_reads_as_jsonl_does(tmp_path):
    from datasets import Dataset

    rows = {"train": marco("a"), "validation": marco("b"), "test": marco("c")}
    expected = prepare(write(tmp_path / "jsonl", rows), tmp_path / "a")
    for split, objects in rows.items():
        Dataset.from_list(objects).to_parquet(str(tmp_path / "parquet" / f"{split}.parquet"))
    data = prepare(tmp_path / "parquet", tmp_path / "b")
    assert [lists(data, split) for split in SPLITS] == [lists(expected, split) for split in SPLITS]
    assert data.summary["source"] == str(tmp_path / "parquet")


def test_a_query_that_stands_twice_in_train_is_not_parted_by_the_dev_cut(tmp_path):
    rows = [{"query": f"q{n % 20}", "positive": [f"p{n}"], "negative": ["n"]} for n in range(60)]
    test = [{"query": "t", "positive": ["p"], "negative": ["n"]}]
    source = write(tmp_path / "set", {"train": rows, "test": test})
    for seed in range(5):
        data = prepare(source, tmp_path / f"out{seed}", MTEB, {"train": "train", "test": "test"}, seed=seed)
        assert lists(data, "train").keys() | lists(data, "dev").keys() == {f"q{n}" for n in range(20)}
        assert not lists(data, "train").keys() & lists(data, "dev").keys()


def test_grades_may_be_whole_floats_up_to_the_greatest(tmp_path):
    def rows(query: str, grade: float) -> list[dict]:
        return [{"query": query, "passages": {"passage_text": ["x", "y"], "is_selected": [grade, 0.0]}}]

    floats = {"train": rows("a", 1.0), "validation": rows("b", 2.0), "test": rows("c", 30.0)}
    data = prepare(write(tmp_path / "fine", floats), tmp_path / "out")
    assert lists(data, "test") == {"c": {"x": 30, "y": 0}}
    for grade in (31.0, 0.5):
        source = write(tmp_path / str(grade), floats | {"test": rows("c", grade)})
        with pytest.raises(DataError, match=rf"\[test\] row 0: passages\.is_selected {grade} is no whole number"):
            prepare(source, tmp_path / f"out{grade}")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_file_that_changes_while_its_time_stays_is_read_anew(tmp_path, form):
    from datasets import Dataset

    source = tmp_path / "set"
    for tag in ("old", "new"):
        for split in ("train", "test"):
            rows = [{"query": f"{tag} {split} {n}", "items": [f"{tag} a{n}", "b"], "grades": [1, 0]} for n in range(5)]
            path = source / f"{split}.{form}"
            path.parent.mkdir(exist_ok=True)
            if form == "parquet":
                Dataset.from_list(rows).to_parquet(str(path))
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            os.utime(path, (1_600_000_000, 1_600_000_000))
        out, columns = tmp_path / tag, {"query": "query", "items": "items", "grades": "grades"}
        data = prepare(source, out, columns, {"train": "train", "test": "test"})
        assert {text.split()[0] for text in data.queries.texts()} == {tag}
        assert not [path for path in out.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("encoding", "message"), [("latin-1", r"row 0: not utf-8 text"), ("utf-16", "cannot be loaded")]
)
def test_a_local_file_in_another_encoding_is_refused_and_a_mark_is_no_text(tmp_path, encoding, message):
    rows = [{"query": f"q{n} für", "positive": ["p"], "negative": ["n"]} for n in range(4)]
    source = write(tmp_path / "set", {"train": rows, "test": [row | {"query": row["query"] + "t"} for row in rows]})
    contents = {path: path.read_text(encoding="utf-8") for path in source.iterdir()}
    for path, text in contents.items():
        path.write_text(text, encoding="utf-8-sig")
    data = prepare(source, tmp_path / "marked", MTEB, {"train": "train", "test": "test"})
    assert set(lists(data, "test")) == {f"q{n} fürt" for n in range(4)}
    for path, text in contents.items():
        path.write_text(text, encoding=encoding)
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / "out", MTEB, {"train": "train", "test": "test"})


def test_rows_that_do_not_match_are_counted(tmp_path, caplog):
    def rows(split: str) -> list[dict]:
        return [{"query": f"{split} {n}", "items": ["x", "y", f"z{n}"], "grades": [1, 0, 0]} for n in range(4)]

    test = rows("test")
    test[0] |= {"items": ["x", "y", "y"], "grades": [1, 0, 2]}
    test[1]["items"][2] = " TEST 1"
    test[2]["grades"] = [1, -1, 0]
    test[3]["query"] = "TRAIN  2"
    columns = {"query": "query", "items": "items", "grades": "grades"}
    source = write(tmp_path / "set", {"train": rows("train"), "validation": rows("dev"), "test": test})
    data = prepare(source, tmp_path / "out", columns)
    assert lists(data, "test") == {
        "test 0": {"x": 1, "y": 2}, "test 1": {"x": 1, "y": 0}, "test 2": {"x": 1, "y": 0, "z2": 0},
        "TRAIN  2": {"x": 1, "y": 0, "z3": 0},
    }  # fmt: skip
    told = sorted(line for line in caplog.messages if "of the test split" in line)
    assert len(told) == 4
    kinds = {0: "a candidate twice", 1: "their own text", 2: "negative grades", 3: "the text of one of train"}
    for number, what in kinds.items():
        (line,) = (line for line in told if what in line)
        assert line.startswith("set: 1 of 4 queries of the test split")
        assert f"row {number})" in line
    test = [row | {"grades": [1, -1, 0]} for row in rows("test")]
    source = write(tmp_path / "other", {"train": rows("train"), "validation": rows("dev"), "test": test})
    with pytest.raises(DataError, match=r"4 of 4 queries of the test split have negative grades \(first: .* row 0\)"):
        prepare(source, tmp_path / "out2", columns)


def test_a_set_on_the_hub_is_known_by_its_commit(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RANKDISTILL_CACHE", str(tmp_path))
    commits = {"main": "a" * 40, "v1": "b" * 40}

    class Api:
        def dataset_info(self, source, revision=None, timeout=None):
            if commits is None:
                raise OSError("no network")
            return SimpleNamespace(sha=commits[revision or "main"])

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub.commit_of("some/set", None) == "a" * 40
    assert hub.commit_of("some/set", "v1") == "b" * 40
    commits = None
    assert hub.commit_of("some/set", None) == "a" * 40  # as it was when it was last told
    assert hub.commit_of("some/set", "c" * 40) == "c" * 40
    assert hub.commit_of("other/set", None) is None
    assert [line for line in caplog.messages if "the hub does not tell its commit (no network)" in line]


def test_two_commits_and_two_names_of_a_set_are_two_stages(tmp_path, monkeypatch):
    source = write(tmp_path / "set", {"train": marco("a"), "test": marco("c")})
    copied = write(tmp_path / "copy", {"train": marco("a"), "test": marco("c")})
    one, other = (locate(HubData(path=str(path), columns=MARCO, splits=THREE)) for path in (source, copied))
    assert one.files == other.files
    assert one.options != other.options  # the name stands in reports
    with pytest.raises(DataError, match=r"data\.revision=v1: allowed is null with a local folder"):
        locate(HubData(path=str(source), revision="v1", columns=MARCO, splits=THREE))
    monkeypatch.setattr(hub, "commit_of", lambda source, revision: revision)
    asked = [locate(HubData(path="some/set", revision=each, columns=MARCO, splits=THREE)) for each in ("x", "y")]
    assert asked[0].options != asked[1].options


def test_max_queries_bounds_each_split(tmp_path):
    source = write(tmp_path / "set", {"train": marco("a"), "validation": marco("b"), "test": marco("c")})
    data = prepare(source, tmp_path / "out", max_queries=2)
    assert [len(lists(data, split)) for split in SPLITS] == [2, 2, 2]


def changed(row: int, **fields) -> list[dict]:
    rows = marco("c")
    rows[row] = {"query": "c", "passages": {"passage_text": ["x", "y"], "is_selected": [1, 0]}} | fields
    return rows


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (changed(1, query=" "), r"\[test\] row 1: query ' ' is no text"),
        (
            changed(2, passages={"passage_text": ["x", ""], "is_selected": [1, 0]}),
            r"row 2: passages\.passage_text is no",
        ),
        (
            changed(0, passages={"passage_text": ["x", "y"], "is_selected": [1]}),
            r"row 0: passages\.is_selected is no list",
        ),
        (changed(0, passages={"passage_text": ["x", "y"], "is_selected": [99, 0]}), r"row 0: passages\.is_selected 99"),
        (changed(0, query="a query 1"), r"row 0: 'a query 1' is a query of train too"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, test, message):
    source = write(tmp_path / "set", {"train": marco("a"), "validation": marco("b"), "test": test})
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / "out")


def test_a_missing_column_names_those_there_are(tmp_path):
    source = write(tmp_path / "set", {"train": marco("a"), "validation": marco("b"), "test": marco("c")})
    with pytest.raises(DataError, match="no column 'question'; there are query, passages"):
        prepare(source, tmp_path / "out", MARCO | {"query": "question"})
    with pytest.raises(DataError, match=r"row 0: no 'texts' in 'passages\.texts'; there is passage_text, is_selected"):
        prepare(source, tmp_path / "out2", MARCO | {"items": "passages.texts"})


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    source = write(tmp_path / "set", {"train": marco("a"), "test": marco("c")})
    with pytest.raises(DataError, match=r"its split 'validation' cannot be loaded") as error:
        prepare(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="cannot be loaded"):
        prepare(tmp_path / "nowhere", tmp_path / "out2")
