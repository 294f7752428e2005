"""What is learned from events, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rankdistill.options.models import Train


@dataclass
class Events:
    """How a log of events becomes graded lists."""

    grades: dict[str, int] = field(default_factory=lambda: {"click": 1, "purchase": 2, "skip": 0})
    ratings: list[float] = field(default_factory=lambda: [4.0, 5.0])
    max_age_s: float | None = 604800.0
    late: str = "drop"
    remembered: int = 100_000
    propensity: str = "none"
    eta: float = 1.0
    max_weight: float = 10.0
    split: str = "train"


@dataclass
class DriftSignal:
    """When the served model's ranking of fresh outcomes has become worse."""

    measure: str = "ndcg@10"
    delta: float = 0.01
    grace: int = 50


@dataclass
class Update:
    """One update: what it learns from, how long, and what must hold before it is published."""

    kind: str = MISSING
    optimizer: str = "keep"
    epochs: float = 1.0
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    group_size: int = 8
    batch_groups: int = 8
    labels: float = 1.0
    replay: float = 1.0
    anchor: float = 1.0
    replay_lists: float = 1.0
    memory: int = 2000
    workers: int = 1
    min_events: int = 20
    holdout: float = 0.2
    max_user_share: float = 0.2
    min_agreement: float = 0.5
    max_broken: float = 0.05
    max_forgetting: float = 0.005
    max_int8_drop: float = 0.01
    confidence: float = 0.95
    resamples: int = 2000
    max_refused: int = 3
    sign: str | None = None


@dataclass
class HeadUpdate(Update):
    """Pooler and classifier learn."""

    kind: str = "head"


@dataclass
class TopLayersUpdate(Update):
    """The last layers learn, and the head."""

    kind: str = "top_k_layers"
    k: int = 1


@dataclass
class LoraUpdate(Update):
    """Low-rank changes of every linear map learn, merged before export."""

    kind: str = "lora"
    optimizer: str = "new"
    rank: int = 8
    alpha: float = 16.0


@dataclass
class AllUpdate(Update):
    """Everything learns, but the embeddings where `train.freeze_embeddings` keeps them."""

    kind: str = "all"


@dataclass
class Follow:
    """When a worker updates, and how much of the machine it takes."""

    count: int = 1000
    every_s: float | None = 3600.0
    drift: bool = False
    poll_s: float = 5.0
    nice: int = 19
    threads: int | None = None


@dataclass
class Updating:
    """What `distill-update` is asked for."""

    model: str = MISSING
    events: str | None = None
    published: str | None = None
    catalogue: str | None = None
    seed: int = 0
    keep: int = 5
    update: Update = MISSING
    feedback: Events = field(default_factory=Events)
    drift: DriftSignal = field(default_factory=DriftSignal)
    follow: Follow = field(default_factory=Follow)
    train: Train = MISSING
