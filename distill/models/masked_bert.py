"""A cross-encoder's scores under masks of its parts: at 0 a part is gone, exactly as in the model that is cut there.

A mask of ones changes nothing, and the gradient by it says what a part is worth. Every pair has masks of its own, so
that one backward pass gives the gradient pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification


@dataclass(frozen=True)
class Masks:
    """Factors of a model's parts, pair by pair.

    Attributes:
        hidden: dimensions of the residual stream, shared by embeddings and layers, float [pairs, hidden].
        heads: attention heads, float [pairs, layers, heads].
        products: dimensions in which queries meet keys, float [pairs, layers, hidden].
        values: dimensions of values, which are those that attention's output reads, float [pairs, layers, hidden].
        neurons: of the feed-forward, float [pairs, layers, neurons].
        pooled: dimensions of the pooler's output, float [pairs, hidden].
    """

    hidden: Tensor
    heads: Tensor
    products: Tensor
    values: Tensor
    neurons: Tensor
    pooled: Tensor

    @classmethod
    def ones(cls, model: BertForSequenceClassification, pairs: int) -> Masks:
        """Return masks that change nothing, with gradients."""
        config = model.config
        width, layers = config.hidden_size, config.num_hidden_layers
        shapes = {
            "hidden": [width],
            "heads": [layers, config.num_attention_heads],
            "products": [layers, width],
            "values": [layers, width],
            "neurons": [layers, config.intermediate_size],
            "pooled": [width],
        }
        return cls(**{name: torch.ones(pairs, *shape, requires_grad=True) for name, shape in shapes.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the masks by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def masked_scores(model: BertForSequenceClassification, inputs: Mapping[str, Tensor], masks: Masks) -> Tensor:
    """Score pairs under masks, the last layer for [CLS] alone, without dropout.

    Args:
        model: a cross-encoder.
        inputs: int64 [pairs, tokens] `input_ids`, `attention_mask` and `token_type_ids`.
        masks: of these pairs.

    Returns:
        Raw logits, float [pairs].
    """
    bert, stream = model.bert, masks.hidden[:, None]
    tables, tokens = bert.embeddings, inputs["input_ids"].shape[1]
    words = tables.word_embeddings(inputs["input_ids"]) + tables.token_type_embeddings(inputs["token_type_ids"])
    hidden = _norm(tables.LayerNorm, words + tables.position_embeddings.weight[:tokens], stream)
    there = inputs["attention_mask"][:, None, None].bool()
    padding = torch.zeros_like(there, dtype=hidden.dtype).masked_fill(~there, torch.finfo(hidden.dtype).min)
    last = len(bert.encoder.layer) - 1
    for number, layer in enumerate(bert.encoder.layer):
        rows = hidden[:, :1] if number == last else hidden
        attended = _attention(layer.attention.self, rows, hidden, padding, masks, number)
        rows = _norm(layer.attention.output.LayerNorm, layer.attention.output.dense(attended) + rows, stream)
        inner = layer.intermediate(rows) * masks.neurons[:, number, None]
        hidden = _norm(layer.output.LayerNorm, layer.output.dense(inner) + rows, stream)
    pooled = bert.pooler(hidden) * masks.pooled
    return torch.as_tensor(model.classifier(pooled)[:, 0])


def _attention(module: Any, rows: Tensor, hidden: Tensor, padding: Tensor, masks: Masks, number: int) -> Tensor:
    """Return the heads' outputs side by side, float [pairs, rows, hidden]."""
    heads = module.num_attention_heads
    query = _split(module.query(rows) * masks.products[:, number, None], heads)
    key, value = _split(module.key(hidden), heads), _split(module.value(hidden), heads)
    products = query @ key.transpose(2, 3) / math.sqrt(module.attention_head_size)
    mixed = (products + padding).softmax(dim=3) @ value * masks.heads[:, number, :, None, None]
    return torch.as_tensor(mixed.transpose(1, 2).flatten(2) * masks.values[:, number, None])


def _split(values: Tensor, heads: int) -> Tensor:
    """Return float [pairs, tokens, hidden] as [pairs, heads, tokens, head size]."""
    pairs, tokens, width = values.shape
    return values.reshape(pairs, tokens, heads, width // heads).transpose(1, 2)


def _norm(module: nn.LayerNorm, values: Tensor, mask: Tensor) -> Tensor:
    """Return LayerNorm with mean and variance over the masked-in dimensions, 0 in the others."""
    count = mask.sum(dim=2, keepdim=True)
    centred = values - (values * mask).sum(dim=2, keepdim=True) / count
    variance = (centred**2 * mask).sum(dim=2, keepdim=True) / count
    return (centred * torch.rsqrt(variance + module.eps) * module.weight + module.bias) * mask
