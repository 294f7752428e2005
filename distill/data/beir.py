"""A folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv."""

from __future__ import annotations

import logging
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankdistill.data.bm25 import BM25
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch, line_of, text_key
from rankdistill.data.qrels import Judged, check_known, first_line, read_judged
from rankdistill.data.records import SPLITS, Int64, RankingWriter, TextTable
from rankdistill.data.text_files import read_objects, text_of
from rankdistill.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Items by id and by text, and where items without a text stand.

    Attributes:
        rows: of the item table.
        empty: "file:line" of items without a text.
        whole: int64 [items], `text_key` of all of an item's text.
        body: int64 [items], `text_key` of what stands after its title.
    """

    rows: Mapping[str, int]
    empty: Mapping[str, str]
    whole: Int64
    body: Int64

    def has(self, row: int, text: str) -> bool:
        """Return whether this is an item's text, with its title or without."""
        return text_key(text) in (self.whole[row], self.body[row])


@dataclass(frozen=True)
class Query:
    """A judged query: its row of the query table, its id and its text."""

    row: int
    id: str
    text: str


def prepare(
    folder: Path,
    out: Path,
    *,
    name: str,
    relevant: int,
    candidates: int | None,
    dev_fraction: float,
    seed: int,
    max_left_out: float = MOST_LEFT_OUT,
) -> None:
    """Write a BEIR folder's candidate lists.

    Args:
        folder: of the data set.
        out: an empty folder.
        name: of the data set in reports.
        relevant: least grade that is relevant in MRR and MAP.
        candidates: length of a list that judges relevant items only; BM25 fills it from the corpus, grade 0;
            None leaves it as it is.
        dev_fraction: share of train's queries that become dev where there is no qrels/dev.tsv.
        seed: of that share, and of the order of candidates.
        max_left_out: share of a file's lines or a split's queries that may be unfit; with more the set is refused.

    Raises:
        DataError: naming the file and line of the first thing that is wrong.
    """
    _require(folder)
    mismatch = Mismatch(name, max_left_out)
    judged = read_judged(folder, dev_fraction, seed, mismatch)
    writing = RankingWriter(out, name=name, relevant=relevant, notes={"source": name}, max_left_out=max_left_out)
    with writing as writer:
        corpus = _write_items(folder / "corpus.jsonl", writer, mismatch)
        queries = _write_queries(folder / "queries.jsonl", judged, writer, mismatch)
        check_known(folder, judged, corpus.rows.keys(), queries.keys(), corpus.empty)
        _tell_shared(folder, judged, queries, mismatch)
        lists = _without_own(folder, judged, queries, corpus, mismatch)
        items = writer.finish_items()
        bare = _bare(folder, lists, relevant, name) if candidates is not None else set()
        fill = _Fill(items, corpus, candidates) if candidates is not None and bare else None
        for split in SPLITS:
            for query, grades in lists[split].items():
                asked = queries[query]
                full = fill(asked, grades) if fill is not None and query in bare else grades
                rows = np.random.default_rng([seed, zlib.crc32(query.encode())]).permutation(list(full)).tolist()
                writer.add_candidates(split, asked.row, rows, [full[item] for item in rows])


class _Fill:
    """Fills relevant items up with BM25's best, as grade 0."""

    def __init__(self, items: TextTable, corpus: Corpus, candidates: int) -> None:
        self._index = BM25(items.batches(8192))
        self._corpus = corpus
        self._candidates = candidates

    def __call__(self, query: Query, graded: Mapping[int, int]) -> dict[int, int]:
        """Return a list filled up, never with the query itself or another copy of a judged text."""
        missing = self._candidates - len(graded)
        if missing <= 0:
            return dict(graded)
        keys = [text_key(query.text), *self._corpus.whole[list(graded)].tolist()]
        own = self._corpus.rows.get(query.id, -1)
        fit: list[int] = []
        for most in (2 * self._candidates, len(self._corpus.whole)):
            found, _ = self._index.top(query.text, most)
            unfit = np.isin(self._corpus.whole[found], keys) | (self._corpus.body[found] == keys[0]) | (found == own)
            fit = found[~unfit].tolist()
            if len(fit) >= missing:
                break
        return {**graded, **dict.fromkeys(fit[:missing], 0)}


def _bare(folder: Path, lists: Mapping[str, Mapping[str, Mapping[int, int]]], relevant: int, name: str) -> set[str]:
    """Return the queries with relevant items alone; where that is only a part of a split's, it is told."""
    bare: set[str] = set()
    for split, graded in lists.items():
        found = [query for query, grades in graded.items() if min(grades.values(), default=0) >= relevant]
        if 0 < len(found) < len(graded):
            log.warning(
                "%s: %s of %s queries of the %s split have relevant items only, the others not (first: %s); BM25 fills "
                "up theirs with grade 0", name, len(found), len(graded), split, first_line(folder, found[0]),
            )  # fmt: skip
        bare.update(found)
    return bare


def _without_own(
    folder: Path, judged: Mapping[str, Judged], queries: Mapping[str, Query], corpus: Corpus, mismatch: Mismatch
) -> dict[str, dict[str, dict[int, int]]]:
    """Return each split's lists by item row, without the item that is the query itself, under its id."""
    lists: dict[str, dict[str, dict[int, int]]] = {}
    for split, graded in judged.items():
        lists[split] = {query: {corpus.rows[i]: g for i, g in grades.items()} for query, grades in graded.items()}
        own = [q for q, grades in graded.items() if q in grades and corpus.has(corpus.rows[q], queries[q].text)]
        for query in own:
            del lists[split][query][corpus.rows[query]]
        what = f"queries of the {split} split judge themselves"
        example = f" (first: {first_line(folder, own[0])})" if own else ""
        mismatch.tell(len(own), len(graded), what + example, "the item of a query's own id and text is left out")
    return lists


def _require(folder: Path) -> None:
    wanted = ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; a BEIR folder has {', '.join(wanted)}")


def _read_texts(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield ("file:line", id, the texts under `keys` that are not empty); only `text` must be there, empty or not."""
    for where, row in read_objects(path):
        if row.get("text") is None:
            raise DataError(f"{where}: text is missing; give it as a string")
        parts = [part for part in (text_of(row, key, where) for key in keys) if part]
        identity = row["_id"].strip()
        try:
            "".join([identity, *parts]).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: half a surrogate pair ({error.reason}); escape the whole character") from None
        yield where, identity, parts


def _write_items(path: Path, writer: RankingWriter, mismatch: Mismatch) -> Corpus:
    rows: dict[str, int] = {}
    empty: dict[str, str] = {}
    whole, body = array("q"), array("q")
    for where, item, parts in _read_texts(path, ("title", "text")):
        if item in rows or item in empty:
            raise DataError(f"{where}: item {item!r} stands there twice; leave one of its lines")
        if not parts:
            empty[item] = where
            continue
        text = " ".join(parts)
        rows[item] = writer.add_item(item, text, title=len(parts[0]))
        whole.append(text_key(text))
        body.append(text_key(parts[-1]) if len(parts) > 1 else whole[-1])
    what = f"items of {path.name} have no text (first: {next(iter(empty.values()), '')})"
    mismatch.tell(len(empty), len(rows) + len(empty), what, "they are never candidates")
    corpus = Corpus(rows, empty, np.array(whole, dtype=np.int64), np.array(body, dtype=np.int64))
    mismatch.tell_copies(path, corpus.whole, list(rows))
    return corpus


def _tell_shared(folder: Path, judged: Mapping[str, Judged], queries: Mapping[str, Query], mismatch: Mismatch) -> None:
    """Tell of queries that are trained on under another id: what is measured of them is flattered."""
    trained = {text_key(queries[query].text): query for query in judged["train"]}
    for split in SPLITS[1:]:
        shared = [query for query in judged[split] if text_key(queries[query].text) in trained]
        if shared:
            other = trained[text_key(queries[shared[0]].text)]
            where = line_of(folder / "queries.jsonl", shared[0])
            what = f"queries of the {split} split have the text of one of train ({where}: {shared[0]!r} as {other!r})"
            advice = "that flatters what is measured: leave each text in one split"
            mismatch.tell(len(shared), len(judged[split]), what, advice)


def _write_queries(
    path: Path, judged: Mapping[str, Judged], writer: RankingWriter, mismatch: Mismatch
) -> dict[str, Query]:
    wanted = {query for lists in judged.values() for query in lists}
    found: dict[str, Query] = {}
    seen: set[str] = set()
    unjudged = ""
    for where, query, parts in _read_texts(path, ("text",)):
        if query in seen:
            raise DataError(f"{where}: query {query!r} stands there twice; leave one of its lines")
        seen.add(query)
        if query not in wanted:
            unjudged = unjudged or where
            continue
        if not parts:
            raise DataError(f"{where}: query {query!r} has no text; give it one or remove its qrels")
        (text,) = parts
        found[query] = Query(writer.add_query(query, text), query, text)
    what = f"queries of {path.name} are judged in no split (first: {unjudged})"
    mismatch.tell(len(seen) - len(found), len(seen), what, "they are not read", 1.0)
    return found
