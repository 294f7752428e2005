"""Whether the student is served by itself or as a stage of layered models."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class Cascade:
    """Stages from cheap to dear, each passing a part of the items on."""

    kind: str = MISSING


@dataclass
class NoCascade(Cascade):
    """The bundle has the student alone."""

    kind: str = "none"


@dataclass
class LayeredCascade(Cascade):
    """The student before its teacher, and perhaps something cheaper before the student."""

    kind: str = "layered"
    first: str | None = None
    last: str = "fp32"
    rule: str = "number"
    depth: int = 10
    tolerance: float = 0.02
    confidence: float = 0.95
    ladder: list[float] = field(default_factory=list)
