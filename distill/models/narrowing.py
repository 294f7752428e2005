"""A narrower model out of a wider one: the most important heads, dimensions and neurons, with their weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from rankdistill.data.records import Float32, Int64
from rankdistill.models.importance import Importance
from rankdistill.options.student_width import Width


@dataclass(frozen=True)
class Parts:
    """What is kept of a model: positions in it, rising.

    Attributes:
        hidden: dimensions of the residual stream, int64 [kept hidden].
        products: dimensions of queries and keys, head by head, int64 [layers, kept hidden].
        values: dimensions of values, of the same heads, int64 [layers, kept hidden].
        neurons: of the feed-forward, int64 [layers, kept neurons].
        pooled: dimensions of the pooler's output, int64 [kept hidden].
    """

    hidden: Int64
    products: Int64
    values: Int64
    neurons: Int64
    pooled: Int64

    @classmethod
    def all(cls, width: Width, layers: int) -> Parts:
        """Return everything there is."""
        stream, neurons = np.arange(width.hidden_size), np.arange(width.intermediate_size)
        every = np.tile(stream, (layers, 1))
        return cls(hidden=stream, products=every, values=every, neurons=np.tile(neurons, (layers, 1)), pooled=stream)


def choose_parts(importance: Importance, width: Width) -> Parts:
    """Return the most important parts: in each layer the heads, then in each head its dimensions.

    Args:
        importance: of a model's parts.
        width: what is to be left; no part of it wider than the model's.
    """
    heads = [_largest(layer, width.heads) for layer in importance.heads]
    of = importance.heads.shape[1]
    return Parts(
        hidden=_largest(importance.hidden, width.hidden_size),
        products=_within_heads(importance.products, heads, of, width.head_size),
        values=_within_heads(importance.values, heads, of, width.head_size),
        neurons=np.stack([_largest(layer, width.intermediate_size) for layer in importance.neurons]),
        pooled=_largest(importance.pooled, width.hidden_size),
    )


def cut(model: BertForSequenceClassification, parts: Parts, width: Width) -> BertForSequenceClassification:
    """Return a model of these parts alone, in evaluation mode; the given one stays as it is.

    Its scores are those of the given one under masks that are 0 at all other parts. The products of queries and keys
    are divided by the root of the head size: the queries' weights make up for another one.
    """
    config = copy.deepcopy(model.config)
    config.hidden_size, config.num_attention_heads = width.hidden_size, width.heads
    config.intermediate_size = width.intermediate_size
    scale = math.sqrt(width.head_size / Width.of(model.config.to_dict()).head_size)
    narrow = type(model)(config)
    narrow.load_state_dict(_weights(model.state_dict(), parts, scale))
    return narrow.eval()


def _weights(state: dict[str, Tensor], parts: Parts, scale: float) -> dict[str, Tensor]:
    hidden = torch.from_numpy(parts.hidden)
    kept: dict[str, Tensor] = {}

    def take(name: str, rows: Tensor | None, columns: Tensor | None = None, factor: float = 1.0) -> None:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in state:
                value = state[f"{name}.{kind}"]
                value = value if rows is None else value[rows]
                value = value if columns is None or kind == "bias" else value[:, columns]
                kept[f"{name}.{kind}"] = value * factor

    for table in ("word", "position", "token_type"):
        take(f"bert.embeddings.{table}_embeddings", None, hidden)
    take("bert.embeddings.LayerNorm", hidden)
    for number in range(len(parts.neurons)):
        prefix = f"bert.encoder.layer.{number}"
        products, values, neurons = (
            torch.from_numpy(each[number]) for each in (parts.products, parts.values, parts.neurons)
        )
        take(f"{prefix}.attention.self.query", products, hidden, scale)
        take(f"{prefix}.attention.self.key", products, hidden)
        take(f"{prefix}.attention.self.value", values, hidden)
        take(f"{prefix}.attention.output.dense", hidden, values)
        take(f"{prefix}.attention.output.LayerNorm", hidden)
        take(f"{prefix}.intermediate.dense", neurons, hidden)
        take(f"{prefix}.output.dense", hidden, neurons)
        take(f"{prefix}.output.LayerNorm", hidden)
    take("bert.pooler.dense", torch.from_numpy(parts.pooled), hidden)
    take("classifier", None, torch.from_numpy(parts.pooled))
    return kept


def _largest(values: Float32, count: int) -> Int64:
    """Return where the largest values stand, rising; of equal ones the first."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


def _within_heads(values: Float32, heads: Sequence[Int64], of: int, size: int) -> Int64:
    """Return the `size` largest dimensions of each layer's kept heads, head by head, int64 [layers, kept heads * size].

    Args:
        values: float32 [layers, heads * head size].
        heads: the kept heads of each layer.
        of: number of heads.
        size: dimensions to keep of each.
    """
    return np.stack(
        [
            np.concatenate([head * each.shape[1] + _largest(each[head], size) for head in kept])
            for kept, each in zip(heads, values.reshape(len(values), of, -1), strict=True)
        ]
    )
