"""A BERT cross-encoder that computes its last layer for [CLS] alone.

The classifier reads one token, so the last layer needs the keys and values of all tokens but query, output and
feed-forward of the first. Same parameters and same checkpoint as transformers' BertForSequenceClassification, equal
scores up to rounding, at a part of the cost.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertForSequenceClassification
from transformers.modeling_attn_mask_utils import _prepare_4d_attention_mask, _prepare_4d_attention_mask_for_sdpa
from transformers.modeling_outputs import SequenceClassifierOutput

from export.errors import ModelError

ORDINARY = "BertForSequenceClassification"  # the architecture a checkpoint states, whichever class wrote it


class ClsOnlyBert(BertForSequenceClassification):  # type: ignore[misc]
    """BertForSequenceClassification with a [CLS]-only last layer."""

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
        # transformers' own helpers: onnxruntime's fusion does not recognise a mask written any other way
        sdpa = self.config._attn_implementation == "sdpa"
        prepare = _prepare_4d_attention_mask_for_sdpa if sdpa else _prepare_4d_attention_mask
        mask = prepare(attention_mask, hidden.dtype, tgt_len=attention_mask.shape[1])
        for layer in bert.encoder.layer[:-1]:
            hidden = layer(hidden, mask)[0]
        last = bert.encoder.layer[-1]
        cls = hidden[:, :1]
        if mask is not None:
            mask = mask[:, :, :1]
        context = last.attention.self(cls, mask, encoder_hidden_states=hidden)[0]
        cls = last.feed_forward_chunk(last.attention.output(context, cls))
        logits = self.classifier(self.dropout(bert.pooler(cls)))
        return SequenceClassifierOutput(logits=logits)


def load_ranker(folder: str, *, cls_only: bool, attention: str = "sdpa") -> BertForSequenceClassification:
    """Load a cross-encoder's checkpoint in fp32, in evaluation mode.

    Raises:
        ModelError: if it is no BERT with one output.
    """
    kind = ClsOnlyBert if cls_only else BertForSequenceClassification
    try:
        model = kind.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is no BERT checkpoint: {str(error).splitlines()[0]}") from error
    if model.config.model_type != "bert" or model.config.num_labels != 1:
        raise ModelError(
            f"{folder} is a {model.config.model_type} with {model.config.num_labels} outputs; a ranker here is a BERT "
            "cross-encoder with one"
        )
    return model.eval()


def save_ranker(model: BertForSequenceClassification, folder: str) -> None:
    """Save an ordinary checkpoint that every library loads, whichever of the two classes `model` is."""
    model.save_pretrained(folder)
    model.config.architectures = [ORDINARY]
    model.config.save_pretrained(folder)
