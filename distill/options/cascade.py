"""Whether the student is served by itself or as a stage of layered models."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from rankdistill.export.measure.cut_offs import RULES as CUT_RULES
from rankdistill.options.ranges import EIGHT_BITS, are_shares, at_least, between, one_of, option


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
    last: str = option("fp32", one_of(*EIGHT_BITS, "fp32"))
    rule: str = option("number", one_of(*CUT_RULES))
    depth: int = option(10, at_least(1))
    tolerance: float = option(0.02, between(0, 1))
    confidence: float = option(0.95, between(0, 1))
    ladder: list[float] = option([], (are_shares, "numbers between 0 and 1"))
