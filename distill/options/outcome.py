"""What becomes of a student: graphs, measurements, verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rankdistill.options.ranges import ENGINE_LIST, MOST_OUTLIERS, SHARE, SPLITS, at_least, between, one_of, option


@dataclass
class Export:
    """How the ONNX graph is made."""

    cls_only: bool = True
    opset: int = option(18, (lambda v: 17 <= v <= 18, "17 or 18"))


@dataclass
class Quantize:
    """How weights and activations become 8 bits."""

    kind: str = MISSING


@dataclass
class NoQuantize(Quantize):
    """No quantization; the table has no int8 rows."""

    kind: str = "none"


@dataclass
class Int8(Quantize):
    """Dynamic int8: s8 weights, u8 activations whose range is found at run time."""

    kind: str = "int8"
    per_channel: bool = True
    reduce_range: bool = False
    smooth: float | None = option(0.8, (lambda v: v is None or 0 <= v <= 1, "a number from 0 to 1, or null"))
    outliers: int = option(1, (lambda v: 0 <= v <= MOST_OUTLIERS, f"0 to {MOST_OUTLIERS}"))
    calibration: int = option(16, at_least(1))
    exclude: list[str] = field(default_factory=list)


@dataclass
class SearchedInt8(Int8):
    """Dynamic int8 but for the node groups that cost the student's ranking more than they save."""

    kind: str = "search"
    queries: int = option(100, at_least(1))
    max_drop: float = option(0.001, SHARE)
    min_overlap: float = option(0.97, (lambda v: 0 <= v <= 1, "a number from 0 to 1"))


@dataclass
class FusedInt8(Quantize):
    """Dynamic int8 of the traced graph with onnxruntime's fused attentions."""

    kind: str = "int8_fused"
    per_channel: bool = True
    reduce_range: bool = False


@dataclass
class Weight8(Quantize):
    """Weights alone in 8 bits, activations by blocks: the same score in every batch."""

    kind: str = "weight8"


@dataclass
class Measure:
    """What the table is measured on and how long."""

    split: str = option("test", one_of(*SPLITS))
    engines: list[str] = option(["onnxruntime"], ENGINE_LIST)
    threads: int | None = option(None, at_least(1))
    latency_queries: int = option(30, at_least(0))
    warmup_queries: int = option(3, at_least(1))
    rounds: int = option(2, at_least(1))
    parity_queries: int = option(20, at_least(1))
    confidence: float = option(0.95, between(0, 1))
    resamples: int = option(10000, at_least(100))


@dataclass
class Budget:
    """What a student is held to; `rankdistill.export.gate.budget` says what a bound can be."""

    require: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    confidence: float = 0.95
    time_limit: float = 120.0
