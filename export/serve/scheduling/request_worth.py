"""What a request is worth among those of its class: to whom it matters, how many it serves, and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rankdistill.export.serve.scheduling.frequent_items import SpaceSaving

BELOW_ONE = math.nextafter(1.0, 0.0)


class Worth:
    """Tells a request's worth from what came before it. Any thread may use it; texts and names are not kept.

    worth = (frequency * f / (f + f0) + activity * a / (a + a0) + cheapness * c0 / (c + c0))
            / (frequency + activity + cheapness)

    with f the query's and a the user's decayed count, and c the request's characters. A frequent query's scores will
    serve others from the cache; an active user waits for the answer; of two requests the cheaper one keeps others
    waiting less. Each part saturates, so that none drowns the others: at f0, a0, c0 it is a half. Counts are the
    sketch's guaranteed ones: who took over another's counter gains nothing by it.

    Args:
        capacity: queries and users that are counted, each.
        half_life_s: seconds in which a count halves.
        frequency: weight of the query's past frequency.
        activity: weight of the user's activity.
        cheapness: weight of what it does not cost.
        frequency_half: count f0.
        activity_half: count a0.
        characters_half: c0; by default 40 items of 300 characters, with their query's.
        now: seconds of a monotonic clock.

    Raises:
        ValueError: if a weight is negative or all are 0, or another number is not positive.
    """

    def __init__(
        self,
        capacity: int = 10_000,
        half_life_s: float = 3_600.0,
        *,
        frequency: float = 0.5,
        activity: float = 0.3,
        cheapness: float = 0.2,
        frequency_half: float = 10.0,
        activity_half: float = 10.0,
        characters_half: float = 16_000.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        weights = {"frequency": frequency, "activity": activity, "cheapness": cheapness}
        halves = {
            "frequency_half": frequency_half, "activity_half": activity_half, "characters_half": characters_half
        }  # fmt: skip
        for name, number in weights.items():
            if not 0 <= number < math.inf:
                raise ValueError(f"{name}={number}: at least 0, finite")
        for name, number in halves.items():
            if not 0 < number < math.inf:
                raise ValueError(f"{name}={number}: positive, finite")
        if not 0 < sum(weights.values()) < math.inf:
            raise ValueError("frequency, activity and cheapness: one of them must be positive")
        self.weights, self.halves = weights, halves
        self._queries = SpaceSaving(capacity, half_life_s, now)
        self._users = SpaceSaving(capacity, half_life_s, now)

    def saw(self, query: str, user: str | None) -> None:
        """Count a request.

        Args:
            query: text of the query.
            user: who asks; None if unknown.
        """
        self._queries.add(hash(query))  # a number: texts may be long
        if user is not None:
            self._users.add(hash(user))

    def of(self, query: str, user: str | None, characters: int) -> float:
        """Return a request's worth, from 0 up to below 1.

        Args:
            query: text of the query.
            user: who asks; None, who is unknown, has no activity.
            characters: of all its texts.
        """
        asked = self._queries.least(hash(query))
        active = 0.0 if user is None else self._users.least(hash(user))
        parts = {
            "frequency": asked / (asked + self.halves["frequency_half"]),
            "activity": active / (active + self.halves["activity_half"]),
            "cheapness": self.halves["characters_half"] / (characters + self.halves["characters_half"]),
        }
        total = sum(weight * parts[name] for name, weight in self.weights.items())
        return min(BELOW_ONE, total / sum(self.weights.values()))
