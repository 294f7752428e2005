"""Intervals of means, differences and ratios over queries, honest where few queries carry what is known.

The Bayesian bootstrap (Rubin 1981): a query weighs as much as a standard exponential draw, so that no draw leaves all
but one out. One more query is drawn with them, for what was not seen: for the lower end it lies towards the worst that
a query can be, for the upper end towards the best. Wholly there it makes Gaffke's interval (Gaffke 2005, "Three test
statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable"; Phan, Thomas, Learned-Miller
2021, "Towards practical mean bounds for small samples"), which is Clopper's and Pearson's of values that are 0 or 1. It
lies the nearer to the mean the more queries carry the variance (`_carriers`): where many do, the rest is as the sample
is. Deviations from the estimate are stretched to those of Student's t. docs/gate.md has coverage and width by the
number of queries, scripts/bench/interval_coverage.py measures them.

A query is as good as another: intervals do not depend on their order, and are mirrored by a change of sign.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_QUERIES = 20  # fewer decide no bound of a gate or an update: docs/gate.md, "How many queries"
BLOCK = 200_000  # weights drawn at once: 1.6 MB stay in the cache, which halves the time
ALIKE = 1e-12  # deviations below this share of the largest value are rounding

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Pair = tuple[float, float]


def mean_interval(
    values: Array, *, confidence: float, resamples: int, seed: int, low: float = 0.0, high: float = 1.0
) -> Pair:
    """Return the interval of the mean over queries.

    Args:
        values: float [queries]; NaN queries are left out.
        confidence: share covered, as 0.95.
        resamples: how often the queries are weighed anew.
        seed: of the weights.
        low: least value that a query can have. Where a value lies beyond, or it is infinite, nothing is known of what
            was not seen on that side: that end is as far away as Student's t.
        high: largest value that a query can have, in the same way.

    Returns:
        Lower and upper end; NaN if no query is left; [low, high] of one query.
    """
    table = _same_queries([values])
    if not table.size:
        return math.nan, math.nan
    low = low if table.min() >= low else -math.inf
    high = high if table.max() <= high else math.inf
    if table.shape[1] == 1:
        return low, high
    centre = table.mean(axis=1)
    part = _unseen(table[0], float(np.abs(table).max()), confidence)
    extra = [np.array([_towards(centre[0], end, part)]) for end in (low, high)]
    lower, upper = _draws(table, extra[0], extra[1], resamples, seed)
    ends = _stretched(float(centre[0]), lower[:, 0], upper[:, 0], table.shape[1], confidence)
    return max(ends[0], low), min(ends[1], high)


def difference_interval(
    a: Array, b: Array, *, confidence: float, resamples: int, seed: int, low: float = -1.0, high: float = 1.0
) -> Pair:
    """Return the interval of mean(a - b), as `mean_interval` does, both of the same queries.

    A query that is NaN in either is left out of both. The same array twice is one model, and differs by 0 from itself.

    Args:
        a: float [queries].
        b: float [queries].
        confidence: share covered, as 0.95.
        resamples: how often the queries are weighed anew.
        seed: of the weights.
        low: least difference that a query can have.
        high: largest difference that a query can have.

    Raises:
        ValueError: if the two are not of the same length.
    """
    table = _same_queries([a, b])
    if a is b and table.size:
        return 0.0, 0.0
    return mean_interval(
        table[0] - table[1], confidence=confidence, resamples=resamples, seed=seed, low=low, high=high
    )  # fmt: skip


def ratio_interval(
    numerator: Array,
    denominator: Array,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    worst: Pair | None = (0.0, 1.0),
    best: Pair | None = (1.0, 0.0),
) -> Pair:
    """Return the interval of mean(numerator) / mean(denominator), as `mean_interval` does, both of the same queries.

    A query that is NaN in either is left out of both. The same array twice is one model, and has the ratio 1 to itself.
    The denominator's mean is meant to be above 0: where that is not sure at this confidence the interval has no end.

    Args:
        numerator: float [queries].
        denominator: float [queries].
        confidence: share covered, as 0.95.
        resamples: how often the queries are weighed anew.
        seed: of the weights.
        worst: numerator and denominator of the query that pulls the ratio down the most, by default of values from 0 to
            1. None where values have no known end, as times; so it is with values beyond.
        best: numerator and denominator of the query that pulls the ratio up the most, in the same way.

    Returns:
        Lower and upper end; NaN if no query is left or the denominator is zero.

    Raises:
        ValueError: if the two are not of the same length.
    """
    table = _same_queries([numerator, denominator])
    centre = table.mean(axis=1) if table.size else np.zeros(2)
    if not centre[1]:
        return math.nan, math.nan
    if numerator is denominator:
        return 1.0, 1.0
    queries, largest = table.shape[1], float(np.abs(table).max())
    least = 0.0 if table.min() >= 0 else -math.inf
    if queries == 1:
        return least, math.inf
    ratio = float(centre[0] / centre[1])
    part = _unseen(table[0] - ratio * table[1], largest, confidence)
    worst, best = (None if end is None or largest > max(map(abs, end)) else end for end in (worst, best))
    extra = [centre if end is None else centre + part * (np.array(end) - centre) for end in (worst, best)]
    lower, upper = _draws(table, extra[0], extra[1], resamples, seed)
    ends = _stretched(ratio, _ratios(lower, -math.inf), _ratios(upper, math.inf), queries, confidence)
    return max(ends[0], least), ends[1]


def _draws(table: Float64, worst: Float64, best: Float64, resamples: int, seed: int) -> tuple[Float64, Float64]:
    """Return weighted means, float64 [resamples, rows], with one more query at the worst and at the best.

    The upper ones weigh the queries in the opposite order: of values with the other sign they are the lower ones.

    Args:
        table: float64 [rows, queries].
        worst: float64 [rows].
        best: float64 [rows].
        resamples: how many.
        seed: of the weights.
    """
    rows, queries = table.shape
    both = np.concatenate([table, table[:, ::-1]])
    extra = np.concatenate([worst, best])
    rng = np.random.Generator(np.random.SFC64(seed))  # a fifth faster than the default
    drawn = np.empty((max(1, BLOCK // (queries + 1)), queries + 1))
    found = np.empty((resamples, 2 * rows))
    for start in range(0, resamples, block := len(drawn)):
        weights = rng.standard_exponential(out=drawn[: resamples - start])
        sums = np.stack([weights[:, :queries] @ row for row in both], axis=1)  # one by one: threads wait longer
        found[start : start + block] = (sums + weights[:, queries:] * extra) / weights.sum(axis=1, keepdims=True)
    return found[:, :rows], found[:, rows:]


def _stretched(estimate: float, lower: Float64, upper: Float64, queries: int, confidence: float) -> Pair:
    """Return the quantiles of draws, their distance from the estimate as that of Student's t.

    The draws' variance is queries / ((queries + 1) (queries + 2)) of the sample's (divided by n), as it is with one
    more query at the mean.
    """
    tail = (1 - confidence) / 2
    variance = (queries + 1) * (queries + 2) / (queries * (queries - 1))
    factor = math.sqrt(variance) * _student(confidence, queries - 1) / _normal(confidence)
    last = len(lower) - 1
    least, most = int(tail * last), last - int(tail * last)
    low, high = float(np.partition(lower, least)[least]), float(np.partition(upper, most)[most])
    return estimate - factor * (estimate - low), estimate + factor * (high - estimate)


def _unseen(values: Float64, largest: float, confidence: float) -> float:
    """Return how far from the mean towards an end the query that was not seen lies, 0 to 1.

    z^2 / 2 carriers (1.92 at 95%, as many ones and zeros as Agresti and Coull 1998 add) put it halfway, ten times as
    many at a hundredth.
    """
    return 1 / (1 + (2 * _carriers(values, largest) / _normal(confidence) ** 2) ** 2)


def _carriers(values: Float64, largest: float) -> float:
    """Return how many queries carry the variance: (sum d^2)^2 / sum d^4 of the deviations d, 0 if there are none.

    It is the number of queries over their kurtosis: n where they are as often at one end as at the other, about the
    number of ones where those are rare.
    """
    deviations = np.abs(values - values.mean())
    most = float(deviations.max())
    if most <= ALIKE * largest:
        return 0.0
    squares = (deviations / most) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def _towards(centre: float, end: float, part: float) -> float:
    return centre + part * (end - centre) if math.isfinite(end) else centre


def _ratios(draws: Float64, undefined: float) -> Float64:
    """Return numerators over denominators; a ratio to zero or less is none, and counts as the given."""
    found: Float64 = np.full(len(draws), undefined)
    np.divide(draws[:, 0], draws[:, 1], out=found, where=draws[:, 1] > 0)
    return found


def _normal(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _student(confidence: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t: of 1 and 2 degrees of freedom in closed form, else by expansion.

    Abramowitz, Stegun 1964, eq. 26.7.5; within 1% at 95% and 3 degrees of freedom, .02% at 9.
    """
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    z = _normal(confidence)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / float(freedom) ** power for power, term in enumerate(terms))


def _same_queries(values: list[Array]) -> Float64:
    """Return float64 [len(values), queries] of the queries that are NaN in none, in an order that is theirs alone."""
    columns = [np.asarray(value, dtype=np.float64) for value in values]
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        raise ValueError(f"values must be [queries], of the same queries; got {[c.shape for c in columns]}")
    table = np.stack(columns)
    table = table[:, ~np.isnan(table).any(axis=0)]
    return table[:, np.lexsort(table[::-1])]
