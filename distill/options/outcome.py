"""What becomes of a student: graphs, measurements, verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class Export:
    """How the ONNX graph is made."""

    cls_only: bool = True
    opset: int = 18


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
    smooth: float | None = 0.8
    outliers: int = 1
    calibration: int = 16
    exclude: list[str] = field(default_factory=list)


@dataclass
class SearchedInt8(Int8):
    """Dynamic int8 but for the node groups that cost the student's ranking more than they save."""

    kind: str = "search"
    queries: int = 100
    max_drop: float = 0.001
    min_overlap: float = 0.97


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

    split: str = "test"
    engines: list[str] = field(default_factory=lambda: ["onnxruntime"])
    threads: int | None = None
    latency_queries: int = 30
    warmup_queries: int = 3
    rounds: int = 2
    parity_queries: int = 20
    confidence: float = 0.95
    resamples: int = 10000


@dataclass
class Budget:
    """What a student is held to; `rankdistill.export.gate.budget` says what a bound can be."""

    require: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    confidence: float = 0.95
    time_limit: float = 120.0
