"""Token tables: a data set's queries and items as token ids, tokenised once and memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankdistill.data.records import RankingData, Split, TextTable
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.text.tokens import SPECIAL, Int32, Int64, PairEncoder, kept_lengths

BATCH = 4096  # texts tokenised at a time
KEPT = 2  # a text is kept up to this many times max_length; beyond, only "which is longer" could still change


@dataclass(frozen=True)
class TokenColumn:
    """Texts as ids: text i is ids[offsets[i]:offsets[i + 1]], int32 and int64, memory-mapped."""

    ids: Int32
    offsets: Int64

    @classmethod
    def open(cls, folder: Path, name: str) -> TokenColumn:
        """Map a column that `write` made."""
        ids = (
            np.memmap(folder / f"{name}.ids", dtype=np.int32, mode="r")
            if _size(folder, name)
            else np.zeros(0, np.int32)
        )
        return cls(np.asarray(ids), np.load(folder / f"{name}.offsets.npy", mmap_mode="r"))

    def __getitem__(self, row: int) -> Int32:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self) -> Int64:
        """Return the number of ids of each text."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: Int32) -> Int64:
        """Return the number of ids of these texts, int64 [rows]."""
        return np.asarray(self.offsets[rows + 1] - self.offsets[rows])

    def heads(self, rows: Int32, counts: Int64) -> Int32:
        """Return the first `counts` ids of these texts, one text after the other, int32 [sum of counts]."""
        starts = self.offsets[rows] - np.cumsum(counts) + counts  # less where the text's ids begin in what is returned
        return np.asarray(self.ids[np.repeat(starts, counts) + np.arange(counts.sum())])

    def followed_by(self, other: TokenColumn) -> TokenColumn:
        """Return the texts of both columns, in memory."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return TokenColumn(np.concatenate([self.ids, other.ids]), offsets)


@dataclass(frozen=True)
class TokenTable:
    """The queries and items of a data set as token ids, without special tokens."""

    queries: TokenColumn
    items: TokenColumn

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a table that `write` made."""
        return cls(TokenColumn.open(folder, "queries"), TokenColumn.open(folder, "items"))


class PairTokens:
    """A split's pairs as inputs of a model.

    Attributes:
        split: the candidate lists.
        query: int32 [pairs], the query row of each pair.
        lengths: int64 [pairs], tokens of each pair as the model sees it.
    """

    def __init__(self, split: Split, table: TokenTable, encoder: PairEncoder) -> None:
        self.split = split
        self.table = table
        self.encoder = encoder
        self.query = split.pair_query()
        self.lengths = pair_lengths(split, table, encoder.max_length)

    def __len__(self) -> int:
        return len(self.query)

    def batch(self, rows: Int64) -> dict[str, Int64]:
        """Return the padded inputs of these pairs as `PairEncoder.batch` does, int64 [rows, tokens], without a loop."""
        queries, items = self.table.queries, self.table.items
        query, item = self.query[rows], self.split.item[rows]
        left, right = kept_lengths(queries.lengths_of(query), items.lengths_of(item), self.encoder.max_length - SPECIAL)
        lengths = left + right + SPECIAL
        column = np.arange(lengths.max(initial=0))
        second = left[:, None] + 2  # where the item begins
        mask = column < lengths[:, None]
        ids = np.zeros(mask.shape, dtype=np.int64)  # [PAD] is 0 in every BERT vocabulary, and masked out
        ids[:, :1] = self.encoder.cls
        ids[(column > 0) & (column < second - 1)] = queries.heads(query, left)
        ids[(column >= second) & (column < lengths[:, None] - 1)] = items.heads(item, right)
        ids[(column == second - 1) | (column == lengths[:, None] - 1)] = self.encoder.sep
        types = (column >= second) & mask
        return {"input_ids": ids, "token_type_ids": types.astype(np.int64), "attention_mask": mask.astype(np.int64)}


def pair_lengths(split: Split, table: TokenTable, max_length: int) -> Int64:
    """Return the tokens of each pair as a model that reads at most `max_length` sees it, int64 [pairs]."""
    queries, items = table.queries.lengths()[split.pair_query()], table.items.lengths()[split.item]
    left, right = kept_lengths(queries, items, max_length - SPECIAL)
    return np.asarray(left + right + SPECIAL, dtype=np.int64)


def write(data: RankingData, encoder: PairEncoder, out: Path) -> None:
    """Tokenise a data set's texts into `out`."""
    counts = {}
    for name, table in (("queries", data.queries), ("items", data.items)):
        counts[name] = write_column(table, encoder, out, name)
    summary = {"max_length": encoder.max_length, "mean_tokens": counts}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def write_column(table: TextTable, encoder: PairEncoder, out: Path, name: str) -> float:
    """Tokenise texts into `out`; returns the mean number of tokens."""
    lengths: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    room = encoder.max_length * KEPT
    with (out / f"{name}.ids").open("wb") as file, Progress(f"tokenise {name}", len(table), "texts") as bar:
        for texts in table.batches(BATCH):
            ids = [part[:room] for part in encoder.ids(texts)]
            file.write(np.concatenate(ids).astype(np.int32).tobytes())
            lengths.append(np.array([len(part) for part in ids], dtype=np.int64))
            bar.update(len(texts))
    offsets = np.r_[0, np.cumsum(np.concatenate(lengths))].astype(np.int64)
    np.save(out / f"{name}.offsets.npy", offsets)
    return round(float(offsets[-1]) / max(len(table), 1), 1)


def _size(folder: Path, name: str) -> int:
    return (folder / f"{name}.ids").stat().st_size


def length_sorted(lengths: Int64, size: int) -> Iterator[Int64]:
    """Yield the row numbers in batches of `size`, longest first, so that little is padded."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
