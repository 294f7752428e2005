"""The loss of an update: what the events say, what the teacher said of old pairs, and what is served now."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rankdistill.losses import score_losses
from rankdistill.losses.score_losses import Loss


def weighted_labels(scores: Tensor, grades: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Softmax cross-entropy against graded gains, each times the inverse of its item's propensity.

    The inverse-propensity-weighted softmax loss (Ai et al. 2018, "Unbiased learning to rank with unbiased propensity
    estimation", eq. 8): a list counts by the sum of its weighted gains over that of its gains, so that the only click
    of a list keeps its weight. With weights of 1 it is `score_losses.listwise_labels`.

    Args:
        scores: logits, float [groups, size].
        grades: whole numbers, [groups, size]; candidates below 0 have no known grade and take no part.
        weight: 1 / propensity, float [groups, size].
        mask: bool [groups, size].

    Returns:
        Mean over the groups with a gain, a scalar; 0 at its optimum.
    """
    mask = mask & (grades >= 0)
    plain = (torch.exp2(grades.float()) - 1.0).masked_fill(~mask, 0.0)
    gains = plain * weight.masked_fill(~mask, 0.0)
    total = gains.sum(dim=1)
    target = gains / total.clamp_min(1e-9)[:, None]
    log_prediction = torch.log_softmax(scores.float().masked_fill(~mask, score_losses.MASKED), dim=1)
    divergence = (torch.special.xlogy(target, target) - target * log_prediction).sum(dim=1)
    emphasis = total / plain.sum(dim=1).clamp_min(1e-9)
    counted = total > 0
    mean: Tensor = (divergence * emphasis * counted).sum() / counted.sum().clamp_min(1)
    return mean


def update_loss(*, labels: float, replay: float, anchor: float) -> Loss:
    """Return the weighted sum of three losses.

    - labels: `weighted_labels` of the events' outcomes.
    - replay: margin-MSE and KL towards the teacher's stored scores on old pairs, what the student was distilled with.
    - anchor: mean squared distance from the served student's own scores on all pairs: "Learning without forgetting"
      (Li, Hoiem 2017) with regression in place of the softened classes. It holds the scores' level too, which cut-offs
      of a cascade and shared score caches stand on.

    The batch holds, [groups, size] each: `grades` (`UNKNOWN` on old pairs), `propensity` (its inverse), `teacher`
    (raw logits where `taught` is 1), `served` (raw logits), and `mask`.

    Args:
        labels: weight of the first.
        replay: of the second.
        anchor: of the third.
    """

    def total(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        mask, teacher = batch["mask"], batch["teacher"]
        taught = mask & (batch["taught"] > 0)
        distilled = score_losses.margin_mse(scores, teacher, taught) + score_losses.kl(scores, teacher, taught, 1.0)
        learned = weighted_labels(scores, batch["grades"], batch["propensity"], mask)
        return labels * learned + replay * distilled + anchor * score_losses.mse(scores, batch["served"], mask)

    return total
