"""The terms of a loss."""

from __future__ import annotations

from dataclasses import dataclass, field


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
class Loss:
    """The weighted sum that a student is trained on, by name of its terms."""

    terms: dict[str, Term] = field(default_factory=dict)
