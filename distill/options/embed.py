"""Whether the bundle has vectors of texts, and how their model is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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
    max_length: int = 256
    pooling: str = "mean"
    dimensions: list[int] = field(default_factory=lambda: [32, 64, 128])
    texts: int = 8192


@dataclass
class DistilledEmbed(PcaEmbed):
    """A bi-encoder that begins as that and is trained on the cross-encoder teacher's scores."""

    kind: str = "distilled"
    max_length: int = 128
    layers: Any = None
    margin_mse: float = 1.0
    in_batch: float = 1.0
    similarity: float = 10.0
    temperature: float = 0.05
    teacher_temperature: float = 2.0
    steps: int = 600
    batch_queries: int = 16
    group_size: int = 8
    learning_rate: float = 5e-5
    warmup: float = 0.1
