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
    per_channel: bool = False
    reduce_range: bool = False


@dataclass
class Measure:
    """What the table is measured on and how long."""

    split: str = "test"
    threads: int | None = None
    latency_queries: int = 30
    warmup_queries: int = 3
    rounds: int = 2
    parity_queries: int = 20
    confidence: float = 0.95
    resamples: int = 10000


@dataclass
class Budget:
    """What a student is held to; `export.measure.budget` says what a bound can be."""

    require: list[str] = field(default_factory=list)
    confidence: float = 0.95
    time_limit: float = 120.0
