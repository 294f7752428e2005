"""How often intervals over queries hold the truth, and how wide they are, by the number of queries and method.

python scripts/bench/interval_coverage.py --out scripts/bench/results/interval_coverage.json

Values query by query are drawn from populations like those that are measured: nDCG@10 (many 0 and 1), reciprocal ranks,
zeros with few ones, skewed shares, paired differences (mostly none), ratios of two models' means. Widths are told over
the percentile bootstrap's. --sets and --resamples: of every population and number of queries, a tenth of the sets for
the methods that are not used.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.intervals import difference_interval, mean_interval, ratio_interval

CONFIDENCE, NUMBERS = 0.95, (2, 5, 10, 20, 50, 200)
Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
MANY = 2_000_000  # draws that a population's mean is taken of
REST = 10  # of the other methods' sets, as many fewer
GRID = 101  # means that the betting interval tries
CHOSEN, OLD = "extra query", "percentile"

Float64 = npt.NDArray[np.float64]
Rng = np.random.Generator
Pair = tuple[float, float]


@dataclass(frozen=True)
class Population:
    """Where queries come from.

    Attributes:
        draw: returns values of that many queries, float64 [1 or 2, queries]; of a ratio numerator and denominator.
        low, high: ends of what a query can have, a difference of two for "difference".
        kind: mean, difference or ratio.
    """

    draw: Callable[[Rng, int], Float64]
    low: float = 0.0
    high: float = 1.0
    kind: str = "mean"


@cache
def truth(population: Population) -> float:
    """Return what an interval should hold, of very many draws."""
    means = population.draw(np.random.default_rng(1), MANY).mean(axis=1)
    return float(means[0] / means[1]) if population.kind == "ratio" else float(means[0])


def ndcg(rng: Rng, queries: int, zeros: float = 0.2, ones: float = 0.2) -> Float64:
    """Return values like nDCG@10: shares of zeros and ones, and between them a beta(2, 1.5)."""
    kind = rng.random(queries)
    return np.where(kind < zeros, 0.0, np.where(kind < zeros + ones, 1.0, rng.beta(2, 1.5, queries)))[None]


def reciprocal(rng: Rng, queries: int) -> Float64:
    """Return values like reciprocal ranks cut at ten."""
    rank = rng.geometric(0.25, queries)
    return np.where(rank <= 10, 1.0 / rank, 0.0)[None]


def ones(share: float) -> Callable[[Rng, int], Float64]:
    """Return a draw of zeros and a share of ones."""
    return lambda rng, queries: (rng.random(queries) < share).astype(np.float64)[None]


def beta(a: float, b: float) -> Callable[[Rng, int], Float64]:
    """Return a draw of a beta distribution."""
    return lambda rng, queries: rng.beta(a, b, queries)[None]


def differences(changed: float, better: float, mean: float) -> Callable[[Rng, int], Float64]:
    """Return a draw of differences: a share is none, a share of the others is up, exponential with a mean size."""

    def draw(rng: Rng, queries: int) -> Float64:
        sign = np.where(rng.random(queries) < better, 1.0, -1.0) * (rng.random(queries) < changed)
        return (sign * np.minimum(rng.exponential(mean, queries), 1.0))[None]

    return draw


def student_and_teacher(rng: Rng, queries: int) -> Float64:
    """Return a student's and a teacher's nDCG@10: equal for half of the queries, as often a little up as far down."""
    teacher = ndcg(rng, queries)
    return np.concatenate([np.clip(teacher + differences(0.5, 0.4, 0.12)(rng, queries), 0, 1), teacher])


def leads(rng: Rng, queries: int) -> Float64:
    """Return a student's and a teacher's lead over a baseline that is well below."""
    both, baseline = student_and_teacher(rng, queries), 0.4 * rng.beta(1, 3, queries)
    return both - baseline


POPULATIONS: Mapping[str, Population] = {
    "nDCG@10": Population(ndcg),
    "nDCG@10, hard": Population(lambda rng, queries: ndcg(rng, queries, 0.7, 0.05)),
    "reciprocal rank": Population(reciprocal),
    "5% ones": Population(ones(0.05)),
    "20% ones": Population(ones(0.2)),
    "50% ones": Population(ones(0.5)),
    "beta(0.5, 3)": Population(beta(0.5, 3)),
    "beta(9, 1)": Population(beta(9, 1)),
    "tau": Population(lambda rng, queries: 2 * rng.beta(6, 1.5, (1, queries)) - 1, low=-1.0),
    "difference, 5% changed": Population(differences(0.05, 0.2, 0.15), -1.0, 1.0, "difference"),
    "difference, 20% changed": Population(differences(0.2, 0.3, 0.2), -1.0, 1.0, "difference"),
    "difference, 60% changed": Population(differences(0.6, 0.4, 0.15), -1.0, 1.0, "difference"),
    "difference, always down": Population(differences(1.0, 0.0, 0.05), -1.0, 1.0, "difference"),
    "retention": Population(student_and_teacher, kind="ratio"),
    "lift kept": Population(leads, -1.0, 1.0, "ratio"),
}


def extra_query(values: Float64, population: Population, resamples: int, seed: int) -> Pair:
    """Return the interval that is used."""
    how = {"confidence": CONFIDENCE, "resamples": resamples, "seed": seed}
    ends = {"low": population.low, "high": population.high}
    if population.kind == "difference":
        return difference_interval(values[0], np.zeros(values.shape[1]), **how, **ends)
    if population.kind == "mean":
        return mean_interval(values[0], **how, **ends)
    pairs = {"worst": (-1.0, 0.0), "best": (1.0, 0.0)} if population.low < 0 else {}
    return ratio_interval(values[0], values[1], **how, **pairs)


def bootstraps(values: Float64, resamples: int, rng: Rng) -> dict[str, Pair]:
    """Return intervals of one set of resamples: percentile, BCa and studentized, and Student's t without any."""
    queries = values.shape[1]
    means = values.mean(axis=1)
    ratio = len(values) == 2
    estimate = means[0] / means[1] if ratio else means[0]
    scale = means[1] if ratio else 1.0
    linear = (values[0] - estimate * values[1]) / scale if ratio else values[0] - estimate
    counts = rng.multinomial(queries, np.full(queries, 1 / queries), size=resamples).astype(np.float64)
    drawn = counts @ values.T / queries
    found = drawn[:, 0] / drawn[:, 1] if ratio else drawn[:, 0]
    error = linear.std(ddof=1) / math.sqrt(queries)
    half = _student(queries - 1) * error
    spread = np.sqrt(np.maximum(counts @ linear**2 / queries - (counts @ linear / queries) ** 2, 0) / (queries - 1))
    far = np.divide(found - estimate, spread, out=np.zeros(resamples), where=spread > 1e-12)
    lowest, highest = np.quantile(far, TAILS)
    return {
        "percentile": _pair(np.quantile(found, TAILS)), "t": (estimate - half, estimate + half),
        "BCa": _pair(np.quantile(found, _bca_levels(found, estimate, linear))),
        "bootstrap-t": (estimate - highest * error, estimate - lowest * error),
    }  # fmt: skip


def bounded(values: Float64, low: float, high: float, rng: Rng) -> dict[str, Pair]:
    """Return intervals that use the ends of what a query can have.

    Pseudo-observations: z^2 / 2 at each end (Agresti, Coull 1998, of any values). Empirical Bernstein: Maurer, Pontil
    2009, theorem 4. Betting: the hedged capital process of Waudby-Smith, Ramdas 2023, section 4.4, in drawn order.
    """
    share = (rng.permutation(values[0]) - low) / (high - low)
    queries, mean = len(share), share.mean()
    number = queries + Z**2
    centre = (share.sum() + Z**2 / 2) / number
    half = Z * math.sqrt(((share**2).sum() + Z**2 / 2) / number - centre**2) / math.sqrt(number)
    log = math.log(4 / (1 - CONFIDENCE))
    bernstein = math.sqrt(2 * share.var(ddof=1) * log / queries) + 7 * log / (3 * (queries - 1))
    found = {
        "pseudo-observations": (centre - half, centre + half),
        "empirical Bernstein": (max(mean - bernstein, 0.0), min(mean + bernstein, 1.0)),
        "betting": _betting(share),
    }
    return {name: (low + (high - low) * a, low + (high - low) * b) for name, (a, b) in found.items()}


def _betting(share: Float64) -> Pair:
    queries, order = len(share), np.arange(1, len(share) + 1)
    means = (0.5 + np.cumsum(share)) / (order + 1)
    variances = (0.25 + np.cumsum((share - means) ** 2)) / (order + 1)
    bets = np.sqrt(2 * math.log(2 / (1 - CONFIDENCE)) / (queries * np.r_[0.25, variances[:-1]]))
    tried = np.linspace(0, 1, GRID)[:, None]
    up = np.minimum(bets, 0.5 / np.maximum(tried, 1e-9))
    down = np.minimum(bets, 0.5 / np.maximum(1 - tried, 1e-9))
    gains = [np.log1p(up * (share - tried)), np.log1p(-down * (share - tried))]
    capital = np.max([np.cumsum(gain, axis=1).max(axis=1) for gain in gains], axis=0) + math.log(0.5)
    kept = tried[capital < math.log(1 / (1 - CONFIDENCE)), 0]
    return (float(kept.min()), float(kept.max())) if len(kept) else (math.nan, math.nan)


def _bca_levels(found: Float64, estimate: float, linear: Float64) -> Float64:
    share = ((found < estimate).mean() + (found <= estimate).mean()) / 2
    bias = stats.norm.ppf(np.clip(share, 1e-3, 1 - 1e-3))
    squares = (linear**2).sum()
    skew = (linear**3).sum() / (6 * squares**1.5) if squares > 0 else 0.0
    ends = bias + np.array([-Z, Z])
    return np.asarray(stats.norm.cdf(bias + ends / (1 - skew * ends)))


@cache
def _student(freedom: int) -> float:
    return float(stats.t.ppf(TAILS[1], freedom))


def _pair(ends: Float64) -> Pair:
    return float(ends[0]), float(ends[1])


def chosen(values: Float64, population: Population, resamples: int, rng: Rng) -> dict[str, Pair]:
    """Return the interval that is used alone."""
    return {CHOSEN: extra_query(values, population, resamples, int(rng.integers(1 << 31)))}


def others(values: Float64, population: Population, resamples: int, rng: Rng) -> dict[str, Pair]:
    """Return the intervals of all other methods; those for bounded values but of a ratio."""
    found = bootstraps(values, resamples, rng)
    return found if len(values) == 2 else found | bounded(values, population.low, population.high, rng)


def coverage(
    method: Callable[[Float64, Population, int, Rng], dict[str, Pair]],
    population: Population,
    queries: int,
    sets: int,
    resamples: int,
    rng: Rng,
) -> dict[str, dict[str, float]]:
    """Return for each method how often its intervals hold the truth, and their median width.

    Args:
        method: `chosen` or `others`.
        population: that sets are drawn of.
        queries: of a set.
        sets: how many.
        resamples: of a set.
        rng: draws both.
    """
    held = truth(population)
    drawn = [method(population.draw(rng, queries), population, resamples, rng) for _ in range(sets)]
    result = {}
    for name in drawn[0]:
        low, high = np.array([each[name] for each in drawn]).T
        covered = (low <= held + 1e-9) & (held - 1e-9 <= high)
        result[name] = {"coverage": float(covered.mean()), "width": float(np.median(high - low))}
    return result


def main() -> None:
    """Measure every population, number of queries and method, and print the worst and the typical."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=400)
    options = parser.parse_args()
    cells: dict[str, dict[str, Any]] = {}
    for queries in NUMBERS:
        rng = np.random.default_rng(queries)
        with np.errstate(divide="ignore", invalid="ignore"):
            cells[str(queries)] = {
                name: coverage(chosen, population, queries, options.sets, options.resamples, rng)
                | coverage(others, population, queries, options.sets // REST, options.resamples, rng)
                for name, population in POPULATIONS.items()
            }
        print(queries, json.dumps(summary(cells[str(queries)])), flush=True)
    settings = {"confidence": CONFIDENCE, "sets": options.sets, "resamples": options.resamples}
    content = {
        "summary": {queries: summary(found) for queries, found in cells.items()}, "settings": settings,
        "host": describe_host(), "versions": versions(("rankdistill", "numpy", "scipy")), "cells": _rounded(cells),
    }  # fmt: skip
    write_atomic(options.out, json.dumps(content, indent=1) + "\n")


def summary(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return of each method the least coverage, the mean one, and the median width over the percentile bootstrap's."""
    result = {}
    for method in found["nDCG@10"]:
        cells = [each[method]["coverage"] for each in found.values() if method in each]
        wide = [each[method]["width"] / max(each[OLD]["width"], 1e-12) for each in found.values() if method in each]
        known = [width for width in wide if width < 1e6]  # a median width of 0 is none to compare with
        result[method] = {
            "least": round(min(cells), 4), "mean": round(float(np.mean(cells)), 4),
            "width": round(float(np.median(known)), 3),
        }  # fmt: skip
    return result


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(child) for name, child in value.items()}
    return None if not math.isfinite(value) else round(value, 4)


if __name__ == "__main__":
    main()
