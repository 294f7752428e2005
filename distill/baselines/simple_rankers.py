"""Rankers that cost nothing to train: popularity, BM25, and the teacher's encoder before it was tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rankdistill.data.records import RankingData, Split
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import Float32
from rankdistill.models.encoder_embeddings import TOKENS, embed, similarity

FILE = "{}.npy"
BAR = "baseline embedding"


def write(
    data: RankingData, split: Split, encoder: Path | None, vectors: tuple[Float32, Float32] | None, out: Path
) -> None:
    """Score a split with every baseline there is for this data and store float32 [pairs] for each.

    Args:
        data: the data set.
        split: the candidate lists to score.
        encoder: folder of the embedding model; None when the teacher was no plain encoder.
        vectors: of all queries and items by the encoder, float32 [texts, width]; None where there are none yet.
        out: folder to write to.
    """
    scores = {"bm25": bm25(data, split)}
    if data.summary["popularity"]:
        scores["popularity"] = data.items.column("popularity")[split.item].astype(np.float32)
    if encoder is not None:
        scores["embedding"] = (
            similarity(split.pair_query(), split.item, *vectors) if vectors else embedding(data, split, encoder)
        )
    for name, values in scores.items():
        np.save(out / FILE.format(name), values)


def read(folder: Path) -> dict[str, Float32]:
    """Return the scores that `write` stored, by baseline, float32 [pairs]."""
    return {path.stem: np.load(path) for path in sorted(folder.glob(FILE.format("*")))}


def bm25(data: RankingData, split: Split) -> Float32:
    """Score pairs by BM25 over all items, float32 [pairs]."""
    from rankdistill.data.bm25 import BM25

    index = BM25(data.items.batches(8192))
    scores = np.empty(split.pairs, dtype=np.float32)
    with Progress("baseline bm25", len(split.query), "queries") as bar:
        for number, query in enumerate(data.queries.texts(split.query)):
            rows = slice(split.offsets[number], split.offsets[number + 1])
            scores[rows] = index.scores(query, split.item[rows])
            bar.update(1)
    return scores


def embedding(data: RankingData, split: Split, encoder: Path) -> Float32:
    """Score pairs by the cosine of their embeddings, float32 [pairs]."""
    query_rows, query_at = np.unique(split.pair_query(), return_inverse=True)
    item_rows, item_at = np.unique(split.item, return_inverse=True)
    queries = embed(data.queries.texts(query_rows), encoder, TOKENS, BAR)
    items = embed(data.items.texts(item_rows), encoder, TOKENS, BAR)
    return similarity(query_at.astype(np.int32), item_at.astype(np.int32), queries, items)
