"""Teachers, students, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rankdistill.export.runtime.text.shortener import MOST_WORDS
from rankdistill.export.runtime.text.tokens import SPECIAL
from rankdistill.options.ranges import (
    ATTENTIONS,
    CRITERIA,
    FIELDS,
    FLOORS,
    KEEPS,
    POSITIVE,
    PRECISIONS,
    SHARE,
    at_least,
    one_of,
    option,
    within,
)


@dataclass
class Fit:
    """How long and how fast a model is trained."""

    epochs: float = option(1.0, POSITIVE)
    max_pairs: int | None = option(None, at_least(1))
    learning_rate: float = option(1e-4, POSITIVE)
    head_rate: float = option(1.0, POSITIVE)  # times learning_rate, for pooler and classifier
    warmup: float = option(0.1, SHARE)
    weight_decay: float = option(0.01, at_least(0))
    group_size: int = option(8, at_least(2))
    batch_groups: int = option(4, at_least(1))
    batch_tokens: int | None = option(None, at_least(1))
    evaluations: int = option(3, at_least(1))
    keep: str = option("best", one_of("best", "last"))
    dev_queries: int | None = option(100, at_least(1))


@dataclass
class Teacher:
    """A BERT by name on the hub, folder, or `package:NAME/FOLDER` in an installed package."""

    kind: str = MISSING
    model: str = MISSING
    revision: str | None = None  # commit, tag or branch; null is what the hub has now
    sha256: str | None = None
    max_length: int = option(128, at_least(SPECIAL + 2))
    licence: str | None = None  # a note for those who receive the bundle; shapes nothing
    floor: str = option("stop", one_of(*FLOORS))


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

    min_count: int | None = option(None, at_least(1))
    safety: str | None = None
    max_unknown: float = option(0.001, SHARE)


@dataclass
class Input:
    """What a student reads of an item's text: which fields, and how many words of them; without `words`, all."""

    fields: str = option("all", one_of(*FIELDS))
    words: int | None = option(None, within(1, MOST_WORDS))
    keep: str = option("first", one_of(*KEEPS))
    pairs: int = option(2000, at_least(1))


@dataclass
class Student:
    """A BERT made of some of the teacher's layers and, where it is narrower, of what is most important in them."""

    layers: Any = MISSING
    split_layers: int = option(0, at_least(0))
    hidden_size: int = option(MISSING, at_least(1))
    heads: int | None = option(None, at_least(1))
    intermediate_size: int | None = option(None, at_least(1))
    importance: str = option("fisher", one_of(*CRITERIA))
    importance_pairs: int = option(512, at_least(2))
    refit_pairs: int = option(512, (lambda v: v == 0 or v >= 2, "0, or a number >= 2"))
    max_length: int = option(MISSING, at_least(SPECIAL + 2))
    freeze_embeddings: bool | None = None
    input: Input = field(default_factory=Input)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    fit: Fit = field(default_factory=Fit)


@dataclass
class Train:
    """How the machine is used in training and scoring with PyTorch."""

    precision: str = option("auto", one_of(*PRECISIONS))
    attention: str = option("auto", one_of(*ATTENTIONS))
    freeze_embeddings: bool | None = None
    dropout: float = option(0.0, SHARE)
    accumulate: int = option(1, at_least(1))
    score_batch: int = option(64, at_least(1))
    report_to: list[str] = field(default_factory=list)
