"""Losses of an embedder that learns from a cross-encoder, over prefixes of its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rankdistill.losses import score_losses
from rankdistill.options import DistilledEmbed


@dataclass(frozen=True)
class Lesson:
    """What is known of a step's queries and items; a query's items are its group.

    Attributes:
        group: int64 [queries, size], rows of the step's items.
        mask: bool [queries, size], which of them are there.
        teacher: float [queries, size], the cross-encoder's logits.
        negative: bool [queries, items], which items of other groups are no good ones for a query.
        similarity: float [queries, items], cosines by the encoder before it was tuned.
    """

    group: Tensor
    mask: Tensor
    teacher: Tensor
    negative: Tensor
    similarity: Tensor


def cosines(queries: Tensor, items: Tensor, dimensions: int) -> Tensor:
    """Return the cosines of the first dimensions of queries' and items' vectors, float [queries, items]."""
    return functional.normalize(queries[:, :dimensions], dim=1) @ functional.normalize(items[:, :dimensions], dim=1).T


def margin_scale(similarity: Tensor, teacher: Tensor, mask: Tensor) -> float:
    """Return by what cosines are multiplied so that their margins are nearest to the teacher's (least squares).

    Args:
        similarity: float [queries, size], cosines.
        teacher: float [queries, size], logits.
        mask: bool [queries, size].

    Returns:
        A number from 1 on: an encoder whose margins say nothing must not turn the loss off.
    """
    ours, theirs = (_centred(values, mask) for values in (similarity, teacher))
    return max(1.0, float((ours * theirs).sum() / (ours * ours).sum().clamp_min(1e-12)))


def in_batch(scores: Tensor, lesson: Lesson, temperature: float) -> Tensor:
    """Return the cross-entropy of a query's items against all items of the batch, the teacher's shares as targets.

    InfoNCE (van den Oord et al. 2018, equation 4) with soft targets: the teacher's softmax over the query's own items,
    0 for others. Of others, those that `lesson.negative` does not name are left out (Solatorio 2024, GISTEmbed).

    Args:
        scores: float [queries, items], logits.
        lesson: of the step.
        temperature: of the teacher's logits.
    """
    counts = torch.zeros_like(scores).scatter_add(1, lesson.group, lesson.mask.to(scores.dtype))
    own = counts > 0  # added up: a place of the group where nothing is points to some item too
    log_shares = scores.masked_fill(~(own | lesson.negative), -torch.inf).log_softmax(1).gather(1, lesson.group)
    shares = (lesson.teacher / temperature).masked_fill(~lesson.mask, -torch.inf).softmax(1)
    return -(shares * log_shares.masked_fill(~lesson.mask, 0)).sum(1).mean()


def embedder_loss(
    queries: Tensor, items: Tensor, lesson: Lesson, scale: Tensor, options: DistilledEmbed, dimensions: Sequence[int]
) -> Tensor:
    """Return the sum over prefixes (Kusupati et al. 2022, equation 1), each of length 1, of the weighted losses.

    - Margin-MSE (Hofstätter et al. 2020, equation 7) of `scale` times the cosines, over the variance of the teacher's
      margins, so that its weight means the same for every teacher.
    - `in_batch`.
    - The mean square of what cosines differ from those of the encoder before it was tuned.

    Args:
        queries: float [queries, width].
        items: float [items, width].
        lesson: of the step.
        scale: of cosines, a scalar.
        options: weights and temperatures.
        dimensions: the prefixes.
    """
    spread = _centred(lesson.teacher, lesson.mask).square().sum() / lesson.mask.sum().clamp_min(1)
    total = queries.new_zeros(())
    for size in dimensions:
        found = cosines(queries, items, size)
        margins = score_losses.margin_mse(scale * found.gather(1, lesson.group), lesson.teacher, lesson.mask)
        total = total + options.margin_mse * margins / spread.clamp_min(1e-6)
        total = total + options.in_batch * in_batch(found / options.temperature, lesson, options.teacher_temperature)
        total = total + options.similarity * (found - lesson.similarity).square().mean()
    return total


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    """Return values less the mean of their group, 0 where nothing is."""
    mean = (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
    return (values - mean) * mask
