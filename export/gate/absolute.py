"""What times of one ranker by itself say: percentiles of a request, CPU time, pairs a second.

A load is one sample, however many turns it has (see `duel`): what biases one of them biases them all.
"""

from __future__ import annotations

import numpy as np

from rankdistill.export.gate.decision import Estimate
from rankdistill.export.gate.estimates import PERCENTILES
from rankdistill.export.measure.paired_timing import Float64, Int64, Times, quantile_interval, ratio_and_interval

LIMIT = "raise the budget's time_limit"


def absolute_estimates(times: Times, pairs: Int64, confidence: float) -> dict[str, Estimate]:
    """Return estimates from a ranker that was timed against itself: the turns of both rows are its own.

    - p50_ms, p95_ms, p99_ms, cpu_ms_per_query (the median): of all turns in all loads, with what loads differ by. As
      the turns of a load may lie in a tail together, an interval ends at the turns with the ranks that they would have
      if there were but one turn a load, whatever loads and requests are like. Of few loads a tail has no upper end.
    - pairs_per_s: of the typical load, see `ratio_and_interval`.

    Args:
        times: of the ranker and itself.
        pairs: int64 [requests], items of each.
        confidence: of the intervals.
    """
    quantiles = {name: (times.wall, share) for name, share in PERCENTILES.items()}
    quantiles["cpu_ms_per_query"] = times.cpu, 0.5
    found = {"pairs_per_s": of_loads(*ratio_and_interval(_speeds(times, pairs), confidence), times)}
    for name, (turns, share) in quantiles.items():
        interval = quantile_interval(turns.ravel(), share, confidence, independent=times.loads)
        found[name] = of_loads(float(np.quantile(turns, share)), interval, times)
    return found


def of_loads(value: float, interval: tuple[float, float], times: Times) -> Estimate:
    """Return an estimate that rests on the loads of these times."""
    return Estimate(value, *interval, samples=times.loads, unit="loads", limit=LIMIT)


def _speeds(times: Times, pairs: Int64) -> Float64:
    """Return the pairs a second of each load, float64 [loads]."""
    seconds = times.wall.reshape(2, -1, 2).sum(axis=(0, 2)) / 1e3  # of a block: four turns of one request
    counts = pairs[np.arange(len(seconds)) % len(pairs)] * 4.0
    numbers = np.arange(times.loads)[:, None] == times.load[::2]
    speeds: Float64 = (numbers @ counts) / (numbers @ seconds)
    return speeds
