"""Ranking and distillation losses over groups of one query's candidates; each is 0 at its optimum.

All take raw logits, float [groups, size], and `mask`, bool [groups, size], False where a group is filled up; what
stands there shapes neither value nor gradient. They return the mean over the groups that have something to compare, a
scalar. Those that take the teacher's scores are 0 where the student's equal them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Loss: TypeAlias = Callable[[Tensor, Mapping[str, Tensor]], Tensor]  # of scores and a batch

# what a teacher's scores may be declared to be: the least, the most, and that in words
SCALES = {
    "logit": (-np.inf, np.inf, "a finite number"),
    "probability": (0.0, 1.0, "a number from 0 to 1"),
}
MASKED = -1e30  # what fills a group up, once divided by a temperature: far below any candidate, and finite


def listwise_labels(scores: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
    """Softmax cross-entropy against graded gains, less the gains' own entropy.

    Targets are (2^grade - 1) normalised over the group. ListNet's top-one loss (Cao et al. 2007, eq. 5) with the gain
    of nDCG in place of exp, as in Bruch et al. 2019, "An analysis of the softmax cost function", eq. 3.

    Args:
        scores: logits, float [groups, size].
        grades: whole numbers, [groups, size]; candidates below 0 have no known grade and take no part.
        mask: bool [groups, size].
    """
    mask = mask & (grades >= 0)
    gains = (torch.exp2(grades.float()) - 1.0).masked_fill(~mask, 0.0)
    total = gains.sum(dim=1, keepdim=True)
    target = gains / total.clamp_min(1e-9)
    return _mean_over(_kl(target, _log_softmax(scores, mask)), total[:, 0] > 0)


def mse(scores: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the student's logits from the teacher's, candidate by candidate.

    Logit regression, Ba, Caruana 2014, "Do deep nets really need to be deep?". Unlike every other loss here it asks
    for the teacher's level too, which ranks nothing.

    Args:
        scores: the student's logits, float [groups, size].
        teacher: the teacher's logits, float [groups, size].
        mask: bool [groups, size].
    """
    count = mask.sum(dim=1)
    squares = ((scores - teacher).masked_fill(~mask, 0.0) ** 2).sum(dim=1)
    return _mean_over(squares / count.clamp_min(1), count > 0)


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


def ranknet(scores: Tensor, teacher: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """Mean over every two candidates of the divergence of the student's preference from the teacher's.

    RankNet, Burges et al. 2005, section 3, with P(i before j) = sigmoid(sigma (s_i - s_j)) and the teacher's own such
    probability as the target, less the target's entropy.

    Args:
        scores: the student's logits, float [groups, size].
        teacher: the teacher's logits, float [groups, size].
        mask: bool [groups, size].
        sigma: steepness of the preferences, > 0.
    """
    pairs = _pairs(mask)
    count = pairs.sum(dim=(1, 2))
    divergence = (_preference_kl(scores, teacher, mask, sigma) * pairs).sum(dim=(1, 2))
    return _mean_over(divergence / count.clamp_min(1), count > 0)


def lambda_loss(scores: Tensor, teacher: Tensor, mask: Tensor, sigma: float, mu: float) -> Tensor:
    """Sum over every two candidates of RankNet's divergence, weighted by the nDCG that their order is worth.

    LambdaLoss, Wang et al. 2018, with the weights of NDCG-Loss2++, the best of that paper: (rho + mu delta) |G_i - G_j|
    by gains G and ranks in the student's present order; rho, LambdaRank's, is the difference of the discounts of the
    ranks i and j, delta of the ranks |i - j| and |i - j| + 1. Ranks carry no gradient, so weights have none.
    Each pair's term is a divergence in place of -log P(i before j): it ends at the teacher's margin, not beyond.

    The gain of a candidate is 1 / its rank by the teacher (the label of Sun et al. 2023, RankGPT, for distilling an
    order), over the best DCG with it. It is made of the order alone; 2^grade of a rank would leave a long list nothing
    but its first pair. Candidates that the teacher ties share their mean rank, so that their order is worth 0.

    Args:
        scores: the student's logits, float [groups, size].
        teacher: the teacher's logits, float [groups, size].
        mask: bool [groups, size].
        sigma: steepness of the preferences, > 0.
        mu: weight of NDCG-Loss2 beside LambdaRank, >= 0; 10 in allRank and sentence-transformers.
    """
    weights = _ndcg_weights(scores, teacher, mask, mu) * _pairs(mask)
    divergence = (_preference_kl(scores, teacher, mask, sigma) * weights).sum(dim=(1, 2))
    return _mean_over(divergence, (weights > 0).any(dim=2).any(dim=1))


def adr_mse(scores: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Mean squared difference of the student's smooth ranks from the teacher's, discounted by the teacher's.

    ADR-MSE, Schlatt et al. 2024, Rank-DistiLLM, with the ranks of ApproxNDCG (Qin, Liu, Li 2010, position function
    approximation) and the discount 1 / log2(1 + rank). The teacher's ranks are smooth too, where the paper has an LLM's
    order and no scores: a student whose scores equal the teacher's is then at 0, and what the teacher nearly ties may
    stay nearly tied.

    Args:
        scores: the student's logits, float [groups, size].
        teacher: the teacher's logits, float [groups, size].
        mask: bool [groups, size].
        temperature: of the ranks' sigmoid, > 0; towards 0 the ranks become whole numbers.
    """
    target = _smooth_ranks(teacher, mask, temperature)
    squares = (_smooth_ranks(scores, mask, temperature) - target) ** 2 / torch.log2(1.0 + target)
    count = mask.sum(dim=1)
    return _mean_over((squares * mask).sum(dim=1) / count.clamp_min(1), count > 1)


def _log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return functional.log_softmax(scores.float().masked_fill(~mask, MASKED), dim=1)


def _kl(target: Tensor, log_prediction: Tensor) -> Tensor:
    """Return KL(target || prediction) of each group, [groups]; 0 log 0 = 0."""
    divergence: Tensor = torch.special.xlogy(target, target) - target * log_prediction
    return divergence.sum(dim=1)


def _margins(values: Tensor, mask: Tensor) -> Tensor:
    """Return v_i - v_j, [groups, size, size], with 0 for what a group is filled up with."""
    values = values.masked_fill(~mask, 0.0)
    return values[:, :, None] - values[:, None, :]


def _others(mask: Tensor) -> Tensor:
    """Return where i and j are two candidates, bool [groups, size, size]."""
    same = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, :, None] & mask[:, None, :] & ~same


def _pairs(mask: Tensor) -> Tensor:
    """Return every two candidates once, i before j, bool [groups, size, size]."""
    return _others(mask).triu(1)


def _preference_kl(scores: Tensor, teacher: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """Return KL(teacher || student) of the preference for i over j, [groups, size, size]."""
    ours, theirs = sigma * _margins(scores, mask), sigma * _margins(teacher, mask)
    # log(1 - p) is logsigmoid of the margin's opposite: exact where p rounds to 0 or 1
    before = theirs.sigmoid() * (functional.logsigmoid(theirs) - functional.logsigmoid(ours))
    after = (-theirs).sigmoid() * (functional.logsigmoid(-theirs) - functional.logsigmoid(-ours))
    return before + after


def _smooth_ranks(values: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return 1 + sum over others j of sigmoid((v_j - v_i) / temperature), [groups, size]."""
    return 1.0 + ((-_margins(values, mask) / temperature).sigmoid() * _others(mask)).sum(dim=2)


def _ndcg_weights(scores: Tensor, teacher: Tensor, mask: Tensor, mu: float) -> Tensor:
    """Return NDCG-Loss2++'s weight of every two candidates, [groups, size, size]."""
    margins, others = _margins(teacher, mask), _others(mask)
    ranks = 1.0 + ((margins < 0) * others).sum(dim=2) + ((margins == 0) * others).sum(dim=2) / 2
    gains = mask / ranks
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    ideal = (gains.sort(dim=1, descending=True).values * _discount(positions)).sum(dim=1)
    gains = gains / ideal.clamp_min(1e-9)[:, None]
    order = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    present = order.argsort(dim=1) + 1
    discount = _discount(present)
    apart = (present[:, :, None] - present[:, None, :]).abs().clamp_min(1)
    rho = (discount[:, :, None] - discount[:, None, :]).abs()
    delta = _discount(apart) - _discount(apart + 1)
    return (rho + mu * delta) * (gains[:, :, None] - gains[:, None, :]).abs()


def _discount(ranks: Tensor) -> Tensor:
    return 1.0 / torch.log2(1.0 + ranks)


def _mean_over(values: Tensor, kept: Tensor) -> Tensor:
    return (values * kept).sum() / kept.sum().clamp_min(1)
