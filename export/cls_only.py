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

from export.errors import ModelError
from export.packing import Packing, as_computed

ORDINARY = "BertForSequenceClassification"  # the architecture a checkpoint states, whichever class wrote it


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
        words, types = (each.reshape(-1)[packing.cells] for each in (input_ids, token_type_ids))
        positions = packing.positions[None]
        embedded = bert.embeddings(input_ids=words[None], token_type_ids=types[None], position_ids=positions)[0]
        hidden = as_computed(embedded)  # on a CPU sums and norms keep the type: a step in bf16 is 9% faster
        for layer in bert.encoder.layer[:-1]:
            context = packing.attend(layer.attention.self, hidden)
            hidden = layer.feed_forward_chunk(layer.attention.output(context, hidden))
        last = bert.encoder.layer[-1]
        cls = hidden[packing.first]
        context = packing.attend_first(last.attention.self, cls, hidden)
        cls = last.feed_forward_chunk(last.attention.output(context, cls))[packing.place, None]
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
