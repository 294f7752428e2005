"""Pairs without their padding: all tokens of a batch in one row of rows, padded again for attention alone.

What a BERT computes token by token (projections, feed-forward, norms: nearly all of its work) needs no padding. The
candidates of one query differ in length whatever batches they are sorted into: a third of a padded batch is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertSdpaSelfAttention, BertSelfAttention

CHUNK = 64  # pairs of like length that attend together on a CPU: with two threads fewer cost 5 to 20%; a GPU takes all
HIDDEN = -1e30  # score of padding, far below any; a sum with it stays finite in bf16 too


@dataclass(frozen=True)
class Chunk:
    """Pairs that attend together, padded to the longest of them.

    Attributes:
        rows: the packed pairs, longest first.
        tokens: the packed tokens.
        longest: tokens of the longest pair.
        slots: int64 [tokens], where each token stands in the padded [pairs * longest]; None where nothing is padded.
        mask: bool [pairs, 1, queries, longest], False where a token does not attend: with one query for all of them, at
            padding alone; None where nothing is padded.
    """

    rows: slice
    tokens: slice
    longest: int
    slots: Tensor | None
    mask: Tensor | None

    def pad(self, values: Tensor, heads: int) -> Tensor:
        """Return packed values, [all tokens, width], of these pairs as [pairs, heads, longest, width / heads]."""
        values = values[self.tokens]
        pairs, width = self.rows.stop - self.rows.start, values.shape[-1]
        if self.slots is not None:
            values = values.new_zeros(pairs * self.longest, width).index_copy(0, self.slots, values)
        return values.view(pairs, self.longest, heads, width // heads).transpose(1, 2)

    def pack(self, values: Tensor) -> Tensor:
        """Return padded values, [pairs, heads, longest, width / heads], as [tokens, width]."""
        flat = values.transpose(1, 2).reshape(-1, values.shape[1] * values.shape[3])
        return flat if self.slots is None else flat.index_select(0, self.slots)


@dataclass(frozen=True)
class Packing:
    """How the tokens of a batch stand once their padding is left out.

    Attributes:
        cells: int64 [tokens], where each token stands in the padded batch, [pairs * padded tokens].
        first: int64 [pairs], the packed token of each packed pair's [CLS].
        place: int64 [pairs], where each pair of the batch stands among the packed.
        chunks: the packed pairs by those that attend together.
    """

    cells: Tensor
    first: Tensor
    place: Tensor
    chunks: Sequence[Chunk]

    @classmethod
    def of(cls, attention_mask: Tensor) -> Packing:
        """Pack a batch, int64 [pairs, padded tokens] with 0 at the padding, which ends each row."""
        lengths, order = attention_mask.sum(dim=1).sort(descending=True, stable=True)
        steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        kept = steps < lengths[:, None]
        cells = (order[:, None] * attention_mask.shape[1] + steps)[kept]
        starts = lengths.cumsum(0)
        size = CHUNK if attention_mask.device.type == "cpu" else len(lengths)
        counts, chunks, token = lengths.tolist(), [], 0
        for start in range(0, len(counts), size):
            rows = slice(start, min(start + size, len(counts)))
            tokens = slice(token, token + sum(counts[rows]))
            mask = kept[rows, : counts[start]]
            whole = counts[start] == counts[rows.stop - 1]
            slots = None if whole else mask.reshape(-1).nonzero()[:, 0]
            chunks.append(Chunk(rows, tokens, counts[start], slots, None if whole else mask[:, None, None]))
            token = tokens.stop
        return cls(cells, starts - lengths, order.argsort(), chunks)

    def apart(self, sides: Tensor) -> Packing:
        """Return the same packing with tokens that attend to those of their own side alone; `sides`: int [tokens]."""
        chunks = []
        for chunk in self.chunks:
            padded = chunk.pad(sides[:, None] + 1, heads=1)[:, 0, :, 0]  # 0 at padding
            same = (padded[:, :, None] == padded[:, None, :]) & (padded > 0)[:, None, :]
            same |= torch.eye(chunk.longest, dtype=torch.bool, device=same.device)  # padding attends to itself, not NaN
            chunks.append(replace(chunk, mask=same[:, None]))
        return replace(self, chunks=chunks)

    def attend(self, attention: BertSelfAttention, hidden: Tensor) -> Tensor:
        """Let every token attend to its pair, packed, float [tokens, width]."""
        hidden, heads = as_computed(hidden), attention.num_attention_heads
        query, key, value = attention.query(hidden), attention.key(hidden), attention.value(hidden)
        contexts = []
        for chunk in self.chunks:
            padded = chunk.pad(query, heads), chunk.pad(key, heads), chunk.pad(value, heads)
            contexts.append(chunk.pack(_attention(attention, *padded, chunk.mask)))
        return torch.cat(contexts)

    def attend_first(self, attention: BertSelfAttention, first: Tensor, hidden: Tensor) -> Tensor:
        """Let the first token of each pair alone attend to its pair, packed, float [pairs, width].

        A single query needs no keys: q (W_k h + b_k) = (q W_k) h + q b_k, and the values' sum by weights w is
        W_v (sum w h) + b_v sum w. So no token is projected; with one layer a training step takes a third of the time.
        """
        hidden, heads, size = as_computed(hidden), attention.num_attention_heads, attention.attention_head_size
        maps = (attention.key, attention.value)
        keys, values = (_matrix(each, hidden).view(heads, size, -1) for each in maps)
        key_bias, value_bias = (each.bias.view(heads, size) for each in maps)
        query = attention.query(first).view(len(first), heads, size)
        asked, scale = _by_head(query, keys), size**-0.5
        constant = (query * key_bias).sum(dim=-1, keepdim=True) * scale
        contexts = []
        for chunk in self.chunks:
            padded, bias = chunk.pad(hidden, heads=1)[:, 0], constant[chunk.rows]
            if chunk.mask is not None:
                bias = bias.masked_fill(~chunk.mask[:, 0], HIDDEN)
            bias = bias.expand(-1, -1, chunk.longest).to(padded.dtype)
            scores = torch.baddbmm(bias, asked[chunk.rows], padded.transpose(1, 2), alpha=scale)
            weights = functional.dropout(scores.softmax(dim=-1), attention.dropout.p, attention.training)
            context = _by_head(weights.to(padded.dtype) @ padded, values.transpose(1, 2))
            contexts.append((context + weights.sum(dim=-1, keepdim=True) * value_bias).flatten(1))
        return torch.cat(contexts)


def _matrix(linear: nn.Module, like: Tensor) -> Tensor:
    """Return what a linear map multiplies with, [outputs, inputs]; adapters that stand beside its weight included."""
    if type(linear) is nn.Linear:
        return linear.weight
    mapped: Tensor = linear(torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)) - linear.bias
    return mapped.T


def _by_head(each: Tensor, matrices: Tensor) -> Tensor:
    """Multiply [pairs, heads, n] with every head's own matrix, [heads, n, m]; returns [pairs, heads, m]."""
    return torch.bmm(each.transpose(0, 1), matrices).transpose(0, 1)


def as_computed(hidden: Tensor) -> Tensor:
    """Return it in the type that autocast multiplies in; autocast would cast it anew for each projection."""
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden


def _attention(attention: BertSelfAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), [pairs, heads, queries, width / heads]."""
    dropout = attention.dropout.p if attention.training else 0.0
    if isinstance(attention, BertSdpaSelfAttention):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    pairs, heads, queries, size = query.shape
    flat_query, flat_key, flat_value = (each.reshape(pairs * heads, -1, size) for each in (query, key, value))
    # scale and mask within the product: passes of their own over the scores take 6 to 8% of a training step
    bias, share = query.new_zeros(1, 1, 1), 0
    if mask is not None:
        hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, HIDDEN)
        rows = hidden.shape[2]
        bias, share = hidden.expand(pairs, heads, rows, -1).reshape(pairs * heads, rows, -1), 1
    scale = attention.attention_head_size**-0.5
    scores = torch.baddbmm(bias, flat_query, flat_key.transpose(1, 2), beta=share, alpha=scale)
    weights = functional.dropout(scores.softmax(dim=-1), dropout).to(value.dtype)
    return (weights @ flat_value).view(pairs, heads, queries, size)
