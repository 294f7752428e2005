"""Embeddings of texts by the teacher's encoder before it was tuned: mean-pooled, normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rankdistill.data.records import Int32, RankingData
from rankdistill.data.tokens import length_sorted
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import Float32

BATCH = 64
TOKENS = 256  # of a text that is read, as all-MiniLM-L6-v2 does
FILE = "{}.npy"


def embed(texts: list[str], encoder: Path, max_length: int, what: str) -> Float32:
    """Embed texts; float32 [texts, width], each of length 1, so that dot products are cosines.

    Mean pooling over the mask, then normalising, is how sentence-transformers/all-MiniLM-L6-v2 is meant to be used.

    Args:
        texts: what is embedded.
        encoder: folder of the encoder.
        max_length: tokens of a text that it reads.
        what: name for the progress.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    from rankdistill.export.torch_models.loading import load_whole

    tokenizer = AutoTokenizer.from_pretrained(
        encoder, local_files_only=True, truncation_side="right", padding_side="right"
    )
    model = load_whole(AutoModel, encoder, may_lack=("pooler.",)).eval()
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    lengths = np.array([len(text) for text in texts])
    with torch.inference_mode(), Progress(what, len(texts), "texts") as bar:
        for rows in length_sorted(lengths, BATCH):
            batch = tokenizer(
                [texts[row] for row in rows], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None].float()
            pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
            bar.update(len(rows))
    return vectors


def similarity(query: Int32, item: Int32, queries: Float32, items: Float32) -> Float32:
    """Return the cosine of each pair's vectors, float32 [pairs].

    Args:
        query: int32 [pairs], rows of `queries`.
        item: int32 [pairs], rows of `items`.
        queries: of length 1, float32 [queries, width].
        items: of length 1, float32 [items, width].
    """
    return np.asarray(np.einsum("pd,pd->p", queries[query], items[item]), dtype=np.float32)


def write(data: RankingData, encoder: Path, max_length: int, out: Path) -> None:
    """Embed a data set's queries and items into `out`."""
    for name, table in (("queries", data.queries), ("items", data.items)):
        np.save(out / FILE.format(name), embed(table.texts(), encoder, max_length, f"embed {name}"))


def read(folder: Path) -> tuple[Float32, Float32]:
    """Map what `write` stored: the queries' and the items' vectors, float32 [texts, width]."""
    queries, items = (np.load(folder / FILE.format(name), mmap_mode="r") for name in ("queries", "items"))
    return queries, items
