"""Holds a latency target under changing load by moving along measured settings: dearer and better, or cheaper.

Two signals. Ahead of trouble: how busy the threads would be at a setting, its cost times the rate at which requests
come. After it: answers that came too late, and the work that lies waiting. It goes down as far as the load asks, at
least one setting each `hold_s` while answers are late; it goes up one setting at a time, only after calm and only where
the load would leave room. So it does not swing. It begins at the dearest.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

TICK_S = 0.05  # between decisions
FORGETTING = 0.95  # of what requests cost, with each that ends
MOST_LATE = 0.01  # of answers: the target is of their 99th percentile
FEWEST_LATE = 2  # a single late answer says nothing
CALM = 0.8  # of the target, below which there is calm


@dataclass(frozen=True)
class Setting:
    """A way to answer requests, as it was measured.

    Attributes:
        name: is told with every answer.
        quality: in any unit, higher is better; what the floor is compared with.
        cost_s: thread seconds of a request; only the settings' ratio matters, what requests really cost is observed.
    """

    name: str
    quality: float
    cost_s: float


class Governor:
    """Chooses the setting of each request. Any thread may call it; times are of one monotonic clock.

    Args:
        settings: from the dearest to the cheapest; those that a cheaper one equals in quality are left out.
        threads: that score.
        target_s: the 99th percentile of the time from arrival to answer that is to be held.
        floor: lowest quality that may ever be served.
        window_s: over which rates are taken.
        hold_s: between two steps down, so that the first can show what it does.
        calm_s: that everything must have been well before a step up.
        busy: most share of the threads' time that a setting may need to be chosen.

    Raises:
        ValueError: if no setting keeps the floor, they are not in order, or a number is not positive.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        *,
        threads: int,
        target_s: float,
        floor: float = -math.inf,
        window_s: float = 1.0,
        hold_s: float = 0.5,
        calm_s: float = 3.0,
        busy: float = 0.75,
    ) -> None:
        for name, number in {
            "threads": threads, "target_s": target_s, "window_s": window_s, "calm_s": calm_s, "busy": busy
        }.items():  # fmt: skip
            if not number > 0:
                raise ValueError(f"{name}={number}: must be positive")
        self.settings = [setting for setting in settings if setting.quality >= floor]
        if not self.settings:
            raise ValueError(f"floor={floor}: no setting is as good; the best has {max(s.quality for s in settings)}")
        costs = [setting.cost_s for setting in self.settings]
        if sorted(costs, reverse=True) != costs or costs[-1] <= 0:
            raise ValueError("the settings' costs must be positive and fall from one to the next")
        self.settings = _undominated(self.settings)
        self.threads, self.target_s, self.busy = threads, target_s, busy
        self.window_s, self.hold_s, self.calm_s = window_s, hold_s, calm_s
        self._longest = max(window_s, calm_s)
        self.seconds = [0.0] * len(self.settings)  # at each setting, up to the last decision
        self._now = 0  # the setting
        self._scale = 1.0  # of what requests cost, over what was measured
        self._arrivals: deque[float] = deque()
        self._ends: deque[tuple[float, float]] = deque()
        self._decided = self._moved = self._unwell = -math.inf
        self._lock = threading.Lock()

    def arrived(self, now: float) -> None:
        """Count a request."""
        with self._lock:
            self._arrivals.append(now)

    def ended(self, setting: int, latency_s: float, worked_s: float, now: float) -> None:
        """Learn what became of a request.

        Args:
            setting: that answered it; its place in `settings`.
            latency_s: from its arrival to its answer.
            worked_s: thread seconds that it took; 0 if it was answered without work (a cache), which teaches no cost.
            now: the time.
        """
        with self._lock:
            self._ends.append((now, latency_s))
            if worked_s > 0:
                seen = worked_s / self.settings[setting].cost_s
                self._scale = FORGETTING * self._scale + (1 - FORGETTING) * seen

    def choose(self, now: float, backlog_s: float) -> int:
        """Return the setting for what is scored now, its place in `settings`.

        Args:
            now: the time.
            backlog_s: seconds until all that waits now would be done.
        """
        with self._lock:
            if now - self._decided >= TICK_S:
                self._decide(now, backlog_s)
            return self._now

    def begin_at(self, name: str) -> None:
        """Begin at a setting by name, as another governor left it; without one of that name, where it stands."""
        for place, setting in enumerate(self.settings):
            if setting.name == name:
                self._now = place

    @property
    def setting(self) -> Setting:
        """The setting of now."""
        return self.settings[self._now]

    def _decide(self, now: float, backlog_s: float) -> None:
        if math.isfinite(self._decided):
            self.seconds[self._now] += now - self._decided
        self._decided = now
        while self._arrivals and self._arrivals[0] < now - self._longest:
            self._arrivals.popleft()
        while self._ends and self._ends[0][0] < now - self._longest:
            self._ends.popleft()
        late = backlog_s > self.target_s / 2 or self._too_many(self.target_s)
        fits = self._fitting(now, self.window_s, -2)
        if late or fits > self._now:
            self._unwell = now
            if now - self._moved >= self.hold_s and self._now < len(self.settings) - 1:
                self._move(max(self._fitting(now, self.window_s, 0), self._now + 1) if late else fits, now)
        elif self._too_many(CALM * self.target_s):
            self._unwell = now
        elif now - max(self._unwell, self._moved) >= self.calm_s and self._fitting(now, self._longest, 1) < self._now:
            self._move(self._now - 1, now)

    def _too_many(self, limit_s: float) -> bool:
        """Return whether too many of the answers to what came since the last move took longer."""
        latencies = [latency for end, latency in self._ends if end - latency >= self._moved]
        over = sum(latency > limit_s for latency in latencies)
        return over >= FEWEST_LATE and over > MOST_LATE * len(latencies)

    def _fitting(self, now: float, window_s: float, deviations: float) -> int:
        """Return the dearest setting that the threads can bear at the rate of now; the cheapest if none.

        Args:
            now: the time.
            window_s: over which arrivals are counted.
            deviations: added to the count: arrivals that come by chance are off by the root of their number.
        """
        count = sum(arrival >= now - window_s for arrival in self._arrivals)
        rate = max(0.0, count + deviations * math.sqrt(count)) / window_s
        for place, setting in enumerate(self.settings):
            if rate * setting.cost_s * self._scale <= self.busy * self.threads:
                return place
        return len(self.settings) - 1

    def _move(self, place: int, now: float) -> None:
        self._now, self._moved = min(place, len(self.settings) - 1), now


def _undominated(settings: Sequence[Setting]) -> list[Setting]:
    best, kept = -math.inf, []
    for setting in reversed(settings):
        if setting.quality > best:
            best = setting.quality
            kept.append(setting)
    return kept[::-1]
