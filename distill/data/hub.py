"""A data set that `datasets.load_dataset` knows, by its name on the hub or as a local folder, with a column mapping."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import tempfile
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch, text_key
from rankdistill.data.qrels import MAX_GRADE
from rankdistill.data.records import SPLITS, RankingWriter
from rankdistill.data.text_files import cache_folder
from rankdistill.errors import DataError
from rankdistill.export.files import write_atomic

log = logging.getLogger(__name__)


HUB_TIMEOUT_S = 10.0
COMMIT = re.compile("[0-9a-f]{40}")

BOTH = "have a candidate twice with two grades"
OWN = "have their own text among the items of grade 0"
NEGATIVE = "have negative grades"
TRAINED = "have the text of one of train but for case and spaces"
ADVICE = {
    BOTH: "the higher is kept",
    OWN: "it is left out",
    NEGATIVE: "they are read as 0",
    TRAINED: "that flatters what is measured: leave each text in one split",
}


@dataclass(frozen=True)
class Row:
    """One query with its candidates' texts and grades, and where it stands."""

    where: str
    query: str
    items: list[str]
    grades: list[int]


def prepare(
    source: str,
    out: Path,
    *,
    subset: str | None,
    columns: Mapping[str, str],
    splits: Mapping[str, str],
    name: str,
    relevant: int,
    dev_fraction: float,
    max_queries: int | None,
    seed: int,
    revision: str | None = None,
    max_left_out: float = MOST_LEFT_OUT,
) -> None:
    """Write the candidate lists of a data set whose rows are queries.

    Args:
        source: name on the hub, or local folder.
        out: an empty folder.
        subset: configuration of the data set, None for its only one.
        columns: query, items and grades (lists; a dot goes into a struct); or query, positive and negative (lists).
        splits: the data set's names for train, test and, if it has one, dev.
        name: of the data set in reports.
        relevant: least grade that is relevant in MRR and MAP.
        dev_fraction: share of train's queries that become dev where `splits` names none.
        max_queries: most queries of each split, None for all.
        seed: of that share, and of the order of candidates.
        revision: commit, tag or branch of a data set on the hub; None is what it has now.
        max_left_out: share of a split's queries that may be unfit; with more the set is refused.

    Raises:
        DataError: if the data set cannot be loaded or a row does not fit the mapping; names the split and the row.
    """
    mismatch = Mismatch(name, max_left_out)
    writing = RankingWriter(out, name=name, relevant=relevant, notes={"source": source}, max_left_out=max_left_out)
    # of a local folder `datasets` would take what it read before where a file's time is the same: it reads anew
    with tempfile.TemporaryDirectory(dir=out, prefix="read-") as fresh, writing as writer:
        cache = fresh if Path(source).is_dir() else None
        tables = {split: _load(source, subset, theirs, revision, cache) for split, theirs in splits.items()}
        counts = {split: min(len(table), max_queries or len(table)) for split, table in tables.items()}
        drawn = np.random.default_rng(seed).permutation(counts["train"])
        dev = set(drawn[: max(1, round(len(drawn) * dev_fraction))].tolist()) if "dev" not in splits else set()
        lists = _Lists(writer)
        for split in (split for split in SPLITS if split in tables):
            for number, row in enumerate(_rows(tables[split], f"{source}[{splits[split]}]", columns, counts[split])):
                lists.add(row, split, "dev" if split == "train" and number in dev else split, number, seed)
        lists.tell(mismatch)
        tables.clear()


class _Lists:
    """Writes rows as candidate lists, each text an item once, and counts what of them does not match."""

    def __init__(self, writer: RankingWriter) -> None:
        self._writer = writer
        self._items: dict[bytes, int] = {}  # by digest, so that the texts themselves need not stay in memory
        self._split_of: dict[str, str] = {}
        self._trained: set[int] = set()  # text keys
        self._rows = dict.fromkeys(SPLITS, 0)
        self._odd: dict[tuple[str, str], list[str]] = {}  # (what is wrong, split) -> where, of each row

    def add(self, row: Row, split: str, target: str, number: int, seed: int) -> None:
        """Write a row of the data set's `split`, which goes into `target`.

        Raises:
            DataError: if its query stands in another split too.
        """
        if split == "train":  # a query that stands there again follows its first row
            target = self._split_of.get(row.query, target)
        if self._split_of.setdefault(row.query, target) != target:
            raise DataError(f"{row.where}: {row.query[:60]!r} is a query of {self._split_of[row.query]} too")
        grades = self._graded(row, target)
        self._rows[target] += 1
        key = text_key(row.query)
        if target == "train":
            self._trained.add(key)
        elif key in self._trained:
            self._count(TRAINED, target, row)
        query = self._writer.add_query(f"{target}-{number}", row.query)
        items = np.random.default_rng([seed, zlib.crc32(row.query.encode())]).permutation(list(grades)).tolist()
        self._writer.add_candidates(target, query, items, [grades[item] for item in items])

    def tell(self, mismatch: Mismatch) -> None:
        """Tell what did not match, and refuse what is too much."""
        for (what, split), where in self._odd.items():
            told = f"queries of the {split} split {what} (first: {where[0]})"
            mismatch.tell(len(where), self._rows[split], told, ADVICE[what])

    def _graded(self, row: Row, split: str) -> dict[int, int]:
        grades: dict[int, int] = {}
        own, both, negative = text_key(row.query), False, min(row.grades, default=0) < 0
        copied = False
        for text, told in zip(row.items, row.grades, strict=True):
            grade = max(told, 0)
            if grade == 0 and text_key(text) == own:
                copied = True
                continue
            key = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if key not in self._items:
                self._items[key] = self._writer.add_item(f"i{len(self._items)}", text)
            item = self._items[key]
            both |= item in grades and grades[item] != grade
            grades[item] = max(grade, grades.get(item, 0))
        for what, wrong in ((BOTH, both), (OWN, copied), (NEGATIVE, negative)):
            if wrong:
                self._count(what, split, row)
        return grades

    def _count(self, what: str, split: str, row: Row) -> None:
        self._odd.setdefault((what, split), []).append(row.where)


def commit_of(source: str, revision: str | None) -> str | None:
    """Return the commit that a data set on the hub has under a revision, or had when it was last asked.

    Args:
        source: its name.
        revision: commit, tag or branch; None is the main branch.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    memory = cache_folder() / "commits" / urllib.parse.quote(f"{source}@{revision or 'main'}", safe="@")
    try:
        commit = HfApi().dataset_info(source, revision=revision, timeout=HUB_TIMEOUT_S).sha
    except Exception as error:  # the hub's client raises requests', its own and OS errors
        known = memory.read_text(encoding="utf-8") if memory.is_file() else revision
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("data.path=%s: the hub does not tell its commit (%s); taken is %s", source, reason, known or "any")
        return known
    with contextlib.suppress(OSError):  # only runs without network miss it
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, commit or "")
    return commit


def _load(source: str, subset: str | None, split: str, revision: str | None, cache: str | None) -> Any:
    import datasets

    load: Callable[..., Any] = datasets.load_dataset
    try:
        return load(source, subset, split=split, revision=revision, cache_dir=cache)
    except Exception as error:  # datasets raises its own, OS, value and network errors
        cause = error.__cause__ or error  # what broke, where datasets only says that something did
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise DataError(
            f"data.path={source}: its split {split!r} cannot be loaded ({reason}); check the name, data.subset, "
            "data.splits and the network, or give a local folder"
        ) from error


def _rows(table: Any, where: str, columns: Mapping[str, str], count: int) -> Iterator[Row]:
    for column in columns.values():
        if column.partition(".")[0] not in table.column_names:
            raise DataError(f"{where}: no column {column!r}; there are {', '.join(table.column_names)}")
    for number in range(count):
        place = f"{where} row {number}"
        try:
            row = table[number]
        except UnicodeDecodeError as error:  # `datasets` reads JSON of any bytes, and decodes when it is asked
            raise DataError(f"{place}: not utf-8 text ({error.reason}); convert the file") from error
        query = _value(row, columns["query"], place)
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"{place}: {columns['query']} {query!r} is no text")
        items, grades = _graded(row, columns, place)
        yield Row(place, query.strip(), items, grades)


def _graded(row: Mapping[str, Any], columns: Mapping[str, str], place: str) -> tuple[list[str], list[int]]:
    if "items" in columns:
        items, grades = _texts(row, columns["items"], place), _value(row, columns["grades"], place)
        if not isinstance(grades, list) or len(grades) != len(items):
            raise DataError(f"{place}: {columns['grades']} is no list as long as {columns['items']}")
        for grade in grades:
            whole = isinstance(grade, int) or (isinstance(grade, float) and grade.is_integer())
            if not whole or grade > MAX_GRADE:
                raise DataError(f"{place}: {columns['grades']} {grade!r} is no whole number up to {MAX_GRADE}")
        return items, [int(grade) for grade in grades]
    positive, negative = _texts(row, columns["positive"], place), _texts(row, columns["negative"], place)
    return [*positive, *negative], [1] * len(positive) + [0] * len(negative)


def _texts(row: Mapping[str, Any], column: str, place: str) -> list[str]:
    values = _value(row, column, place)
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{place}: {column} is no list of texts that are not empty")
    return [value.strip() for value in values]


def _value(row: Mapping[str, Any], column: str, place: str) -> Any:
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            there = ", ".join(value) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise DataError(f"{place}: no {part!r} in {column!r}; there is {there}")
        value = value[part]
    return value
