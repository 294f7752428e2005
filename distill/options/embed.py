"""Whether the bundle has vectors of texts, and how their model is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from rankdistill.export.runtime.text.tokens import SPECIAL
from rankdistill.options.ranges import POOLINGS, POSITIVE, SHARE, are_dimensions, at_least, one_of, option


@dataclass
class Embed:
    """A model that turns a text into a vector, for retrieval before ranking."""

    kind: str = MISSING


@dataclass
class NoEmbed(Embed):
    """None."""

    kind: str = "none"


@dataclass
class PcaEmbed(Embed):
    """The teacher's encoder before it was tuned, with principal components of its vectors."""

    kind: str = "pca"
    max_length: int = option(256, at_least(SPECIAL + 2))
    pooling: str = option("mean", one_of(*POOLINGS))
    dimensions: list[int] = option([32, 64, 128], (are_dimensions, "different whole numbers >= 8"))
    texts: int = option(8192, at_least(2))


@dataclass
class DistilledEmbed(PcaEmbed):
    """A bi-encoder that begins as that and is trained on the cross-encoder teacher's scores."""

    kind: str = "distilled"
    max_length: int = 128
    layers: Any = None
    margin_mse: float = option(1.0, at_least(0))
    in_batch: float = option(1.0, at_least(0))
    similarity: float = option(10.0, at_least(0))
    temperature: float = option(0.05, POSITIVE)
    teacher_temperature: float = option(2.0, POSITIVE)
    steps: int = option(600, at_least(1))
    batch_queries: int = option(16, at_least(2))
    group_size: int = option(8, at_least(2))
    learning_rate: float = option(5e-5, POSITIVE)
    warmup: float = option(0.1, SHARE)
