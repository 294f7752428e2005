"""Ranking and distillation losses over groups of one query's candidates; each is 0 at its optimum.

All take raw logits, float [groups, size], and `mask`, bool [groups, size], False where a group is filled up. They
return the mean over the groups that have something to compare, a scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e4  # a logit that no candidate has; exp of it is 0 in fp32 and bf16


def listwise_labels(scores: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
    """Softmax cross-entropy against graded gains, less the gains' own entropy.

    Targets are (2^grade - 1) normalised over the group. ListNet's top-one loss (Cao et al. 2007, eq. 5) with the gain
    of nDCG in place of exp, as in Bruch et al. 2019, "An analysis of the softmax cost function", eq. 3.

    Args:
        scores: logits, float [groups, size].
        grades: whole numbers, [groups, size].
        mask: bool [groups, size].
    """
    gains = (torch.exp2(grades.float()) - 1.0) * mask
    total = gains.sum(dim=1, keepdim=True)
    target = gains / total.clamp_min(1e-9)
    return _mean_over(_kl(target, _log_softmax(scores, mask)), total[:, 0] > 0)


def kl(scores: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax from the teacher's, times temperature^2.

    Hinton, Vinyals, Dean 2015, section 2, over a group's candidates in place of classes.

    Args:
        scores: the student's logits, float [groups, size].
        teacher: the teacher's logits, float [groups, size].
        mask: bool [groups, size].
        temperature: divides both, > 0.
    """
    target = _log_softmax(teacher / temperature, mask).exp()
    divergence = _kl(target, _log_softmax(scores / temperature, mask)) * temperature**2
    return _mean_over(divergence, mask.sum(dim=1) > 1)


def margin_mse(scores: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the score margins of student and teacher over all pairs of a group's candidates.

    Margin-MSE, Hofstätter et al. 2020, eq. 7, over every two candidates, not only a positive and a negative. The mean
    over pairs of (d_i - d_j)^2 with d = student - teacher is twice d's unbiased variance.

    Args:
        scores: the student's logits, float [groups, size].
        teacher: the teacher's logits, float [groups, size].
        mask: bool [groups, size].
    """
    count = mask.sum(dim=1)
    difference = (scores - teacher).masked_fill(~mask, 0.0)
    mean = difference.sum(dim=1, keepdim=True) / count.clamp_min(1)[:, None]
    squares = ((difference - mean).masked_fill(~mask, 0.0) ** 2).sum(dim=1)
    return _mean_over(2.0 * squares / (count - 1).clamp_min(1), count > 1)


def _log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return functional.log_softmax(scores.float().masked_fill(~mask, MASKED), dim=1)


def _kl(target: Tensor, log_prediction: Tensor) -> Tensor:
    """Return KL(target || prediction) of each group, [groups]; 0 log 0 = 0."""
    divergence: Tensor = torch.special.xlogy(target, target) - target * log_prediction
    return divergence.sum(dim=1)


def _mean_over(values: Tensor, kept: Tensor) -> Tensor:
    return (values * kept).sum() / kept.sum().clamp_min(1)
