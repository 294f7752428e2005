"""Texts of items and queries that an event may name by their ids alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rankdistill.data.records import RankingData, TextTable
from rankdistill.data.text_files import read_objects, text_of
from rankdistill.errors import DataError


@dataclass(frozen=True)
class Catalogue:
    """Texts by id.

    Attributes:
        items: text of each item.
        queries: text of each query, or user.
    """

    items: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: RankingData) -> Catalogue:
        """Return a data set's texts."""
        return cls(_by_id(data.items), _by_id(data.queries))

    @classmethod
    def read(cls, folder: Path) -> Catalogue:
        """Read items.jsonl (or corpus.jsonl, as BEIR calls it) and queries.jsonl; a text is its title and text.

        Raises:
            DataError: if a file is broken (naming the line), or there is none of them.
        """
        names = [name for name in ("items.jsonl", "corpus.jsonl") if (folder / name).is_file()]
        queries = folder / "queries.jsonl"
        if not names and not queries.is_file():
            raise DataError(f"{folder} has no items.jsonl, corpus.jsonl or queries.jsonl to take texts from")
        return cls(items=_read(folder / names[0]) if names else {}, queries=_read(queries) if queries.is_file() else {})


def _by_id(table: TextTable) -> dict[str, str]:
    return dict(zip(table.ids(), table.texts(), strict=True))


def _read(path: Path) -> dict[str, str]:
    texts = {}
    for where, row in read_objects(path):
        text = " ".join(part for key in ("title", "text") if (part := text_of(row, key, where)))
        if row["_id"] in texts:
            raise DataError(f"{where}: {row['_id']!r} stands there twice")
        if text:
            texts[row["_id"]] = text
    return texts
