"""A [CLS]-only BERT cross-encoder that PyTorch's tracer reads and whose attentions onnxruntime recognises.

`export.cls_only` computes the same faster in PyTorch, but packs tokens by data, which no trace can hold.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertForSequenceClassification
from transformers.modeling_attn_mask_utils import _prepare_4d_attention_mask_for_sdpa
from transformers.modeling_outputs import SequenceClassifierOutput


class TraceableClsOnlyBert(BertForSequenceClassification):  # type: ignore[misc]
    """BertForSequenceClassification with a [CLS]-only last layer; padding is computed and masked."""

    @classmethod
    def of(cls, model: BertForSequenceClassification) -> TraceableClsOnlyBert:
        """Return one with the weights of an ordinary model, in evaluation mode."""
        short = cls(model.config)
        short.load_state_dict(model.state_dict())
        short.eval()
        return short

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
        bert = self.bert
        hidden = bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        # transformers' own helper: onnxruntime's fusion does not recognise a mask written any other way
        mask = _prepare_4d_attention_mask_for_sdpa(attention_mask, hidden.dtype, tgt_len=attention_mask.shape[1])
        for layer in bert.encoder.layer[:-1]:
            hidden = layer(hidden, mask)[0]
        last, first = bert.encoder.layer[-1], hidden[:, :1]
        if mask is not None:
            mask = mask[:, :, :1]
        context = last.attention.self(first, mask, encoder_hidden_states=hidden)[0]
        first = last.feed_forward_chunk(last.attention.output(context, first))
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(bert.pooler(first))))
