"""Losses on the states of a pair's tokens, of student and teacher; each is 0 where the student's equal the teacher's.

All take states, float [pairs, tokens, width], and `mask`, bool [pairs, tokens], False at padding; what stands there
shapes neither value nor gradient. They compute in float32, under autocast too, and return a scalar: the mean over real
tokens, over layers, over heads, so that a weight means the same for students of any depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def hidden(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, projection: Tensor | None) -> Tensor:
    """Mean squared difference of the student's layers, projected, from the teacher's layers that they are mapped to.

    TinyBERT, Jiao et al. 2020, eq. 8, with one projection for all layers as there; eq. 6 sums over layers.

    Args:
        student: each layer's output, float [pairs, tokens, student width].
        teacher: the outputs that they are mapped to, float [pairs, tokens, teacher width].
        mask: bool [pairs, tokens].
        projection: float [teacher width, student width]; None where the widths are equal.
    """
    return _mean(embedding(ours, theirs, mask, projection) for ours, theirs in zip(student, teacher, strict=True))


def embedding(student: Tensor, teacher: Tensor, mask: Tensor, projection: Tensor | None) -> Tensor:
    """Mean squared difference of the student's embedding output, projected, from the teacher's.

    TinyBERT, Jiao et al. 2020, eq. 9.

    Args:
        student: float [pairs, tokens, student width].
        teacher: float [pairs, tokens, teacher width].
        mask: bool [pairs, tokens].
        projection: float [teacher width, student width]; None where the widths are equal.
    """
    ours, theirs = student[mask].float(), teacher[mask].float()
    if projection is not None:
        ours = _matmul(ours, projection.T)
    _same_shape(ours, theirs)
    return (ours - theirs).square().mean()


def attention(
    student: Sequence[tuple[Tensor, Tensor]],
    teacher: Sequence[tuple[Tensor, Tensor]],
    mask: Tensor,
    heads: int,
) -> Tensor:
    """Mean squared difference of the attention scores before softmax, head by head.

    TinyBERT, Jiao et al. 2020, eq. 7, with the scores Q K^T / sqrt(head size) of each model: a mean over heads and, for
    each real token, over the real tokens that it looks at. Both models have the same number of heads.

    Args:
        student: each layer's queries and keys, float [pairs, tokens, student width].
        teacher: those of the layers that they are mapped to, float [pairs, tokens, teacher width].
        mask: bool [pairs, tokens].
        heads: of both models; divides both widths.
    """
    values = []
    for (query, key), (teacher_query, teacher_key) in zip(student, teacher, strict=True):
        difference = attention_scores(query, key, heads) - attention_scores(teacher_query, teacher_key, heads)
        squares = difference.square().mean(dim=1).masked_fill(~mask[:, None, :], 0.0)
        values.append(_row_mean(squares.sum(dim=2) / mask.sum(dim=1, keepdim=True), mask))
    return _mean(values)


def relations(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int) -> Tensor:
    """Divergence of how the student's queries, keys and values are alike among each other from how the teacher's are.

    MiniLMv2, Wang et al. 2021, section 3.1: the vectors of all attention heads side by side are split anew into
    relation heads; a row of a relation is the softmax of a token's scaled products with every real token; the loss is
    the sum over Q-Q, K-K and V-V of the mean over heads and tokens of KL(teacher || student). Widths may differ.

    Args:
        student: queries, keys and values of one layer, float [pairs, tokens, student width].
        teacher: those of one layer, float [pairs, tokens, teacher width].
        mask: bool [pairs, tokens].
        heads: relation heads; divides both widths.
    """
    padding = ~mask[:, None, None, :]
    total = torch.zeros((), device=mask.device)
    for ours, theirs in zip(student, teacher, strict=True):
        log_ours, log_theirs = (
            functional.log_softmax(attention_scores(vectors, vectors, heads).masked_fill(padding, -torch.inf), dim=3)
            for vectors in (ours, theirs)
        )
        divergence = (log_theirs.exp() * (log_theirs - log_ours)).masked_fill(padding, 0.0)
        total = total + _row_mean(divergence.sum(dim=3).mean(dim=1), mask)
    return total


def attention_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Return Q K^T / sqrt(head size), float32 [pairs, heads, tokens, tokens], of float [pairs, tokens, width]."""
    queries, keys = (vectors.float().reshape(*vectors.shape[:2], heads, -1).transpose(1, 2) for vectors in (query, key))
    return _matmul(queries / queries.shape[-1] ** 0.5, keys.transpose(2, 3))


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float()


def _row_mean(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of float [pairs, tokens] over real tokens."""
    return rows[mask].mean()


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _same_shape(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:  # broadcasting would compare the wrong numbers in silence
        raise ValueError(f"the student's states are {list(ours.shape)}, the teacher's {list(theirs.shape)}")
