"""The terms of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankdistill.options.ranges import LAYER_MAP, POSITIVE, at_least, option


@dataclass
class Term:
    """One loss of the weighted sum."""

    weight: float = option(1.0, at_least(0))


@dataclass
class MarginMse(Term):
    """Margin-MSE on the teacher's scores."""


@dataclass
class Kl(Term):
    """Listwise KL from the teacher's scores."""

    temperature: float = option(1.0, POSITIVE)


@dataclass
class Labels(Term):
    """Softmax cross-entropy on the graded labels."""


@dataclass
class Mse(Term):
    """Mean squared error on the teacher's scores."""


@dataclass
class RankNet(Term):
    """RankNet on the teacher's preferences."""

    sigma: float = option(1.0, POSITIVE)


@dataclass
class LambdaLoss(Term):
    """LambdaLoss (NDCG-Loss2++) on the teacher's preferences and order."""

    sigma: float = option(1.0, POSITIVE)
    mu: float = option(10.0, at_least(0))


@dataclass
class AdrMse(Term):
    """ADR-MSE on the teacher's smooth ranks."""

    temperature: float = option(1.0, POSITIVE)


@dataclass
class StateTerm(Term):
    """A loss on the states of a pair's tokens, for which the teacher runs beside the student."""


@dataclass
class Hidden(StateTerm):
    """TinyBERT's loss on the layers' outputs."""

    layer_map: Any = option("uniform", LAYER_MAP)


@dataclass
class Attention(StateTerm):
    """TinyBERT's loss on the attention scores before softmax."""

    layer_map: Any = option("uniform", LAYER_MAP)


@dataclass
class Embedding(StateTerm):
    """TinyBERT's loss on the embedding's output."""


@dataclass
class Relations(StateTerm):
    """MiniLMv2's loss on the relations of the last layer's queries, keys and values."""

    heads: int = option(16, at_least(1))
    teacher_layer: int | None = option(None, at_least(0))


TERMS: dict[str, type[Term]] = {
    "margin_mse": MarginMse,
    "kl": Kl,
    "labels": Labels,
    "mse": Mse,
    "ranknet": RankNet,
    "lambda_loss": LambdaLoss,
    "adr_mse": AdrMse,
    "hidden": Hidden,
    "attention": Attention,
    "embedding": Embedding,
    "relations": Relations,
}


def _any_weight(terms: dict[str, Term]) -> bool:
    return any(term is not None and term.weight > 0 for term in terms.values())


@dataclass
class Loss:
    """The weighted sum that a student is trained on, by name of its terms."""

    terms: dict[str, Term] = option({}, (_any_weight, "at least one with weight > 0"))
