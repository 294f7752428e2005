"""Ranking quality of scores against grades and against another model's scores, with intervals over queries.

Everywhere `scores` is float [pairs], `grades` int [pairs], and query i's candidates are the pairs
offsets[i]:offsets[i + 1] (int64 [queries + 1]). A ranking is by score, descending; ties keep the candidates' order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.measure.intervals import difference_interval as difference_interval
from rankdistill.export.measure.intervals import mean_interval as mean_interval
from rankdistill.export.measure.intervals import ratio_interval as ratio_interval

METRICS = ("ndcg@10", "mrr@10", "map", "pair_accuracy")
AGREEMENT = ("tau", "rbo", "overlap@10")
CUT = 10  # depth of nDCG, MRR and overlap, as their names say
RBO_P = 0.9  # 86% of the weight on the first ten ranks (Webber, Moffat, Zobel 2010)

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def ranking_metrics(scores: Array, grades: Array, offsets: Int64, relevant: int = 1) -> dict[str, Float64]:
    """Return how well scores rank each query's candidates, by the names in `METRICS`, float64 [queries] each.

    - ndcg@10: gain 2^grade - 1, discount log2(rank + 1), over the ideal order of all the query's candidates (Burges et
      al. 2005, "Learning to rank using gradient descent"); 0 without a candidate that gains.
    - mrr@10: 1 / rank of the first relevant candidate, 0 if it is below rank 10.
    - map: average precision, the mean over relevant candidates of the precision at their rank; 0 without any.
    - pair_accuracy: share of the pairs of candidates of different grade whose scores are in the right order, a tie in
      score counts half; NaN without such a pair.

    Args:
        scores: float [pairs].
        grades: int [pairs], 0 is not relevant.
        offsets: int64 [queries + 1].
        relevant: least grade that is relevant in MRR and MAP.

    Raises:
        ValueError: if shapes do not fit, or a score is NaN.
    """
    scores, grades = _checked(scores, grades, offsets)
    values = np.empty((len(METRICS), len(offsets) - 1))
    for query, rows in enumerate(_lists(offsets)):
        ranked = grades[rows][_ranking(scores[rows])]
        values[:, query] = (
            _ndcg(ranked),
            _reciprocal_rank(ranked >= relevant),
            _average_precision(ranked >= relevant),
            _pair_accuracy(scores[rows], grades[rows]),
        )
    return dict(zip(METRICS, values, strict=True))


def agreement(scores: Array, reference: Array, offsets: Int64) -> dict[str, Float64]:
    """Return how alike two models rank each query's candidates, by the names in `AGREEMENT`, float64 [queries] each.

    - tau: Kendall's tau-b of the scores; NaN where either model's scores are all tied.
    - rbo: extrapolated rank-biased overlap of the two rankings, p = 0.9.
    - overlap@10: share of the first ten (of all, if fewer) that both rankings have there.

    All are NaN for a query without candidates.

    Args:
        scores: float [pairs].
        reference: float [pairs], the other model's scores of the same pairs.
        offsets: int64 [queries + 1].

    Raises:
        ValueError: if shapes do not fit, or a score is NaN.
    """
    scores, reference = _checked(scores, reference, offsets)
    values = np.full((len(AGREEMENT), len(offsets) - 1), np.nan)
    for query, rows in enumerate(_lists(offsets)):
        if rows.start == rows.stop:
            continue
        one, other = _ranking(scores[rows]), _ranking(reference[rows])
        shared = np.intersect1d(one[:CUT], other[:CUT], assume_unique=True)
        values[:, query] = (
            _tau_b(scores[rows], reference[rows]),
            _rbo(one, other),
            len(shared) / min(CUT, len(one)),
        )
    return dict(zip(AGREEMENT, values, strict=True))


def changed_top(scores: Array, reference: Array, offsets: Int64, k: int = CUT) -> npt.NDArray[np.bool_]:
    """Return for each query whether the two rankings differ in the set of their first k candidates, bool [queries].

    Raises:
        ValueError: if shapes do not fit, or a score is NaN.
    """
    scores, reference = _checked(scores, reference, offsets)
    tops = ((_ranking(scores[rows])[:k].tolist(), _ranking(reference[rows])[:k].tolist()) for rows in _lists(offsets))
    return np.array([set(one) != set(other) for one, other in tops], dtype=np.bool_)


def same_values(values: Mapping[str, Float64], others: Mapping[str, Float64]) -> bool:
    """Return whether two models have the same values of every metric in every query: one model, as far as is seen."""
    return values.keys() == others.keys() and all(
        np.array_equal(value, others[name], equal_nan=True) for name, value in values.items()
    )


def _checked(scores: Array, other: Array, offsets: Int64) -> tuple[Float64, Float64]:
    """Return both as float64 [pairs], which keeps order and ties of float32."""
    scores, other = np.asarray(scores, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != other.shape:
        raise ValueError(f"both must be [pairs], of the same pairs; got {scores.shape} and {other.shape}")
    bounds = np.asarray(offsets)
    if (
        bounds.ndim != 1
        or not len(bounds)
        or bounds[0] != 0
        or bounds[-1] != len(scores)
        or (np.diff(bounds) < 0).any()
    ):
        raise ValueError(f"offsets must be [queries + 1] and rise from 0 to the {len(scores)} pairs; got {bounds}")
    for values in (scores, other):
        if broken := int(np.isnan(values).sum()):
            raise ValueError(f"{broken} of {len(values)} scores are NaN")
    return scores, other


def _lists(offsets: Int64) -> Iterator[slice]:
    for start, stop in itertools.pairwise(np.asarray(offsets).tolist()):
        yield slice(start, stop)


def _ranking(scores: Float64) -> Int64:
    return np.argsort(-scores, kind="stable")


def _ndcg(ranked: Float64) -> float:
    ideal = _dcg(np.sort(ranked)[::-1])
    return _dcg(ranked) / ideal if ideal > 0 else 0.0


def _dcg(ranked: Float64) -> float:
    gains = np.exp2(ranked[:CUT]) - 1.0
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _reciprocal_rank(hits: npt.NDArray[np.bool_]) -> float:
    found = np.flatnonzero(hits[:CUT])
    return 1.0 / (int(found[0]) + 1) if len(found) else 0.0


def _average_precision(hits: npt.NDArray[np.bool_]) -> float:
    found = np.flatnonzero(hits)
    return float((np.arange(1, len(found) + 1) / (found + 1)).mean()) if len(found) else 0.0


def _pair_accuracy(scores: Float64, grades: Float64) -> float:
    """Count, for each grade, the candidates of lower grades that score less, and half of those that tie."""
    right = pairs = 0.0
    for grade in np.unique(grades)[1:]:
        own, lower = scores[grades == grade], np.sort(scores[grades < grade])
        less, at_most = (lower.searchsorted(own, side).sum() for side in ("left", "right"))
        right += (less + at_most) / 2
        pairs += len(own) * len(lower)
    return float(right / pairs) if pairs else float("nan")


def _tau_b(scores: Float64, reference: Float64) -> float:
    """Return Kendall's tau-b (Kendall 1945); NaN where either is all tied. Time and memory grow by the square."""
    signs = [np.sign(values[:, None] - values[None, :]).astype(np.int8).ravel() for values in (scores, reference)]
    one, other = (np.count_nonzero(sign) for sign in signs)
    agreeing = int(np.sum(signs[0] * signs[1], dtype=np.int64))
    return agreeing / float(np.sqrt(float(one) * other)) if one and other else float("nan")


def _rbo(one: Int64, other: Int64) -> float:
    """Return RBO_ext of two rankings of the same candidates, int64 [candidates] of positions each.

    Webber, Moffat, Zobel 2010, "A similarity measure for indefinite rankings", eq. 32; with both lists of length l its
    middle sum is empty and it is (1 - p) / p * sum_{d=1..l} X_d / d * p^d + X_l / l * p^l, where X_d is the overlap at
    depth d (eq. 30).
    """
    size = len(one)
    both_from = np.maximum(np.argsort(one), np.argsort(other))  # rank from which a candidate is in both, 0 is the first
    share = np.cumsum(np.bincount(both_from, minlength=size)) / np.arange(1, size + 1)
    weight = RBO_P ** np.arange(1, size + 1)
    return float((1 - RBO_P) / RBO_P * (share * weight).sum() + share[-1] * weight[-1])
