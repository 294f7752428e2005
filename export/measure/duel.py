"""Two rankers timed against each other until it is clear which keeps a bound, on a machine that does other things too.

A block times one request as A B B A, so that whatever slows the machine down meets both alike, and gives the ratio of
their CPU times and of their wall times. Blocks of one bundle against itself are as likely above 1 as below, whatever
the load: the interval of the median ratio is by order statistics, which assume nothing more. It is looked at after 64,
128, 256, ... blocks, each look with a smaller share of the allowed error, so that looking often makes no false alarm
more likely.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Request = tuple[str, list[str]]

FIRST_LOOK = (
    64  # blocks; neighbouring blocks are not independent while the load beside them changes: after 16, 1 of 24 erred
)
WARM_UP = 3
RESAMPLES = 2000
SPENT = 6 / math.pi**2  # of the allowed error at look 1; look k gets SPENT / k^2, which sum to 1


class Scores(Protocol):
    """What is timed: scores a query's items."""

    def score_items(self, query: str, items: Sequence[str]) -> Any:
        """Score a query's items."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of a ranker and its rival, block by block, each the sum of its two turns.

    Attributes:
        wall: float64 [2, turns] of single turns, for percentiles: the ranker's row, the rival's row.
        cpu: float64 [2, turns].
    """

    wall: Float64
    cpu: Float64

    @property
    def blocks(self) -> int:
        """Number of A B B A blocks."""
        return int(self.wall.shape[1]) // 2

    def ratios(self, times: Float64) -> Float64:
        """Return the ratio of each block, float64 [blocks]: the ranker's two turns over the rival's two."""
        sums = times.reshape(2, -1, 2).sum(axis=2)
        return np.asarray(sums[0] / sums[1])


def duel(
    ranker: Scores,
    rival: Scores,
    requests: Sequence[Request],
    *,
    seconds: float,
    decided: Callable[[Times, int], bool],
    progress: Callable[[float], None],
) -> Times:
    """Time two rankers on the same requests in A B B A blocks.

    Args:
        ranker: the one in question.
        rival: what it is compared with.
        requests: queries with their items; taken in turn.
        seconds: when to end without a decision.
        decided: is told the times so far and the number of the look (from 1); whether that is enough.
        progress: is told which share of the time is gone.
    """
    for request in requests[:WARM_UP]:
        ranker.score_items(*request)
        rival.score_items(*request)
    turns: list[tuple[float, float, float, float]] = []
    look, wanted, start = 1, FIRST_LOOK, time.perf_counter()
    with _no_garbage():
        while True:
            request = requests[len(turns) // 2 % len(requests)]
            first = _time(ranker, request)
            second, third = _time(rival, request), _time(rival, request)
            fourth = _time(ranker, request)
            turns += [(first[0], second[0], first[1], second[1]), (fourth[0], third[0], fourth[1], third[1])]
            gone = (time.perf_counter() - start) / seconds
            progress(min(gone, 1.0))
            if len(turns) >= 2 * wanted or gone >= 1:
                times = _times(turns)
                if decided(times, look) or gone >= 1:
                    return times
                look, wanted = look + 1, 2 * wanted


def confidence_at(look: int, confidence: float) -> float:
    """Return the confidence of an interval at a look, so that all looks together are wrong no more than allowed."""
    return 1 - (1 - confidence) * SPENT / look**2


def quantile_interval(values: Float64, share: float, confidence: float) -> tuple[float, float]:
    """Return the interval of a quantile by order statistics (Conover 1999, section 3.2), whatever the distribution.

    Args:
        values: float64 [samples].
        share: which quantile, .5 for the median.
        confidence: share covered at least.

    Returns:
        Lower and upper end; infinite where there are too few values.
    """
    ordered, count, error = np.sort(values), len(values), (1 - confidence) / 2
    low, high = _below(count, share, error), _below(count, 1 - share, error)
    return (
        float(ordered[low - 1]) if low else -math.inf,
        float(ordered[count - high]) if high else math.inf,
    )


def _below(count: int, share: float, error: float) -> int:
    """Return the largest k for which fewer than k of `count` values lie below the quantile with at most this chance."""
    log_term, total = count * math.log1p(-share), 0.0
    for k in range(count):
        total += math.exp(log_term)
        if total > error:
            return k
        log_term += math.log((count - k) / (k + 1)) + math.log(share) - math.log1p(-share)
    return count


def percentile_ratio_interval(times: Float64, percent: float, confidence: float, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval over blocks of the ratio of two percentiles.

    Args:
        times: float64 [2, turns], the ranker's and the rival's.
        percent: which percentile.
        confidence: share covered.
        seed: of the drawing.
    """
    blocks = times.reshape(2, -1, 2)
    drawn = np.random.default_rng(seed).integers(blocks.shape[1], size=(RESAMPLES, blocks.shape[1]))
    sample = blocks[:, drawn].reshape(2, RESAMPLES, -1)
    ratios = np.percentile(sample[0], percent, axis=1) / np.percentile(sample[1], percent, axis=1)
    low, high = np.quantile(ratios, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def _times(turns: Sequence[tuple[float, float, float, float]]) -> Times:
    table = np.array(turns).T
    return Times(table[:2], table[2:])


def _time(ranker: Scores, request: Request) -> tuple[float, float]:
    start, start_cpu = time.perf_counter(), time.process_time()
    ranker.score_items(*request)
    cpu = (time.process_time() - start_cpu) * 1e3
    return (time.perf_counter() - start) * 1e3, cpu


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Keep the collector out of what is timed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
