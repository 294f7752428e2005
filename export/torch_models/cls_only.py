"""A BERT cross-encoder that computes no padding, and its last layer for [CLS] alone.

The classifier reads one token, so the last layer needs the keys and values of all tokens but query, output and
feed-forward of the first. Same parameters and same checkpoint as transformers' BertForSequenceClassification, equal
scores up to rounding, at a part of the cost.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from rankdistill.export.errors import ModelError
from rankdistill.export.torch_models.packing import Packing, as_computed


class ClsOnlyBert(BertForSequenceClassification):  # type: ignore[misc]
    """BertForSequenceClassification without padding, with a [CLS]-only last layer.

    Raises:
        ModelError: if positions are not absolute, which attention here does not know.
    """

    def __init__(self, config: BertConfig) -> None:
        kind = getattr(config, "position_embedding_type", "absolute")
        if kind != "absolute":
            raise ModelError(f"position_embedding_type={kind}: a ranker here is a BERT with absolute positions")
        super().__init__(config)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        **_unused: Any,
    ) -> SequenceClassifierOutput:
        """Score pairs.

        Args:
            input_ids: int64 [pairs, tokens].
            attention_mask: int64 [pairs, tokens], 0 at padding.
            token_type_ids: int64 [pairs, tokens], 0 for the query and 1 for the item.

        Returns:
            An output whose logits are float [pairs, 1].
        """
        bert, packing = self.bert, Packing.of(attention_mask)
        places = self._positions(attention_mask, token_type_ids)
        words, types, positions = (each.reshape(-1)[packing.cells] for each in (input_ids, token_type_ids, places))
        embedded = bert.embeddings(input_ids=words[None], token_type_ids=types[None], position_ids=positions[None])[0]
        hidden = as_computed(embedded)  # on a CPU sums and norms keep the type: a step in bf16 is 9% faster
        for layer, seen in zip(bert.encoder.layer[:-1], self._seen(packing, types), strict=True):
            context = seen.attend(layer.attention.self, hidden)
            hidden = layer.feed_forward_chunk(layer.attention.output(context, hidden))
        last = bert.encoder.layer[-1]
        cls = hidden[packing.first]
        context = packing.attend_first(last.attention.self, cls, hidden)
        cls = last.feed_forward_chunk(last.attention.output(context, cls))[packing.place, None]
        return SequenceClassifierOutput(logits=head_logits(self, cls[:, 0]))

    def _positions(self, attention_mask: torch.Tensor, _token_type_ids: torch.Tensor) -> torch.Tensor:
        """Return the position of each token, int64 [pairs, tokens]."""
        return torch.arange(attention_mask.shape[1], device=attention_mask.device).expand_as(attention_mask)

    def _seen(self, packing: Packing, _types: torch.Tensor) -> list[Packing]:
        """Return for each layer but the last which tokens attend to which; types are packed."""
        return [packing] * (len(self.bert.encoder.layer) - 1)


def head_logits(model: BertForSequenceClassification, cls: torch.Tensor) -> torch.Tensor:
    """Return the logits of [CLS] states, float32 [pairs, outputs], by pooler and classifier outside of autocast.

    bfloat16 has 8 bits of mantissa: candidates of one list tie in logits that are rounded to it.

    Args:
        model: whose pooler and classifier they are.
        cls: float [pairs, width], of any precision.
    """
    with torch.autocast(cls.device.type, enabled=False):
        pooled = model.bert.pooler(cls.float()[:, None])
        logits: torch.Tensor = model.classifier(model.dropout(pooled))
    return logits


class EveryTokenBert(BertForSequenceClassification):  # type: ignore[misc]
    """BertForSequenceClassification whose last layer computes every token, with a head outside of autocast."""

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Score pairs.

        Args:
            inputs: `input_ids`, `attention_mask` and `token_type_ids`, int64 [pairs, tokens].

        Returns:
            An output whose logits are float32 [pairs, outputs].
        """
        return SequenceClassifierOutput(logits=head_logits(self, self.bert(**inputs)[0][:, 0]))
