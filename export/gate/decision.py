"""The gate: measurements and a budget in, a verdict out; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rankdistill.export.gate.budget import Bound, Budget
from rankdistill.export.measure.intervals import LEAST_QUERIES

PASS, FAIL, INCONCLUSIVE, UNUSABLE = "pass", "fail", "inconclusive", "unusable"
EXIT_CODES = {PASS: 0, FAIL: 1, INCONCLUSIVE: 3, UNUSABLE: 2}
WORST_FIRST = (UNUSABLE, FAIL, INCONCLUSIVE, PASS)
SYMBOLS = {PASS: "✓", FAIL: "✗", INCONCLUSIVE: "?", UNUSABLE: "!"}


@dataclass(frozen=True)
class Estimate:
    """What was measured of a metric.

    Attributes:
        value: the best guess.
        low, high: ends of its interval; both the value itself where nothing is uncertain (a file's size).
        samples: how many queries or blocks it rests on.
        unit: what the samples are, in the plural.
        limit: whether more samples are to be had: "" if they are, else why not.
    """

    value: float
    low: float
    high: float
    samples: int = 1
    unit: str = ""
    limit: str = ""

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """Return an estimate without uncertainty."""
        return cls(value, value, value)


@dataclass(frozen=True)
class Missing:
    """A metric without a value, why, and what that makes of a bound on it."""

    reason: str
    verdict: str = UNUSABLE


@dataclass(frozen=True)
class Line:
    """A bound and what became of it.

    Attributes:
        metric: name of what is bounded.
        model: what it was measured of.
        bound: as it stands in the budget.
        allowed: the bound's number.
        verdict: pass, fail, inconclusive or unusable.
        measured, low, high: value and interval; None where there is none.
        note: what a reader should know: why there is no value, what a decision would take.
    """

    metric: str
    model: str
    bound: str
    allowed: float
    verdict: str
    measured: float | None
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True)
class Verdict:
    """The verdict on all bounds: the worst of the lines'."""

    verdict: str
    lines: tuple[Line, ...]
    confidence: float

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 unusable input, 3 inconclusive."""
        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "verdict": self.verdict,
            "confidence": self.confidence,
            "lines": [asdict(line) for line in self.lines],
        }


def judge(
    budget: Budget,
    estimates: Mapping[str, Estimate | Missing],
    model: str,
    more: Sequence[Line] = (),
    first: Sequence[Line] = (),
) -> Verdict:
    """Hold measurements to a budget.

    A bound passes if the whole interval keeps it, fails if the whole interval breaks it, and is inconclusive if its
    number lies inside: non-inferiority in the one direction, proven loss in the other.

    Args:
        budget: the bounds.
        estimates: what was measured, by metric.
        model: what it was measured of, for the lines.
        more: lines that no budget asks for, after the bounds.
        first: such lines before them.
    """
    lines = tuple(
        _line(bound, estimates.get(bound.metric.name, Missing("it was not measured")), model) for bound in budget.bounds
    )
    lines = (*first, *lines, *more)
    return Verdict(worst([line.verdict for line in lines]), lines, budget.confidence)


def worst(verdicts: Sequence[str]) -> str:
    """Return the worst of verdicts: unusable, fail, inconclusive, pass."""
    return next(verdict for verdict in WORST_FIRST if verdict in verdicts)


def decide(bound: Bound, estimate: Estimate) -> str:
    """Return whether an interval keeps a bound: pass, fail or inconclusive; of too few queries always the last."""
    if any(math.isnan(value) for value in (estimate.value, estimate.low, estimate.high)) or _few(bound, estimate):
        return INCONCLUSIVE
    if bound.metric.higher:
        return PASS if estimate.low >= bound.allowed else FAIL if estimate.high < bound.allowed else INCONCLUSIVE
    return PASS if estimate.high <= bound.allowed else FAIL if estimate.low > bound.allowed else INCONCLUSIVE


def _line(bound: Bound, estimate: Estimate | Missing, model: str) -> Line:
    name = bound.metric.name
    if isinstance(estimate, Missing):
        return Line(name, model, str(bound), bound.allowed, estimate.verdict, None, None, None, estimate.reason)
    verdict = decide(bound, estimate)
    value, low, high = (v if math.isfinite(v) else None for v in (estimate.value, estimate.low, estimate.high))
    note = _needed(bound, estimate) if verdict == INCONCLUSIVE else ""
    return Line(name, model, str(bound), bound.allowed, verdict, value, low, high, note)


def _few(bound: Bound, estimate: Estimate) -> bool:
    return bound.metric.kind == "quality" and estimate.samples < LEAST_QUERIES


def _needed(bound: Bound, estimate: Estimate) -> str:
    """Return what a decision would take: an interval shrinks with the root of the samples."""
    if math.isnan(estimate.value):
        return "no query has a value"
    if _few(bound, estimate):
        needed = f"at least {LEAST_QUERIES} {estimate.unit} are needed, there were {estimate.samples:,}"
        return f"{needed}; {estimate.limit}" if estimate.limit else needed
    gap, width = abs(estimate.value - bound.allowed), (estimate.high - estimate.low) / 2
    if not math.isfinite(width):
        needed = f"{estimate.samples:,} {estimate.unit} are too few for an interval"
    elif gap < 0.05 * width:
        needed = "the value is too close to the bound to be told apart from it"
    else:
        factor = (width / gap) ** 2
        needed = (
            f"it would take about {max(math.ceil(estimate.samples * factor), estimate.samples + 1):,} {estimate.unit}"
        )
        needed += f", there were {estimate.samples:,}"
    return f"{needed}; {estimate.limit}" if estimate.limit else needed
