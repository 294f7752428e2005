"""Unlabelled pairs for the teacher to score: items drawn for the training queries and for queries made of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rankdistill.data import tokens
from rankdistill.data.bm25 import BM25
from rankdistill.data.records import (
    PAIR_SCHEMA,
    TEXT_SCHEMA,
    UNKNOWN,
    ArrowWriter,
    Float32,
    Int32,
    RankingData,
    Split,
    TextTable,
)
from rankdistill.data.tokens import PairTokens, TokenColumn, TokenTable
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.text.shortener import CHARACTERS
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.options import Draw

# as white space parts them, and each character by itself where none does
WORDS = re.compile(rf"[{CHARACTERS}]|[^\s{CHARACTERS}]+")
PAIRS, QUERIES, VECTORS = "pairs.arrow", "queries.arrow", "vectors.npy"
INDEX_BATCH = 8192  # items handed to BM25 at a time

Embed = Callable[[list[str]], Float32]


@dataclass(frozen=True)
class Neighbours:
    """Draws items for a query: nearest by BM25, nearest by embedding, and at random as often as training shows them.

    Attributes:
        index: of the items; None where none are drawn by BM25.
        vectors: of the items, float32 [items, width]; None where none are drawn by embedding.
        shown: running sum of the share of training pairs that show an item, float64 [items].
        counts: how many of each a query gets.
    """

    index: BM25 | None
    vectors: Float32 | None
    shown: npt.NDArray[np.float64]
    counts: Draw

    @classmethod
    def of(cls, data: RankingData, counts: Draw, vectors: Float32 | None) -> Neighbours:
        """Index a data set's items."""
        index = BM25(data.items.batches(INDEX_BATCH)) if counts.bm25 else None
        shown = np.bincount(data.splits["train"].item, minlength=len(data.items)) + 1.0  # an item never shown can come
        return cls(index, vectors, np.cumsum(shown) / shown.sum(), counts)

    def draw(self, text: str, vector: Float32 | None, known: Int32, rng: np.random.Generator) -> dict[str, Int32]:
        """Return rows of items by source, none of them `known` and none twice."""
        taken = set(known.tolist())
        drawn: dict[str, Int32] = {}
        for source, rows in self._ranked(text, vector, len(taken), rng):
            wanted = getattr(self.counts, source)
            kept = [row for row in dict.fromkeys(rows.tolist()) if row not in taken][:wanted]
            taken.update(kept)
            drawn[source] = np.array(kept, dtype=np.int32)
        return drawn

    def _ranked(
        self, text: str, vector: Float32 | None, known: int, rng: np.random.Generator
    ) -> Iterator[tuple[str, Int32]]:
        room = known + self.counts.bm25 + self.counts.embedding + self.counts.random
        if self.index is not None:
            rows, scores = self.index.top(text, room)
            yield "bm25", rows[scores > 0]
        if self.vectors is not None and vector is not None:
            similarity = self.vectors @ vector
            nearest = np.argpartition(-similarity, min(room, len(similarity)) - 1)[:room]
            yield "embedding", nearest[np.argsort(-similarity[nearest], kind="stable")].astype(np.int32)
        if self.counts.random:
            often = np.searchsorted(self.shown, rng.random(4 * room), side="right")
            any_ = rng.integers(len(self.shown), size=4 * room)  # for where a few items are nearly all that is shown
            yield "random", np.concatenate([often, any_]).astype(np.int32)


def write(
    data: RankingData,
    counts: Draw,
    encoder: PairEncoder,
    vectors: tuple[Float32, Float32] | None,
    embed: Embed,
    out: Path,
) -> None:
    """Draw pairs and write them with the texts, tokens and embeddings of the queries that were made.

    Args:
        data: the data set; its training split says which pairs are known.
        counts: how many of what.
        encoder: tokenises the made queries.
        vectors: of the queries and the items, float32 [texts, width]; None where `counts.embedding` is 0.
        embed: embeds the made queries.
        out: folder to write to.
    """
    rng = np.random.default_rng(counts.seed)
    split = data.splits["train"]
    made = new_queries(make_queries(data, counts, rng), data, encoder)
    neighbours = Neighbours.of(data, counts, vectors[1] if vectors else None)
    of_made = embed(made) if vectors else None
    if of_made is not None:
        np.save(out / VECTORS, of_made)
    pairs, queries = ArrowWriter(out / PAIRS, PAIR_SCHEMA), ArrowWriter(out / QUERIES, TEXT_SCHEMA)
    sources: Counter[str] = Counter()
    with Progress("draw pairs", len(split.query) + len(made), "queries") as bar:
        for number, (row, text) in enumerate(zip(split.query, data.queries.texts(split.query), strict=True)):
            known = split.item[split.offsets[number] : split.offsets[number + 1]]
            vector = vectors[0][row] if vectors else None
            sources += _add(pairs, int(row), neighbours.draw(text, vector, known, rng))
            bar.update(1)
        for number, text in enumerate(made):
            queries.add(f"made-{number}", text)
            vector = of_made[number] if of_made is not None else None
            drawn = neighbours.draw(text, vector, np.zeros(0, dtype=np.int32), rng)
            sources += _add(pairs, len(data.queries) + number, drawn)
            bar.update(1)
    pairs.close()
    queries.close()
    tokens.write_column(TextTable.open(out / QUERIES), encoder, out, "queries")
    summary = {"queries": len(split.query), "made_queries": len(made), "pairs": dict(sources)}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def read_vectors(folder: Path) -> Float32:
    """Return the embeddings of the made queries, float32 [made queries, width]."""
    return np.asarray(np.load(folder / VECTORS), dtype=np.float32)


def open_pairs(folder: Path, table: TokenTable, encoder: PairEncoder) -> PairTokens:
    """Return the pairs that `write` stored, their queries' tokens behind those of the data set's own."""
    made = TokenColumn.open(folder, "queries")
    return PairTokens(Split.open(folder / PAIRS), TokenTable(table.queries.followed_by(made), table.items), encoder)


def make_queries(data: RankingData, counts: Draw, rng: np.random.Generator) -> list[str]:
    """Return texts of queries made of the data's own, as long as training queries are.

    Two kinds:

    - An item's first words, for searches whose queries name what is sought (`item_queries` of them).
    - The first half of one training query's words and the second half of another's (`crossed_queries`): histories and
      searches that nobody had, of words that go together as far as halves do.
    """
    own = [_Words.of(text) for text in data.queries.texts(data.splits["train"].query)]
    lengths = [max(1, len(words)) for words in own]
    made = []
    items = rng.choice(len(data.items), min(counts.item_queries, len(data.items)), replace=False)
    for text in data.items.texts(items.astype(np.int32)):
        made.append(_Words.of(text).part(0, int(rng.choice(lengths))))
    for _ in range(counts.crossed_queries):
        one, other = (own[number] for number in rng.integers(len(own), size=2))
        halves = one.part(0, (len(one) + 1) // 2), other.part((len(other) + 1) // 2, len(other))
        made.append(" ".join(half for half in halves if half))
    return list(dict.fromkeys(text for text in made if text))


@dataclass(frozen=True)
class _Words:
    """A text's words by where they stand; a character of Chinese or Japanese is one."""

    text: str
    spans: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> _Words:
        return cls(text, [match.span() for match in WORDS.finditer(text)])

    def __len__(self) -> int:
        return len(self.spans)

    def part(self, start: int, stop: int) -> str:
        """Return the words from one to before another, as they are written but for white space."""
        spans = self.spans[start:stop]
        return " ".join(self.text[spans[0][0] : spans[-1][1]].split()) if spans else ""


def new_queries(made: list[str], data: RankingData, encoder: PairEncoder) -> list[str]:
    """Return the made queries that read, in any case and token by token, like none of the data set's own.

    A student that learns the teacher's scores for a query that it is tested on would be tested on what it has seen; and
    one of train has pairs that are known, which would be drawn a second time.
    """
    own = [row for split in data.splits.values() for row in split.query.tolist()]
    seen = {ids.tobytes() for ids in encoder.ids(_folded(data.queries.texts(own)))}
    return [text for text, ids in zip(made, encoder.ids(_folded(made)), strict=True) if ids.tobytes() not in seen]


def _folded(texts: Iterable[str]) -> list[str]:
    return [text.casefold() for text in texts]


def _add(writer: ArrowWriter, query: int, drawn: dict[str, Int32]) -> Counter[str]:
    for rows in drawn.values():
        for row in rows.tolist():
            writer.add(query, row, UNKNOWN)
    return Counter({source: len(rows) for source, rows in drawn.items()})
