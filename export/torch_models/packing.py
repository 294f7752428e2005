"""Pairs without their padding: all tokens of a batch in one row of rows, padded again for attention alone.

What a BERT computes token by token (projections, feed-forward, norms: nearly all of its work) needs no padding. The
candidates of one query differ in length whatever batches they are sorted into: a third of a padded batch is nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertSelfAttention

CHUNK = 64  # pairs that attend together on a CPU at most; a GPU takes all
STEP = 32  # tokens: on a CPU a chunk is padded to a multiple; softmax of bf16 takes twice as long at other lengths
# under a CPU's autocast a batch has a multiple of so many tokens: for each other number oneDNN compiles kernels anew
ROWS = 64
HIDDEN = -1e30  # score of padding, far below any; a sum with it stays finite in bf16 too


@dataclass(frozen=True)
class Places:
    """Where the rows of packed values stand once they are padded.

    Attributes:
        padded: int64 [padded rows], the packed row that stands at each; any at padding.
        packed: int64 [rows], where each row stands.
        longest: rows that a pair is padded to.
    """

    padded: Tensor
    packed: Tensor
    longest: int
    _of_heads: dict[int, Places] = field(default_factory=dict, compare=False)  # every layer asks for the same

    def by_head(self, heads: int) -> Places:
        """Return where each head's part of a row stands: a padded [pairs * heads * longest] of [rows * heads]."""
        if heads == 1:
            return self
        if heads not in self._of_heads:
            each = torch.arange(heads, device=self.padded.device)
            padded = (self.padded.view(-1, 1, self.longest) * heads + each[:, None]).flatten()
            pair, row = self.packed.div(self.longest, rounding_mode="floor"), self.packed % self.longest
            packed = ((pair[:, None] * heads + each) * self.longest + row[:, None]).flatten()
            self._of_heads[heads] = Places(padded, packed, self.longest)
        return self._of_heads[heads]


class _Pad(torch.autograd.Function):
    """Put rows where they are padded to: a row of the padding is a copy of any, and gives it no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return rows.index_select(0, places.padded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.places.packed), None


class _Pack(torch.autograd.Function):
    """Take rows from where they are padded to."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return rows.index_select(0, places.packed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        places, gradient = ctx.places, gradients[0]
        padded = gradient.new_zeros(len(places.padded), gradient.shape[1])
        return padded.index_copy_(0, places.packed, gradient), None


@dataclass(frozen=True)
class Chunk:
    """Pairs that attend together, padded to the same number of tokens.

    Attributes:
        rows: the packed pairs, longest first.
        tokens: the packed tokens.
        longest: tokens that each pair is padded to.
        places: where the tokens stand.
        mask: bool [pairs, 1, queries, longest], False where a token does not attend: with one query for all of them, at
            padding alone; None where nothing is padded.
    """

    rows: slice
    tokens: slice
    longest: int
    places: Places
    mask: Tensor | None

    @classmethod
    def of(cls, rows: slice, tokens: slice, lengths: Tensor, longest: int) -> Chunk:
        """Pad pairs of these lengths, int64 [pairs], to the same number of tokens."""
        kept = torch.arange(longest, device=lengths.device) < lengths[:, None]
        packed = kept.reshape(-1).nonzero()[:, 0]
        padded = torch.zeros(kept.numel(), dtype=torch.int64, device=lengths.device)
        padded[packed] = torch.arange(len(packed), device=lengths.device)
        mask = None if len(packed) == len(padded) else kept[:, None, None]
        return cls(rows, tokens, longest, Places(padded, packed, longest), mask)

    def pad(self, values: Tensor, heads: int) -> Tensor:
        """Return these pairs' values, [tokens, width], as [pairs, heads, longest, width / heads]; any at padding."""
        size = values.shape[1] // heads
        padded: Tensor = _Pad.apply(values.reshape(-1, size), self.places.by_head(heads))  # type: ignore[no-untyped-call]
        return padded.view(-1, heads, self.longest, size)

    def pack(self, values: Tensor) -> Tensor:
        """Return padded values, [pairs, heads, longest, width / heads], as [tokens, width]."""
        _, heads, _, size = values.shape
        packed: Tensor = _Pack.apply(values.reshape(-1, size), self.places.by_head(heads))  # type: ignore[no-untyped-call]
        return packed.view(-1, heads * size)


@dataclass(frozen=True)
class Packing:
    """How the tokens of a batch stand once their padding is left out.

    Attributes:
        cells: int64 [tokens], where each token stands in the padded batch, [pairs * padded tokens]; the last may repeat
            the first, and nothing comes of them.
        first: int64 [pairs], the packed token of each packed pair's [CLS].
        place: int64 [pairs], where each pair of the batch stands among the packed.
        chunks: the packed pairs by those whose tokens attend together.
        wide: the same in fewer chunks, for queries so few that a padded token costs nothing.
    """

    cells: Tensor
    first: Tensor
    place: Tensor
    chunks: Sequence[Chunk]
    wide: Sequence[Chunk]

    @classmethod
    def of(cls, attention_mask: Tensor) -> Packing:
        """Pack a batch, int64 [pairs, padded tokens] with 0 at the padding, which ends each row."""
        lengths, order = attention_mask.sum(dim=1).sort(descending=True, stable=True)
        steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        cells = (order[:, None] * attention_mask.shape[1] + steps)[steps < lengths[:, None]]
        counts = lengths.tolist()
        on_cpu = attention_mask.device.type == "cpu"
        if on_cpu and torch.is_autocast_enabled("cpu"):
            cells = torch.cat([cells, cells[:1].expand(-len(cells) % ROWS)])
        wide = [*_at_most(CHUNK if on_cpu else len(counts), 0, len(counts))]
        chunks = _chunks(lengths, counts, _alike(counts) if on_cpu else wide)
        first, place = lengths.cumsum(0) - lengths, order.argsort()
        return cls(cells, first, place, chunks, _chunks(lengths, counts, wide))

    def apart(self, sides: Tensor) -> Packing:
        """Return the same packing with tokens that attend to those of their own side alone; `sides`: int [tokens]."""
        chunks = []
        for chunk in self.chunks:
            padded = chunk.pad(sides[chunk.tokens, None] + 1, heads=1)[:, 0, :, 0]
            if chunk.mask is not None:
                padded = padded * chunk.mask[:, 0, 0]  # 0 at padding
            same = (padded[:, :, None] == padded[:, None, :]) & (padded > 0)[:, None, :]
            same |= torch.eye(chunk.longest, dtype=torch.bool, device=same.device)  # padding attends to itself, not NaN
            chunks.append(replace(chunk, mask=same[:, None]))
        return replace(self, chunks=chunks)

    def attend(self, attention: BertSelfAttention, hidden: Tensor) -> Tensor:
        """Let every token attend to its pair, packed, float [tokens, width]."""
        hidden, heads = as_computed(hidden), attention.num_attention_heads
        maps, contexts = (attention.query, attention.key, attention.value), []
        for chunk, *each in zip(self.chunks, *(split(map_(hidden), self.chunks) for map_ in maps), strict=True):
            query, key, value = (chunk.pad(values, heads) for values in each)
            contexts.append(chunk.pack(_attention(attention, query, key, value, chunk.mask)))
        nothing = hidden.new_zeros(len(hidden) - self.chunks[-1].tokens.stop, contexts[0].shape[1])
        return torch.cat([*contexts, nothing])

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
        shares, sums = [], []
        for chunk, states in zip(self.wide, split(hidden, self.wide), strict=True):
            padded, bias = chunk.pad(states, heads=1)[:, 0], constant[chunk.rows]
            if chunk.mask is not None:
                bias = bias.masked_fill(~chunk.mask[:, 0], HIDDEN)
            bias = bias.expand(-1, -1, chunk.longest).to(padded.dtype)
            scores = torch.baddbmm(bias, asked[chunk.rows], padded.transpose(1, 2), alpha=scale)
            weights = functional.dropout(scores.softmax(dim=-1), attention.dropout.p, attention.training)
            shares.append(weights.sum(dim=-1, keepdim=True))
            sums.append(weights.to(padded.dtype) @ padded)
        context: Tensor = _by_head(torch.cat(sums), values.transpose(1, 2)) + torch.cat(shares) * value_bias
        return context.flatten(1)


def split(values: Tensor, chunks: Sequence[Chunk]) -> Sequence[Tensor]:
    """Return each chunk's part of packed values, [tokens, width]."""
    sizes = [each.tokens.stop - each.tokens.start for each in chunks]
    return torch.split(values, [*sizes, len(values) - sum(sizes)])[:-1]


def _chunks(lengths: Tensor, counts: Sequence[int], parts: Iterable[slice]) -> list[Chunk]:
    """Pad parts of the pairs, each to the next multiple of `STEP` of its longest's tokens."""
    chunks, token = [], 0
    for rows in parts:
        tokens = slice(token, token + sum(counts[rows]))
        chunks.append(Chunk.of(rows, tokens, lengths[rows], -(-counts[rows.start] // STEP) * STEP))
        token = tokens.stop
    return chunks


def _alike(counts: Sequence[int]) -> Iterator[slice]:
    """Give the pairs, longest first, that are padded to the same number of tokens."""
    start = 0
    for _, alike in itertools.groupby(counts, key=lambda count: -(-count // STEP)):
        stop = start + len(list(alike))
        yield from _at_most(CHUNK, start, stop)
        start = stop


def _at_most(size: int, start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


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
    if attention.config._attn_implementation == "sdpa":
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
