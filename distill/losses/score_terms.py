"""What a student is trained on: the weighted sum of losses on its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rankdistill.errors import ConfigError
from rankdistill.losses import score_losses
from rankdistill.losses.score_losses import SCALES, Loss
from rankdistill.options import AdrMse, Kl, Labels, LambdaLoss, MarginMse, Mse, RankNet, Term

Batch = Mapping[str, Tensor]
COMPARED = ("teacher", "grades", "mask")  # what a batch holds of each candidate beside the student's score

LOGITS = ("logit",)
ANY_SCALE = tuple(SCALES)


@dataclass(frozen=True)
class ScoreLoss:
    """How a term's value comes about, and of which scales the teacher's scores may be.

    Attributes:
        value: takes the term's options, scores float [groups, size] and the batch; gives a scalar.
        scales: names of `rankdistill.losses.score_losses.SCALES`.
    """

    value: Callable[[Any, Tensor, Batch], Tensor]
    scales: Sequence[str]


# The student gives logits: whatever compares values, margins or ranks that are smooth in the margin, with the teacher's
# asks for logits of the teacher. `labels` alone does not look at the teacher.
SCORE_LOSSES: Mapping[type[Term], ScoreLoss] = {
    Mse: ScoreLoss(lambda _, s, b: score_losses.mse(s, b["teacher"], b["mask"]), LOGITS),
    MarginMse: ScoreLoss(lambda _, s, b: score_losses.margin_mse(s, b["teacher"], b["mask"]), LOGITS),
    Kl: ScoreLoss(lambda term, s, b: score_losses.kl(s, b["teacher"], b["mask"], term.temperature), LOGITS),
    RankNet: ScoreLoss(lambda term, s, b: score_losses.ranknet(s, b["teacher"], b["mask"], term.sigma), LOGITS),
    LambdaLoss: ScoreLoss(
        lambda term, s, b: score_losses.lambda_loss(s, b["teacher"], b["mask"], term.sigma, term.mu), LOGITS
    ),
    AdrMse: ScoreLoss(lambda term, s, b: score_losses.adr_mse(s, b["teacher"], b["mask"], term.temperature), LOGITS),
    Labels: ScoreLoss(lambda _, s, b: score_losses.listwise_labels(s, b["grades"], b["mask"]), ANY_SCALE),
}


def weighted_loss(terms: Mapping[str, Term], scale: str) -> Loss:
    """Return the weighted sum of losses on scores.

    It takes the student's logits, float [groups, size], and a batch with `teacher` (the teacher's scores), `grades` and
    `mask` (bool) of that shape, gives a scalar, and raises ValueError where they are of another shape or type.

    Args:
        terms: the losses by name, each of a class of `SCORE_LOSSES`; those of weight 0 are left out.
        scale: what the teacher's scores are, as `rankdistill.training.scoring.scale` tells.

    Raises:
        ConfigError: with a line for each term that cannot be had from scores of that scale.
    """
    kept = {name: term for name, term in terms.items() if term.weight > 0}
    problems = [
        f"loss.terms.{name}: the teacher's scores are of scale {scale}: allowed is {' or '.join(wanted)}"
        for name, term in kept.items()
        if scale not in (wanted := SCORE_LOSSES[type(term)].scales)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    parts = [(term, SCORE_LOSSES[type(term)].value) for term in kept.values()]

    def total(scores: Tensor, batch: Batch) -> Tensor:
        if wrong := _misfits(scores, batch):
            raise ValueError("; ".join(wrong))
        return torch.stack([term.weight * value(term, scores, batch) for term, value in parts]).sum()

    return total


def _misfits(scores: Tensor, batch: Batch) -> list[str]:
    """Return what of a batch does not fit the scores; broadcasting would compare the wrong candidates in silence."""
    wrong = [] if scores.ndim == 2 else [f"scores are {list(scores.shape)}, not [groups, size]"]
    for name in COMPARED:
        if name not in batch:
            wrong.append(f"the batch has no {name}")
        elif batch[name].shape != scores.shape:
            wrong.append(f"{name} is {list(batch[name].shape)}, scores are {list(scores.shape)}")
    if "mask" in batch and batch["mask"].dtype != torch.bool:
        wrong.append(f"mask is {batch['mask'].dtype}, not torch.bool")
    return wrong
