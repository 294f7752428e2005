"""Two rankers timed against each other until it is clear which keeps a bound, on a machine that does other things too.

Both are loaded anew again and again, for how a ranker happens to lie in memory, and what else the machine does in those
seconds, biases every call until the next load. So a load, not a call, is a sample. In a load one request is timed as
A B B A and the next as B A A B: whatever slows the machine down meets both alike, and so does what a turn costs after
one of the other or of its own. A load gives one ratio. Of a bundle against itself its logarithm is as likely above 0 as
below by as much, whatever the noise: the interval is that of Wilcoxon's signed ranks, which assume nothing more. It is
looked at after 8, 12, 18, ... loads, each look with a smaller share of the allowed error, so that looking often makes
no false alarm more likely.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Request = tuple[str, list[str]]

FIRST_LOOK = 8  # loads; of fewer than 7 no interval of look 1's confidence at .95 has an end
PAIRS = 2  # of blocks (A B B A, B A A B) in a load: more time is better spent on further loads
LONGEST = 2 * FIRST_LOOK  # a load that has used this part of the time ends after one pair, so that some looks are had
WARM_UP = 2  # requests after a load: the first plans memory
SPENT = 6 / math.pi**2  # of the allowed error at look 1; look k gets SPENT / k^2, which sum to 1


class Scores(Protocol):
    """What is timed: scores a query's items."""

    def score_items(self, query: str, items: Sequence[str]) -> Any:
        """Score a query's items."""


Open = Callable[[], AbstractContextManager[Scores]]  # loads a ranker anew


@dataclass(frozen=True)
class Times:
    """Milliseconds of a ranker and its rival, turn by turn; four turns of each are a pair of blocks.

    Attributes:
        wall: float64 [2, turns]: the ranker's row, the rival's row.
        cpu: float64 [2, turns].
        load: int64 [turns], the number of the load that a turn was in, from 0.
    """

    wall: Float64
    cpu: Float64
    load: Int64

    @property
    def loads(self) -> int:
        """Number of loads."""
        return int(self.load[-1]) + 1

    def ratios(self, times: Float64) -> Float64:
        """Return the ratio of each load, float64 [loads]: the median of its pairs' summed turns, ranker over rival."""
        sums = times.reshape(2, -1, 4).sum(axis=2)
        pairs, load = sums[0] / sums[1], self.load[::4]
        return np.array([np.median(pairs[load == number]) for number in range(self.loads)])

    def percentile_ratios(self, times: Float64, percent: float) -> Float64:
        """Return the ratio of a percentile of each load's turns, float64 [loads]."""
        parts = [np.percentile(times[:, self.load == number], percent, axis=1) for number in range(self.loads)]
        return np.array([part[0] / part[1] for part in parts])


def duel(
    ranker: Open,
    rival: Open,
    requests: Sequence[Request],
    *,
    seconds: float,
    decided: Callable[[Times, int], bool],
    progress: Callable[[float], None],
) -> Times:
    """Time two rankers on the same requests, in blocks, load after load.

    Args:
        ranker: loads the one in question.
        rival: loads what it is compared with.
        requests: queries with their items; taken in turn.
        seconds: when to end without a decision.
        decided: is told the times so far and the number of the look (from 1); whether that is enough.
        progress: is told which share of the time is gone.
    """
    turns: list[_Turns] = []
    look, wanted, load, start = 1, FIRST_LOOK, 0, time.perf_counter()

    def gone() -> float:
        share = (time.perf_counter() - start) / seconds
        progress(min(share, 1.0))
        return share

    while True:
        turns += _load(ranker, rival, requests, load, len(turns) // 2, gone)
        load += 1
        over = gone() >= 1
        if load >= wanted or over:
            times = _times(turns)
            if decided(times, look) or over:
                return times
            look, wanted = look + 1, wanted + wanted // 2


def confidence_at(look: int, confidence: float) -> float:
    """Return the confidence of an interval at a look, so that all looks together are wrong no more than allowed."""
    return 1 - (1 - confidence) * SPENT / look**2


def ratio_and_interval(ratios: Float64, confidence: float) -> tuple[float, tuple[float, float]]:
    """Return the Hodges-Lehmann estimate of a ratio and its exact interval (Conover 1999, section 5.7; of logarithms).

    It holds whatever the distributions, alike or not, if the ratios are independent and their logarithms lie
    symmetrically about the same centre.

    Args:
        ratios: float64 [loads], positive.
        confidence: share covered at least.

    Returns:
        The estimate, and lower and upper end: 0 and infinite where there are too few ratios.
    """
    logs, count = np.log(ratios), len(ratios)
    averages = np.sort(((logs[:, None] + logs) / 2)[np.triu_indices(count)])
    value, k = float(np.exp(np.median(averages))), _outside(count, (1 - confidence) / 2)
    if k == 0:
        return value, (0.0, math.inf)
    return value, (float(np.exp(averages[k - 1])), float(np.exp(averages[-k])))


def _outside(count: int, error: float) -> int:
    """Return the largest k for which the signed ranks' sum of `count` values lies below k with at most this chance."""
    chances = np.ones(1)
    for rank in range(1, count + 1):  # each rank is in the sum or not
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    return int(np.searchsorted(np.cumsum(chances), error, side="right"))


def quantile_interval(
    values: Float64, share: float, confidence: float, independent: int | None = None
) -> tuple[float, float]:
    """Return the interval of a quantile by order statistics (Conover 1999, section 3.2), whatever the distribution.

    Args:
        values: float64 [samples].
        share: which quantile, .5 for the median.
        confidence: share covered at least.
        independent: in how many groups, independent of each other, the values lie: the ends are then the values at the
            ranks, scaled, that they would have if each group were one value; None if each value is independent.

    Returns:
        Lower and upper end; infinite where there are too few values.
    """
    ordered, count, error = np.sort(values), independent or len(values), (1 - confidence) / 2
    low, high = _below(count, share, error), _below(count, 1 - share, error)
    below, above = (-(-rank * len(values) // count) for rank in (low, high))
    return (
        float(ordered[below - 1]) if low else -math.inf,
        float(ordered[len(values) - above]) if high else math.inf,
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


_Turns = tuple[float, float, float, float, int]  # wall and CPU time of the ranker and its rival; the load


def _times(turns: Sequence[_Turns]) -> Times:
    table = np.array(turns).T
    return Times(table[:2], table[2:4], table[4].astype(np.int64))


def _load(
    ranker: Open, rival: Open, requests: Sequence[Request], load: int, block: int, gone: Callable[[], float]
) -> list[_Turns]:
    """Load both anew and time their pairs of blocks, counted on from `block`."""
    turns: list[_Turns] = []
    ends = min(1.0, gone() + 1 / LONGEST)
    with _both(ranker, rival, swapped=load % 2 == 1) as rankers, _no_garbage():
        for request in requests[:WARM_UP]:
            for one in rankers:
                one.score_items(*request)
        for _ in range(PAIRS):
            for order in ((0, 1, 1, 0), (1, 0, 0, 1)):
                request = requests[block % len(requests)]
                block += 1
                timed: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
                for who in order:
                    timed[who].append(time_request(rankers[who], request))
                turns += [(a[0], b[0], a[1], b[1], load) for a, b in zip(*timed, strict=True)]
            if gone() >= ends:
                break
    return turns


def time_request(ranker: Scores, request: Request) -> tuple[float, float]:
    """Return the wall and CPU milliseconds of scoring one request, all threads."""
    start, start_cpu = time.perf_counter(), time.process_time()
    ranker.score_items(*request)
    cpu = (time.process_time() - start_cpu) * 1e3
    return (time.perf_counter() - start) * 1e3, cpu


@contextmanager
def _both(ranker: Open, rival: Open, *, swapped: bool) -> Iterator[tuple[Scores, Scores]]:
    """Load both, in the other order if swapped: of two alike the one loaded first is a little slower."""
    if swapped:
        with rival() as second, ranker() as first:
            yield first, second
    else:
        with ranker() as first, rival() as second:
            yield first, second


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
