"""A BERT cross-encoder that PyTorch's tracer reads and whose attentions onnxruntime recognises.

`export.cls_only` computes the same faster in PyTorch, but packs tokens by data, which no trace can hold; of the forward
of transformers itself onnxruntime fuses no attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from rankdistill.export.torch_models.attention import attend


class TraceableBert(BertForSequenceClassification):  # type: ignore[misc]
    """BertForSequenceClassification with its attention written out; padding is computed and masked."""

    @classmethod
    def of(cls, model: BertForSequenceClassification) -> TraceableBert:
        """Return one with the weights of an ordinary model, in evaluation mode."""
        traceable = cls(model.config)
        traceable.load_state_dict(model.state_dict())
        traceable.eval()
        return traceable

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Score pairs.

        Args:
            input_ids: int64 [pairs, tokens].
            attention_mask: int64 [pairs, tokens], 0 at padding.
            token_type_ids: int64 [pairs, tokens], 0 for the query and 1 for the item.

        Returns:
            Logits, float [pairs, 1].
        """
        hidden = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        # in these very operations: of a mask that is computed otherwise onnxruntime fuses no attention
        mask = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        for layer, read in self._layers():
            hidden = _climb(layer, hidden[:, :read], hidden, mask)
        logits: Tensor = self.classifier(self.dropout(self.bert.pooler(hidden)))
        return logits

    def _layers(self) -> Iterable[tuple[Any, int | None]]:
        """Return each layer and how many of its first tokens it computes; None for all."""
        return [(layer, None) for layer in self.bert.encoder.layer]


class TraceableClsOnlyBert(TraceableBert):
    """The same with a last layer that is computed for [CLS] alone."""

    def _layers(self) -> Iterable[tuple[Any, int | None]]:
        *lower, last = self.bert.encoder.layer
        return [*((layer, None) for layer in lower), (last, 1)]


def _climb(layer: Any, rows: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    """Take tokens, float [pairs, rows, width], through a layer in which they attend to all of `hidden`."""
    context = attend(layer.attention.self, rows, hidden, mask)
    states: Tensor = layer.feed_forward_chunk(layer.attention.output(context, rows))
    return states
