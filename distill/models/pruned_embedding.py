"""A word table of the kept tokens alone, in a model's place of the full one while it trains.

Training touches the kept rows only, and every dropped token looks [UNK]'s row up, which learns from all of them. What
is saved is an ordinary BERT of the full vocabulary again: a dropped token's row equals [UNK]'s. By that a later
training finds them again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForSequenceClassification

from rankdistill.data.records import Int64
from rankdistill.export.graphs.tables import distinct_rows


class KeptEmbedding(nn.Embedding):
    """An embedding of some tokens by the ids of all.

    Attributes:
        weight: float [kept, width].
        rows: int64 [vocabulary], the row of each id; [UNK]'s for a dropped one.
    """

    rows: Tensor

    def __init__(self, table: nn.Embedding, kept: Int64, rows: Int64) -> None:
        ids = torch.from_numpy(kept).to(table.weight.device)
        padding = None if table.padding_idx is None else int(rows[table.padding_idx])
        super().__init__(len(ids), table.embedding_dim, padding, _weight=table.weight.detach()[ids])
        self.register_buffer("rows", torch.from_numpy(rows).to(ids.device))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Embedding's name for it)
        """Return the tokens' rows, float [..., width], of ids int64 [...]."""
        return functional.embedding(self.rows[input], self.weight, self.padding_idx)

    def expanded(self) -> nn.Embedding:
        """Return the table of all tokens, the dropped ones' rows equal to [UNK]'s."""
        padding = None if self.padding_idx is None else int((self.rows == self.padding_idx).nonzero()[0])
        return nn.Embedding(
            len(self.rows), self.embedding_dim, padding, _weight=self.weight.detach()[self.rows].contiguous()
        )


def cut(model: BertForSequenceClassification, kept: Int64, unknown: int) -> None:
    """Leave a model the rows of these tokens alone.

    Args:
        model: changed in place.
        kept: rising ids, int64 [kept].
        unknown: the id of [UNK], one of them.

    Raises:
        ValueError: if it is not.
    """
    if unknown not in kept:
        raise ValueError(f"the unknown token {unknown} is not among the kept ones")
    embeddings = model.bert.embeddings
    rows = np.full(embeddings.word_embeddings.num_embeddings, np.searchsorted(kept, unknown), dtype=np.int64)
    rows[kept] = np.arange(len(kept))
    embeddings.word_embeddings = KeptEmbedding(embeddings.word_embeddings, kept, rows)


def tie(model: BertForSequenceClassification) -> None:
    """Leave a model the rows that differ: tokens whose rows are equal, as those that were dropped, learn as one.

    Args:
        model: changed in place, unless all its rows differ.
    """
    embeddings = model.bert.embeddings
    first, rows = distinct_rows(embeddings.word_embeddings.weight.detach().float().cpu().numpy())
    if len(first) < len(rows):
        embeddings.word_embeddings = KeptEmbedding(embeddings.word_embeddings, first, rows.astype(np.int64))


def expand(model: BertForSequenceClassification) -> None:
    """Put the full table back in the place of one that was cut; one that was not stays."""
    table = model.bert.embeddings.word_embeddings
    if isinstance(table, KeptEmbedding):
        model.bert.embeddings.word_embeddings = table.expanded()
