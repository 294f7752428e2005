"""What scoring a pair with a model costs, up to a constant: what a search weighs quality against."""

from __future__ import annotations

from transformers import BertForSequenceClassification

from rankdistill.data.tokens import PairTokens
from rankdistill.training.teacher_states import PROJECTIONS


def scoring_cost(model: BertForSequenceClassification, pairs: PairTokens) -> float:
    """Return what scoring a pair costs, up to a constant: the encoder's parameters times a pair's mean tokens."""
    return float(encoder_parameters(model) * pairs.lengths.mean())


def encoder_parameters(model: BertForSequenceClassification) -> int:
    """Return how many parameters a pair's every token meets: all but the embeddings, and what only training has."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(("bert.embeddings", PROJECTIONS))
    )
