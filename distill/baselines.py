"""Rankers that cost nothing to train: popularity, BM25, and the teacher's encoder before it was tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill.records import RankingData, Split
from distill.tokens import length_sorted
from export.progress import Progress
from export.runtime.scorer import Float32

EMBED_BATCH = 64
FILE = "{}.npy"


def write(data: RankingData, split: Split, encoder: Path | None, max_length: int, out: Path) -> None:
    """Score a split with every baseline there is for this data and store float32 [pairs] for each.

    Args:
        data: the data set.
        split: the candidate lists to score.
        encoder: folder of the embedding model; None when the teacher was no plain encoder.
        max_length: tokens of a text that the encoder reads.
        out: folder to write to.
    """
    scores = {"bm25": bm25(data, split)}
    if data.summary["popularity"]:
        scores["popularity"] = data.items.column("popularity")[split.item].astype(np.float32)
    if encoder is not None:
        scores["embedding"] = embedding(data, split, encoder, max_length)
    for name, values in scores.items():
        np.save(out / FILE.format(name), values)


def read(folder: Path) -> dict[str, Float32]:
    """Return the scores that `write` stored, by baseline, float32 [pairs]."""
    return {path.stem: np.load(path) for path in sorted(folder.glob(FILE.format("*")))}


def bm25(data: RankingData, split: Split) -> Float32:
    """Score pairs by BM25 over all items, float32 [pairs]."""
    from distill.data.first_stage import BM25

    index = BM25(data.items.batches(8192))
    scores = np.empty(split.pairs, dtype=np.float32)
    with Progress("baseline bm25", len(split.query), "queries") as bar:
        for number, query in enumerate(data.queries.texts(split.query)):
            rows = slice(split.offsets[number], split.offsets[number + 1])
            scores[rows] = index.scores(query, split.item[rows])
            bar.update(1)
    return scores


def embedding(data: RankingData, split: Split, encoder: Path, max_length: int) -> Float32:
    """Score pairs by the cosine of mean-pooled embeddings, float32 [pairs].

    Mean pooling over the mask, then normalising, is how sentence-transformers/all-MiniLM-L6-v2 is meant to be used.
    """
    query_rows, query_at = np.unique(split.pair_query(), return_inverse=True)
    item_rows, item_at = np.unique(split.item, return_inverse=True)
    queries = _embed(data.queries.texts(query_rows), encoder, max_length)
    items = _embed(data.items.texts(item_rows), encoder, max_length)
    return np.asarray(np.einsum("pd,pd->p", queries[query_at], items[item_at]), dtype=np.float32)


def _embed(texts: list[str], encoder: Path, max_length: int) -> Float32:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32, local_files_only=True).eval()
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    lengths = np.array([len(text) for text in texts])
    with torch.inference_mode(), Progress("baseline embedding", len(texts), "texts") as bar:
        for rows in length_sorted(lengths, EMBED_BATCH):
            batch = tokenizer(
                [texts[row] for row in rows], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None].float()
            pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
            bar.update(len(rows))
    return vectors
