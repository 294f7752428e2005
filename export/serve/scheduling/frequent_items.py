"""What comes most often, counted in bounded memory."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

HALVINGS = 500  # after which counts are brought down, long before floats overflow


@dataclass(slots=True)
class _Counter:
    """Of one key.

    Attributes:
        count: of its weights and those of whom it replaced.
        error: what those had.
        payload: what was last said of it.
    """

    count: float
    error: float
    payload: Any


class SpaceSaving:
    """Counts the most frequent keys; what is past counts less and less. Any thread may use it.

    Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k elements in data
    streams", ICDT 2005, fig. 1): `capacity` counters; a key without one takes over the smallest, with its count. So, of
    weights W in all, a count is too high by at most W / capacity, and every key of more than that has a counter.

    Forgetting is by forward decay (Cormode, Shkapenyuk, Srivastava and Xu, "Forward decay", ICDE 2009): what is later
    weighs more, twice as much after a half-life, and what is told is divided by the weight of now. To add takes
    O(log capacity), to look up O(1).

    Args:
        capacity: counters.
        half_life_s: seconds in which a count halves; infinite for never.
        now: seconds of a monotonic clock.

    Raises:
        ValueError: if capacity or half_life_s is not positive.
    """

    def __init__(self, capacity: int, half_life_s: float, now: Callable[[], float] = time.monotonic) -> None:
        if capacity < 1 or not half_life_s > 0:
            raise ValueError(f"capacity={capacity}, half_life_s={half_life_s}: positive numbers")
        self.capacity, self.half_life_s = capacity, half_life_s
        self._now, self._start = now, now()
        self._counters: dict[Hashable, _Counter] = {}
        # counts as they were when they were put here, one a key: counts only grow, so the smallest is found by
        # bringing the first one up to date until it is
        self._heap: list[tuple[float, int, Hashable]] = []
        self._turns = itertools.count()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._counters)

    def add(self, key: Hashable, payload: Any = None, weight: float = 1.0) -> None:
        """Count a key.

        Args:
            key: of what came.
            payload: kept with it, in place of what was; None leaves that.
            weight: how much it counts; at least 0.

        Raises:
            ValueError: if weight is negative or not finite.
        """
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight}: at least 0, finite")
        with self._lock:
            scaled = weight * self._weight_now()
            counter = self._counters.get(key)
            if counter is None:
                counter = self._take(key)
            counter.count += scaled
            if payload is not None:
                counter.payload = payload

    def count(self, key: Hashable) -> float:
        """Return at least a key's decayed count; for one without a counter, the most that it can have."""
        with self._lock:
            weight = self._weight_now()
            counter = self._counters.get(key)
            if counter is not None:
                return counter.count / weight
            return self._smallest() / weight if len(self._counters) >= self.capacity else 0.0

    def least(self, key: Hashable) -> float:
        """Return at most a key's decayed count: 0 for one without a counter."""
        with self._lock:
            weight = self._weight_now()
            counter = self._counters.get(key)
            return 0.0 if counter is None else (counter.count - counter.error) / weight

    def top(self, n: int) -> list[tuple[Hashable, float, Any]]:
        """Return up to n keys with their counts (as `count`) and payloads, the most frequent first."""
        with self._lock:
            weight = self._weight_now()
            best = heapq.nlargest(n, self._counters.items(), key=lambda entry: entry[1].count)
            return [(key, counter.count / weight, counter.payload) for key, counter in best]

    def _take(self, key: Hashable) -> _Counter:
        """Give a key a counter: a new one, or the smallest one's."""
        count = 0.0
        if len(self._counters) >= self.capacity:
            count = self._smallest()
            del self._counters[heapq.heappop(self._heap)[2]]
        counter = self._counters[key] = _Counter(count, count, None)
        heapq.heappush(self._heap, (count, next(self._turns), key))
        return counter

    def _smallest(self) -> float:
        """Bring the smallest count to the top of the heap and return it."""
        while True:
            count, _, key = self._heap[0]
            current = self._counters[key].count
            if current == count:
                return count
            heapq.heapreplace(self._heap, (current, next(self._turns), key))

    def _weight_now(self) -> float:
        """Return how much what comes now weighs, against what came at the start; may bring all counts down."""
        halvings = (self._now() - self._start) / self.half_life_s
        if halvings > HALVINGS:
            self._bring_down(halvings)
            halvings = 0.0
        return math.pow(2.0, halvings)

    def _bring_down(self, halvings: float) -> None:
        factor = math.pow(2.0, -halvings)  # 0 where nothing is left
        for counter in self._counters.values():
            counter.count *= factor
            counter.error *= factor
        self._heap = [(self._counters[key].count, turn, key) for _, turn, key in self._heap]
        heapq.heapify(self._heap)
        self._start = self._now()
