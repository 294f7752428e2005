"""The terms of a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Term:
    """One loss of the weighted sum."""

    weight: float = 1.0


@dataclass
class MarginMse(Term):
    """Margin-MSE on the teacher's scores."""


@dataclass
class Kl(Term):
    """Listwise KL from the teacher's scores."""

    temperature: float = 1.0


@dataclass
class Labels(Term):
    """Softmax cross-entropy on the graded labels."""


@dataclass
class Mse(Term):
    """Mean squared error on the teacher's scores."""


@dataclass
class RankNet(Term):
    """RankNet on the teacher's preferences."""

    sigma: float = 1.0


@dataclass
class LambdaLoss(Term):
    """LambdaLoss (NDCG-Loss2++) on the teacher's preferences and order."""

    sigma: float = 1.0
    mu: float = 10.0


@dataclass
class AdrMse(Term):
    """ADR-MSE on the teacher's smooth ranks."""

    temperature: float = 1.0


@dataclass
class StateTerm(Term):
    """A loss on the states of a pair's tokens, for which the teacher runs beside the student."""


@dataclass
class Hidden(StateTerm):
    """TinyBERT's loss on the layers' outputs."""

    layer_map: Any = "uniform"


@dataclass
class Attention(StateTerm):
    """TinyBERT's loss on the attention scores before softmax."""

    layer_map: Any = "uniform"


@dataclass
class Embedding(StateTerm):
    """TinyBERT's loss on the embedding's output."""


@dataclass
class Relations(StateTerm):
    """MiniLMv2's loss on the relations of the last layer's queries, keys and values."""

    heads: int = 16
    teacher_layer: int | None = None


@dataclass
class Loss:
    """The weighted sum that a student is trained on, by name of its terms."""

    terms: dict[str, Term] = field(default_factory=dict)
