"""What is learned from events, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rankdistill.options.models import Train
from rankdistill.options.ranges import (
    DRIFT_MEASURES,
    FROM_0_TO_1,
    GRADES,
    LATE,
    MOST_SEED,
    POSITIVE,
    PROPENSITIES,
    SHARE,
    are_rising,
    at_least,
    between,
    one_of,
    option,
    within,
)


@dataclass
class Events:
    """How a log of events becomes graded lists."""

    grades: dict[str, int] = option({"click": 1, "purchase": 2, "skip": 0}, GRADES)
    ratings: list[float] = option([4.0, 5.0], (are_rising, "rising numbers"))
    max_age_s: float | None = option(604800.0, at_least(0))
    late: str = option("drop", one_of(*LATE))
    remembered: int = option(100_000, at_least(1))
    propensity: str = option("none", one_of(*PROPENSITIES))
    eta: float = option(1.0, at_least(0))
    max_weight: float = option(10.0, at_least(1))
    split: str = option("train", (bool, "a split's name"))


@dataclass
class DriftSignal:
    """When the served model's ranking of fresh outcomes has become worse."""

    measure: str = option("ndcg@10", one_of(*DRIFT_MEASURES))
    delta: float = option(0.01, between(0, 1))
    grace: int = option(50, at_least(1))


@dataclass
class Update:
    """One update: what it learns from, how long, and what must hold before it is published."""

    kind: str = MISSING
    optimizer: str = option("keep", one_of("keep", "new"))
    epochs: float = option(1.0, POSITIVE)
    learning_rate: float = option(1e-4, POSITIVE)
    warmup: float = option(0.1, SHARE)
    weight_decay: float = option(0.01, at_least(0))
    group_size: int = option(8, at_least(2))
    batch_groups: int = option(8, at_least(1))
    labels: float = option(1.0, at_least(0))
    replay: float = option(1.0, at_least(0))
    anchor: float = option(1.0, at_least(0))
    replay_lists: float = option(1.0, at_least(0))
    memory: int = option(2000, at_least(0))
    workers: int = option(1, at_least(1))
    min_events: int = option(20, at_least(2))
    holdout: float = option(0.2, between(0, 1))
    max_user_share: float = option(0.2, FROM_0_TO_1)
    min_agreement: float = option(0.5, FROM_0_TO_1)
    max_broken: float = option(0.05, FROM_0_TO_1)
    max_forgetting: float = option(0.005, at_least(0))
    max_int8_drop: float = option(0.01, at_least(0))
    confidence: float = option(0.95, between(0, 1))
    resamples: int = option(2000, at_least(100))
    max_refused: int = option(3, at_least(1))
    sign: str | None = None


@dataclass
class HeadUpdate(Update):
    """Pooler and classifier learn."""

    kind: str = "head"


@dataclass
class TopLayersUpdate(Update):
    """The last layers learn, and the head."""

    kind: str = "top_k_layers"
    k: int = option(1, at_least(1))


@dataclass
class LoraUpdate(Update):
    """Low-rank changes of every linear map learn, merged before export."""

    kind: str = "lora"
    optimizer: str = "new"
    rank: int = option(8, at_least(1))
    alpha: float = option(16.0, POSITIVE)


@dataclass
class AllUpdate(Update):
    """Everything learns, but the embeddings where `train.freeze_embeddings` keeps them."""

    kind: str = "all"


@dataclass
class Follow:
    """When a worker updates, and how much of the machine it takes."""

    count: int = option(1000, at_least(1))
    every_s: float | None = option(3600.0, at_least(0))
    drift: bool = False
    poll_s: float = option(5.0, POSITIVE)
    nice: int = option(19, (lambda v: 0 <= v <= 19, "0 to 19"))
    threads: int | None = option(None, at_least(1))


@dataclass
class Updating:
    """What `distill-update` is asked for."""

    model: str = MISSING
    events: str | None = None
    published: str | None = None
    catalogue: str | None = None
    seed: int = option(0, within(0, MOST_SEED))
    keep: int = option(5, at_least(1))
    update: Update = MISSING
    feedback: Events = field(default_factory=Events)
    drift: DriftSignal = field(default_factory=DriftSignal)
    follow: Follow = field(default_factory=Follow)
    train: Train = MISSING
