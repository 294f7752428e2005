"""The values that flow between stages: queries, items, and graded candidates, memory-mapped from Arrow files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rankdistill.data.batch_rows import take
from rankdistill.data.mismatch import MOST_LEFT_OUT, Mismatch
from rankdistill.errors import DataError

SPLITS = ("train", "dev", "test")
ROWS_PER_BATCH = 8192  # rows buffered by a writer before they go to disk

UNKNOWN = -1  # grade of a pair that nobody judged
BATCH_CHARACTERS = 64 << 20  # of texts that a writer buffers: long ones go to disk in smaller batches

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankingLayout:
    """The files of a data folder."""

    folder: Path
    queries: str = "queries.arrow"
    items: str = "items.arrow"
    summary: str = "summary.json"

    def pairs(self, split: str) -> Path:
        """Return the file with a split's pairs."""
        return self.folder / f"pairs-{split}.arrow"


@dataclass(frozen=True)
class TextTable:
    """Texts with ids, memory-mapped; row numbers are what pairs refer to."""

    table: pa.Table

    @classmethod
    def open(cls, path: Path) -> TextTable:
        """Map the Arrow stream at `path`."""
        return cls(_map(path))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def texts(self, rows: Sequence[int] | Int32 | slice | None = None, column: str = "text") -> list[str]:
        """Return the texts of `rows` (all of them without rows), which stand in a column of the table."""
        texts = self.table.column(column)
        if rows is None:
            return list(texts.to_pylist())
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return list(texts.slice(start, stop - start).to_pylist())
        return take(texts, self._ends, np.asarray(rows, dtype=np.int64))

    @cached_property
    def _ends(self) -> Int64:
        """Row after each batch, int64 [batches]; all columns are cut alike."""
        return np.cumsum([batch.num_rows for batch in self.table.to_batches()], dtype=np.int64)

    def ids(self) -> list[str]:
        """Return every id, in row order."""
        return list(self.table.column("id").to_pylist())

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a numeric column, [rows]."""
        return np.asarray(self.table.column(name).to_numpy())

    def batches(self, size: int) -> Iterator[list[str]]:
        """Yield the texts in row order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.texts(slice(start, start + size))


@dataclass(frozen=True)
class Split:
    """One split's candidate lists; a query's candidates are the pairs offsets[i]:offsets[i + 1].

    Attributes:
        query: int32 [queries], rows of the query table.
        offsets: int64 [queries + 1].
        item: int32 [pairs], rows of the item table.
        grade: int32 [pairs], 0 is not relevant, `UNKNOWN` is not judged.
    """

    query: Int32
    offsets: Int64
    item: Int32
    grade: Int32

    @classmethod
    def open(cls, path: Path) -> Split:
        """Read the Arrow stream of pairs at `path`; a query's pairs stand together there."""
        table = _map(path)
        query = np.asarray(table.column("query").to_numpy(), dtype=np.int32)
        starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]]) if len(query) else np.zeros(0, dtype=np.int64)
        return cls(
            query=query[starts],
            offsets=np.r_[starts, len(query)].astype(np.int64),
            item=np.asarray(table.column("item").to_numpy(), dtype=np.int32),
            grade=np.asarray(table.column("grade").to_numpy(), dtype=np.int32),
        )

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.item)

    def pair_query(self) -> Int32:
        """Return the query row of each pair, int32 [pairs]."""
        return np.repeat(self.query, np.diff(self.offsets)).astype(np.int32)

    def take(self, queries: Int64) -> Split:
        """Return the split of these query positions alone, in this order."""
        rows = [np.arange(self.offsets[q], self.offsets[q + 1]) for q in queries]
        sizes = np.array([len(r) for r in rows], dtype=np.int64)
        flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
        return Split(self.query[queries], offsets, self.item[flat], self.grade[flat])

    def sample(self, queries: int | None, seed: int) -> Split:
        """Return `queries` of the queries drawn at random, in their order; all of them if there are no more."""
        if queries is None or queries >= len(self.query):
            return self
        drawn = np.random.default_rng(seed).choice(len(self.query), size=queries, replace=False)
        return self.take(np.sort(drawn))


@dataclass(frozen=True)
class RankingData:
    """A data set ready to rank."""

    queries: TextTable
    items: TextTable
    splits: Mapping[str, Split]
    summary: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> RankingData:
        """Map a folder that `RankingWriter` made."""
        layout = RankingLayout(folder)
        return cls(
            queries=TextTable.open(folder / layout.queries),
            items=TextTable.open(folder / layout.items),
            splits={split: Split.open(layout.pairs(split)) for split in SPLITS},
            summary=json.loads((folder / layout.summary).read_text(encoding="utf-8")),
        )

    def lists(self, split: Split, column: str = "text") -> Iterator[tuple[str, list[str]]]:
        """Yield each query's text and its candidates' texts, which stand in a column of the items."""
        for number, row in enumerate(split.query):
            items = split.item[split.offsets[number] : split.offsets[number + 1]]
            yield self.queries.texts([int(row)])[0], self.items.texts(items, column)


def _map(path: Path) -> pa.Table:
    """Map an Arrow stream without reading it into memory (as `datasets.Dataset.from_file` does, which opens it too)."""
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


class ArrowWriter:
    """Writes rows to an Arrow stream in batches, so that memory does not grow with the table."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._columns: list[list[Any]] = [[] for _ in schema]
        self._texts = [number for number, each in enumerate(schema) if pa.types.is_large_string(each.type)]
        self._characters = 0
        self.rows = 0

    def add(self, *values: Any) -> int:
        """Append a row and return its number."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        for number in self._texts:
            self._characters += len(values[number])
        self.rows += 1
        if len(self._columns[0]) >= ROWS_PER_BATCH or self._characters >= BATCH_CHARACTERS:
            self._flush()
        return self.rows - 1

    def _flush(self) -> None:
        if self._columns[0]:
            arrays = [pa.array(c, type=f.type) for c, f in zip(self._columns, self._schema, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            self._columns = [[] for _ in self._schema]
            self._characters = 0

    def close(self) -> None:
        """Write what is buffered and close the file; once closed, nothing more happens."""
        if self._sink.closed:
            return
        self._flush()
        self._writer.close()
        self._sink.close()


TEXT = pa.large_string()  # taking rows joins a column's texts, and the offsets of pa.string() end at 2 GiB
TEXT_SCHEMA = pa.schema([("id", TEXT), ("text", TEXT)])
# title: characters of the text that its first field has
ITEM_SCHEMA = pa.schema([("id", TEXT), ("text", TEXT), ("popularity", pa.int64()), ("title", pa.int32())])
PAIR_SCHEMA = pa.schema([("query", pa.int32()), ("item", pa.int32()), ("grade", pa.int32())])


@dataclass
class RankingWriter:
    """Writes a data folder; use as a context manager.

    Args:
        folder: an existing, empty folder.
        name: the data set's name as it stands in reports.
        relevant: least grade that counts as relevant in MRR and MAP.
        popularity: whether item counts are known (events), so that popularity can be a baseline.
        notes: further facts for the summary (licence, source, ...).
        max_left_out: share of a split's queries that may be left out, `data.max_left_out`.

    Raises:
        DataError: on leaving, if a split has no query with a relevant and a less relevant candidate, or too few of
            its queries have.
    """

    folder: Path
    name: str
    relevant: int = 1
    popularity: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    max_left_out: float = MOST_LEFT_OUT

    def __enter__(self) -> RankingWriter:
        layout = RankingLayout(self.folder)
        self._items = ArrowWriter(self.folder / layout.items, ITEM_SCHEMA)
        self._queries = ArrowWriter(self.folder / layout.queries, TEXT_SCHEMA)
        self._pairs = {split: ArrowWriter(layout.pairs(split), PAIR_SCHEMA) for split in SPLITS}
        self._counts = {split: {"queries": 0, "pairs": 0, "left_out": 0} for split in SPLITS}
        return self

    def add_item(self, item_id: str, text: str, popularity: int = 0, title: int | None = None) -> int:
        """Append an item; returns its row.

        Args:
            item_id: its id.
            text: its fields, joined.
            popularity: how often it was liked.
            title: characters of its first field, with which the text begins; None where there is but one field.
        """
        return self._items.add(item_id, text, popularity, len(text) if title is None else title)

    def add_query(self, query_id: str, text: str) -> int:
        """Append a query; returns its row."""
        return self._queries.add(query_id, text)

    def add_candidates(self, split: str, query: int, items: Sequence[int], grades: Sequence[int]) -> None:
        """Append a query's candidates: rows of items and their grades, the same length, in the order given.

        A list whose grades are all below `relevant`, or all equal, ranks nothing: it is counted as left out.
        """
        if not grades or max(grades) < self.relevant or min(grades) == max(grades):
            self._counts[split]["left_out"] += 1
            return
        for item, grade in zip(items, grades, strict=True):
            self._pairs[split].add(query, item, grade)
        self._counts[split]["queries"] += 1
        self._counts[split]["pairs"] += len(items)

    def finish_items(self) -> TextTable:
        """Close the items, after which none can be added, and map them."""
        self._items.close()
        return TextTable.open(self.folder / RankingLayout(self.folder).items)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._items, self._queries, *self._pairs.values()):
            writer.close()
        if kind is not None:
            return
        for split, count in self._counts.items():
            what = f"nothing of grade >= {self.relevant} beside another grade"
            if not count["queries"]:
                raise DataError(f"{self.name}: the {split} split has nothing to rank: its queries have {what}")
            told, queries = f"queries of the {split} split are left out", count["queries"] + count["left_out"]
            Mismatch(self.name, self.max_left_out).tell(count["left_out"], queries, told, what)
        summary = {
            "name": self.name,
            "relevant": self.relevant,
            "popularity": self.popularity,
            "queries": self._queries.rows,
            "items": self._items.rows,
            "splits": self._counts,
            **self.notes,
        }
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        (self.folder / RankingLayout(self.folder).summary).write_text(text, encoding="utf-8")
