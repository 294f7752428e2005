"""Unlabelled pairs, and what a teacher learns from them before it sees labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rankdistill.options.models import Fit
from rankdistill.options.ranges import POSITIVE, at_least, option


@dataclass
class Augment:
    """Unlabelled pairs that the teacher scores for its student."""

    kind: str = MISSING


@dataclass
class NoAugment(Augment):
    """None: the student learns from the training split's pairs alone."""

    kind: str = "none"


@dataclass
class Draw:
    """How many pairs a query gets, by source, and queries made of the data's own texts."""

    bm25: int = option(20, at_least(0))
    embedding: int = option(20, at_least(0))
    random: int = option(20, at_least(0))
    item_queries: int = option(0, at_least(0))
    crossed_queries: int = option(0, at_least(0))
    seed: int = option(0, at_least(0))


@dataclass
class DrawnAugment(Draw, Augment):
    """Pairs drawn for the training queries and for queries made of them."""

    kind: str = "drawn"
    hard_negatives: int = option(0, at_least(0))
    margin: float = option(2.0, at_least(0))


@dataclass
class Warm:
    """What a teacher learns before it sees labels."""

    kind: str = MISSING


@dataclass
class NoWarm(Warm):
    """Nothing."""

    kind: str = "none"


@dataclass
class SimilarityWarm(Warm):
    """The similarity of query and item by its encoder's embeddings, over unlabelled pairs."""

    kind: str = "similarity"
    scale: float = option(12.0, POSITIVE)
    pairs: Draw = field(default_factory=Draw)
    fit: Fit = field(default_factory=Fit)


@dataclass
class BaselinesWarm(Warm):
    """The best linear combination of popularity, BM25 and the encoder's similarity, over the training lists."""

    kind: str = "baselines"
    fit: Fit = field(default_factory=Fit)
