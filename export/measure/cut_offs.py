"""How much a stage of a cascade must pass on for a stated tolerance, chosen on queries that no stage was trained on.

The loss of a query is the share of the last stage's first items that a cut does not pass on, 0 to 1. It needs no
labels, and never rises as a cut passes on more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.runtime.shortlist import Cut

RULES = ("number", "margin")
MOST_CUTS = 512  # that are tried; of more, this many quantiles
DIGITS = 4  # of a margin, rounded up

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CutOff:
    """A cut and what is known of its loss.

    Attributes:
        cut: what is passed on.
        loss: mean over the calibration's queries.
        expected: what the loss of the next query is at most, in expectation (`expected_loss`).
        bound: what the mean loss of as many further queries is at most, with the confidence (`loss_bound`).
    """

    cut: Cut
    loss: float
    expected: float
    bound: float


@dataclass(frozen=True)
class Needs:
    """What a stage would have to pass on to keep each of the last stage's first items.

    Attributes:
        rule: "number" or "margin".
        depth: how many are first.
        values: float64 [queries, depth], the least number or margin; NaN where a query has fewer items.
    """

    rule: str
    depth: int
    values: Float64

    @classmethod
    def of(cls, scores: Array, last: Array, offsets: Int64, *, rule: str, depth: int) -> Needs:
        """Find them from scores.

        Args:
            scores: float [pairs], of the stage that passes on.
            last: float [pairs], of the last stage.
            offsets: int64 [queries + 1]; query i's candidates are the pairs offsets[i]:offsets[i + 1].
            rule: "number", whose cut passes on as many as it says, or "margin", whose cut passes on all within it of
                the `depth`-th best.
            depth: how many of the last stage's items must not be lost.
        """
        values = np.full((len(offsets) - 1, depth), np.nan)
        for query, rows in enumerate(_lists(offsets)):
            own = np.asarray(scores[rows], dtype=np.float64)
            first = own[np.argsort(-last[rows], kind="stable")[:depth]]
            values[query, : len(first)] = _needs(own, first, rule, depth)
        return cls(rule, depth, values)

    def cut(self, value: float) -> Cut:
        """Return the cut of a number or a margin."""
        return Cut(int(value)) if self.rule == "number" else Cut(self.depth, float(value))

    def losses(self, value: float) -> Float64:
        """Return each query's loss at a number or a margin, float64 [queries]."""
        return np.asarray(np.nanmean(np.where(np.isnan(self.values), np.nan, self.values > value), axis=1))

    def choose(self, tolerance: float, confidence: float) -> CutOff | None:
        """Return the cut that passes on least and keeps the tolerance; None if none that is seen here does.

        It does where both `expected_loss` and `loss_bound` are at most the tolerance, at that cut and at all that pass
        on more.
        """
        chosen = None
        for value in reversed(self._values()):
            losses = self.losses(value)
            found = CutOff(self.cut(value), float(losses.mean()), expected_loss(losses), loss_bound(losses, confidence))
            if max(found.expected, found.bound) > tolerance:
                break
            chosen = found
        return chosen

    def _values(self) -> list[float]:
        """Return the numbers or margins that are worth trying, rising: those at which the loss falls."""
        known = self.values[~np.isnan(self.values)]
        if self.rule == "margin":
            known = np.ceil(known * 10**DIGITS) / 10**DIGITS
        found = np.unique(known)
        if len(found) > MOST_CUTS:
            found = found[np.linspace(0, len(found) - 1, MOST_CUTS).round().astype(int)]
        return [float(value) for value in found]


def expected_loss(losses: Float64) -> float:
    """Return what the expected loss of the next query is held below where it is at most the tolerance.

    n / (n + 1) * mean + B / (n + 1), B = 1 the largest loss: conformal risk control (Angelopoulos et al., ICLR 2024,
    eq. 4), exact for queries that are exchangeable and a loss that never rises with what is passed on.

    Args:
        losses: float64 [queries].
    """
    number = len(losses)
    return float((losses.sum() + 1.0) / (number + 1))


def loss_bound(losses: Float64, confidence: float) -> float:
    """Return what the mean loss of as many further queries stays below with a confidence.

    mean + t * s * sqrt(1 / n + 1 / n), t of n - 1 degrees of freedom: the one-sided prediction interval of a mean of m
    further observations (Hahn, Meeker 1991, "Statistical intervals", section 4.8) for m = n; approximate, since losses
    are normal only in the mean. An expectation alone is kept by the mean of a sample about as often as not.

    Args:
        losses: float64 [queries].
        confidence: 0 to 1.
    """
    from scipy.stats import t

    number = len(losses)
    if number < 2:
        return float("inf")
    spread = float(losses.std(ddof=1)) * (2 / number) ** 0.5
    return float(losses.mean() + t.ppf(confidence, number - 1) * spread)


def _needs(own: Float64, first: Float64, rule: str, depth: int) -> Float64:
    if rule == "number":  # ties are passed on together, so that only better ones count
        return np.asarray(1.0 + len(own) - np.searchsorted(np.sort(own), first, side="right"))
    if len(own) <= depth:
        return np.zeros(len(first))
    return np.asarray(np.maximum(0.0, np.partition(own, len(own) - depth)[len(own) - depth] - first))


def _lists(offsets: Int64) -> Iterator[slice]:
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        yield slice(start, stop)
