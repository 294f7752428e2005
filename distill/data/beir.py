"""A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.files import lines, read_objects, text_of
from distill.data.first_stage import BM25
from distill.errors import DataError
from distill.records import SPLITS, RankingWriter, TextTable

log = logging.getLogger(__name__)

MAX_GRADE = 30  # 2^30 - 1 is still exact as a gain; a greater one is no grade but a score
COLUMNS = 3
HEADER = "query-id"
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # int() alone takes 1_0 and digits of other scripts too

Judged = dict[str, dict[str, int]]  # query id -> item id -> grade


@dataclass(frozen=True)
class Corpus:
    """Rows of the item table by id, and where items without a text stand."""

    rows: Mapping[str, int]
    empty: Mapping[str, str]


def prepare(
    folder: Path, out: Path, *, name: str, relevant: int, candidates: int, dev_fraction: float, seed: int
) -> None:
    """Write a BEIR folder's candidate lists.

    Args:
        folder: of the data set.
        out: an empty folder.
        name: of the data set in reports.
        relevant: least grade that is relevant in MRR and MAP.
        candidates: length of a list where a split judges relevant items only; BM25 fills it from the corpus, grade 0.
        dev_fraction: share of train's queries that become dev where there is no qrels/dev.tsv.
        seed: of that share, and of the order of candidates.

    Raises:
        DataError: naming the file and line of the first thing that is wrong.
    """
    _require(folder)
    judged = _read_judged(folder, dev_fraction, seed)
    with RankingWriter(out, name=name, relevant=relevant, notes={"source": name}) as writer:
        corpus = _write_items(folder / "corpus.jsonl", writer)
        queries = _write_queries(folder / "queries.jsonl", judged, writer)
        _check_known(folder, judged, corpus, queries)
        _tell_shared(name, judged, queries)
        items = writer.finish_items()
        bare = {
            split
            for split in SPLITS
            if judged[split] and min(min(grades.values()) for grades in judged[split].values()) >= relevant
        }
        fill = _Fill(items, candidates) if bare else None
        for split in SPLITS:
            for query, grades in judged[split].items():
                row, text = queries[query]
                known = {corpus.rows[item]: grade for item, grade in grades.items()}
                full = fill(text, known) if fill is not None and split in bare else known
                rows = np.random.default_rng([seed, zlib.crc32(query.encode())]).permutation(list(full)).tolist()
                writer.add_candidates(split, row, rows, [full[item] for item in rows])


class _Fill:
    """Fills relevant items up with BM25's best, as grade 0."""

    def __init__(self, items: TextTable, candidates: int) -> None:
        self._index = BM25(items.batches(8192))
        self._candidates = candidates

    def __call__(self, query: str, graded: Mapping[int, int]) -> dict[int, int]:
        found, _ = self._index.top(query, self._candidates)
        filled = dict(graded)
        for row in found.tolist():
            if len(filled) >= self._candidates:
                break
            filled.setdefault(row, 0)
        return filled


def _require(folder: Path) -> None:
    wanted = ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; a BEIR folder has {', '.join(wanted)}")


def _read_judged(folder: Path, dev_fraction: float, seed: int) -> dict[str, Judged]:
    """Read the qrels of every split; each line must be sound, and no query stand in two splits."""
    judged: dict[str, Judged] = {split: {} for split in SPLITS}
    split_of: dict[str, str] = {}
    for split in SPLITS:
        path = folder / "qrels" / f"{split}.tsv"
        if not path.is_file():
            continue
        for where, query, item, grade in _read_qrels(path):
            if split_of.setdefault(query, split) != split:
                raise DataError(f"{where}: query {query!r} is in {split_of[query]}.tsv too; a query is in one split")
            grades = judged[split].setdefault(query, {})
            if item in grades:
                raise DataError(f"{where}: the pair {query!r}, {item!r} stands there twice; leave one of its lines")
            grades[item] = grade
    if not (folder / "qrels" / "dev.tsv").is_file():
        ids = sorted(judged["train"])
        drawn = np.random.default_rng(seed).permutation(len(ids))[: max(1, round(len(ids) * dev_fraction))]
        judged["dev"] = {ids[row]: judged["train"].pop(ids[row]) for row in sorted(drawn.tolist())}
    return judged


def _read_qrels(path: Path) -> Iterator[tuple[str, str, str, int]]:
    for number, line in lines(path):
        where, columns = f"{path}:{number}", line.split("\t")
        if number == 1 and columns[0] == HEADER:
            continue
        if len(columns) != COLUMNS:
            raise DataError(
                f"{where}: {len(columns)} columns; query-id, corpus-id and score, separated by tabs, are needed"
            )
        query, item, text = (column.strip() for column in columns)
        if not WHOLE.fullmatch(text):
            raise DataError(f"{where}: score {text!r} is no whole number; grades are 0 to {MAX_GRADE}")
        grade = int(text)
        if grade > MAX_GRADE:
            raise DataError(f"{where}: score {grade} is no grade; at most {MAX_GRADE}")
        yield where, query, item, max(grade, 0)


def _read_texts(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield ("file:line", id, the texts under `keys` that are not empty); only `text` must be there, empty or not."""
    for where, row in read_objects(path):
        if row.get("text") is None:
            raise DataError(f"{where}: text is missing; give it as a string")
        parts = [part for part in (text_of(row, key, where) for key in keys) if part]
        try:
            "".join([row["_id"], *parts]).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: half a surrogate pair ({error.reason}); escape the whole character") from None
        yield where, row["_id"], parts


def _write_items(path: Path, writer: RankingWriter) -> Corpus:
    rows: dict[str, int] = {}
    empty: dict[str, str] = {}
    for where, item, parts in _read_texts(path, ("title", "text")):
        if item in rows or item in empty:
            raise DataError(f"{where}: item {item!r} stands there twice; leave one of its lines")
        if parts:
            rows[item] = writer.add_item(item, " ".join(parts), title=len(parts[0]))
        else:
            empty[item] = where
    return Corpus(rows, empty)


def _check_known(folder: Path, judged: Mapping[str, Judged], corpus: Corpus, queries: Mapping[str, object]) -> None:
    """Refuse qrels that name what is not there; the files are read again only to say in which line."""
    for split, lists in judged.items():
        items = {item for grades in lists.values() for item in grades}
        if items <= corpus.rows.keys() and lists.keys() <= queries.keys():
            continue
        files = [folder / "qrels" / f"{name}.tsv" for name in (split, "train")]  # dev may be cut from train
        for where, query, item, _ in (row for path in files if path.is_file() for row in _read_qrels(path)):
            if item in corpus.empty:
                raise DataError(f"{corpus.empty[item]}: item {item!r} has no text, yet {where} judges it; remove one")
            if item not in corpus.rows:
                raise DataError(f"{where}: item {item!r} is not in corpus.jsonl; add it there or remove the line")
            if query not in queries:
                raise DataError(f"{where}: query {query!r} is not in queries.jsonl; add it there or remove the line")


def _tell_shared(name: str, judged: Mapping[str, Judged], queries: Mapping[str, tuple[int, str]]) -> None:
    """Warn of queries that are trained on under another id: what is measured of them is flattered."""
    trained = {queries[query][1] for query in judged["train"]}
    for split in SPLITS[1:]:
        shared = sum(queries[query][1] in trained for query in judged[split])
        if shared:
            log.warning(
                "%s: %s of %s queries of the %s split have the text of one of train, which flatters what is measured; "
                "leave each text in one split", name, shared, len(judged[split]), split,
            )  # fmt: skip


def _write_queries(path: Path, judged: Mapping[str, Judged], writer: RankingWriter) -> dict[str, tuple[int, str]]:
    wanted = {query for lists in judged.values() for query in lists}
    found: dict[str, tuple[int, str]] = {}
    seen: set[str] = set()
    for where, query, parts in _read_texts(path, ("text",)):
        if query in seen:
            raise DataError(f"{where}: query {query!r} stands there twice; leave one of its lines")
        seen.add(query)
        if query not in wanted:
            continue
        if not parts:
            raise DataError(f"{where}: query {query!r} has no text; give it one or remove its qrels")
        (text,) = parts
        found[query] = (writer.add_query(query, text), text)
    return found
