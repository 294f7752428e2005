"""Teachers, students, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class Fit:
    """How long and how fast a model is trained."""

    epochs: float = 1.0
    max_pairs: int | None = None
    learning_rate: float = 1e-4
    head_rate: float = 1.0  # times learning_rate, for pooler and classifier
    warmup: float = 0.1
    weight_decay: float = 0.01
    group_size: int = 8
    batch_groups: int = 4
    batch_tokens: int | None = None
    evaluations: int = 3
    keep: str = "best"
    dev_queries: int | None = 100


@dataclass
class Teacher:
    """A BERT by name on the hub, folder, or `package:NAME/FOLDER` in an installed package."""

    kind: str = MISSING
    model: str = MISSING
    revision: str | None = None  # commit, tag or branch; null is what the hub has now
    sha256: str | None = None
    max_length: int = 128
    licence: str | None = None  # a note for those who receive the bundle; shapes nothing
    floor: str = "stop"


@dataclass
class EncoderTeacher(Teacher):
    """A plain encoder, fine-tuned on the labels."""

    kind: str = "encoder"
    init: str | None = None
    fit: Fit = field(default_factory=Fit)


@dataclass
class CrossEncoderTeacher(Teacher):
    """A reranker that is tuned already, used as it is."""

    kind: str = "cross_encoder"


@dataclass
class Vocabulary:
    """Which tokens a student has an embedding of its own for; without `min_count`, all of them."""

    min_count: int | None = None
    safety: str | None = None
    max_unknown: float = 0.001


@dataclass
class Input:
    """What a student reads of an item's text: which fields, and how many words of them; without `words`, all."""

    fields: str = "all"
    words: int | None = None
    keep: str = "first"
    pairs: int = 2000


@dataclass
class Student:
    """A BERT made of some of the teacher's layers and, where it is narrower, of what is most important in them."""

    layers: Any = MISSING
    split_layers: int = 0
    hidden_size: int = MISSING
    heads: int | None = None
    intermediate_size: int | None = None
    importance: str = "fisher"
    importance_pairs: int = 512
    refit_pairs: int = 512
    max_length: int = MISSING
    freeze_embeddings: bool | None = None
    input: Input = field(default_factory=Input)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    fit: Fit = field(default_factory=Fit)


@dataclass
class Train:
    """How the machine is used in training and scoring with PyTorch."""

    precision: str = "auto"
    attention: str = "auto"
    freeze_embeddings: bool | None = None
    dropout: float = 0.0
    accumulate: int = 1
    score_batch: int = 64
    report_to: list[str] = field(default_factory=list)
