"""A data set that `datasets.load_dataset` knows, by its name on the hub or as a local folder, with a column mapping."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.beir import MAX_GRADE
from distill.errors import DataError
from distill.records import SPLITS, RankingWriter


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

    Raises:
        DataError: if the data set cannot be loaded or a row does not fit the mapping; names the split and the row.
    """
    tables = {split: _load(source, subset, theirs) for split, theirs in splits.items()}
    counts = {split: min(len(table), max_queries or len(table)) for split, table in tables.items()}
    drawn = np.random.default_rng(seed).permutation(counts["train"])
    dev = set(drawn[: max(1, round(len(drawn) * dev_fraction))].tolist()) if "dev" not in splits else set()
    item_rows: dict[bytes, int] = {}  # by digest, so that the texts themselves need not stay in memory
    query_split: dict[str, str] = {}
    with RankingWriter(out, name=name, relevant=relevant, notes={"source": source}) as writer:
        for split in (split for split in SPLITS if split in tables):
            for number, row in enumerate(_rows(tables[split], f"{source}[{splits[split]}]", columns, counts[split])):
                target = "dev" if split == "train" and number in dev else split
                if split == "train":  # a query that stands there again follows its first row
                    target = query_split.get(row.query, target)
                if query_split.setdefault(row.query, target) != target:
                    raise DataError(f"{row.where}: {row.query[:60]!r} is a query of {query_split[row.query]} too")
                grades: dict[int, int] = {}
                for text, grade in zip(row.items, row.grades, strict=True):
                    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
                    if key not in item_rows:
                        item_rows[key] = writer.add_item(f"i{len(item_rows)}", text)
                    grades[item_rows[key]] = max(grade, grades.get(item_rows[key], 0))
                query = writer.add_query(f"{target}-{number}", row.query)
                items = np.random.default_rng([seed, zlib.crc32(row.query.encode())]).permutation(list(grades)).tolist()
                writer.add_candidates(target, query, items, [grades[item] for item in items])


def _load(source: str, subset: str | None, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(source, subset, split=split)
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
        row = table[number]
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
        return items, [max(int(grade), 0) for grade in grades]
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
