"""A candidate on a share of live requests: what it costs and how it ranks, beside the model that answers them."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

from rankdistill.export.runtime.scorer import Float32

FEWEST = 10  # requests that tell how fast a candidate is
AT = 10  # items of an answer whose overlap is compared


@dataclass(frozen=True)
class TrialBudget:
    """What a candidate must hold to be let in.

    Attributes:
        requests: how many of live traffic it is tried on.
        max_slowdown: most of its CPU time over that of the model that answers, on the same requests.
        min_overlap: least mean overlap of the two models' first ten items, 0 to 1; 0 asks for none.
        max_errors: most requests that it may fail.
        seconds: after which `FEWEST` requests are enough; so many are waited for.
    """

    requests: int = 50
    max_slowdown: float = 1.5
    min_overlap: float = 0.5
    max_errors: int = 0
    seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: naming the number that is out of range.
        """
        ranges = {
            "requests": self.requests >= 1,
            "max_slowdown": self.max_slowdown > 0,
            "min_overlap": 0 <= self.min_overlap <= 1,
            "max_errors": self.max_errors >= 0,
            "seconds": self.seconds > 0,
        }
        for name, inside in ranges.items():
            if not inside:
                raise ValueError(f"trial.{name}={getattr(self, name)}: out of range")


@dataclass(frozen=True)
class TrialVerdict:
    """Whether a candidate is let in.

    Attributes:
        accepted: whether it is.
        reason: in words, with the numbers.
    """

    accepted: bool
    reason: str


class Trial:
    """Gathers what live requests tell of a candidate. Any thread may call it.

    Args:
        budget: that it must hold.
        began: the time, of a monotonic clock.
    """

    def __init__(self, budget: TrialBudget, began: float) -> None:
        self.budget, self.began = budget, began
        self._overlaps: list[float] = []
        self._theirs = self._own = 0.0
        self._texts = 0
        self._errors: list[str] = []
        self._lock = threading.Lock()

    def saw(self, answered: Float32, candidate: Float32, answered_s: float, candidate_s: float) -> None:
        """Compare the scores of one request and what they cost.

        Args:
            answered: by the model that answered, float32 [items].
            candidate: by the candidate, float32 [items].
            answered_s: CPU time of the one.
            candidate_s: CPU time of the other.
        """
        with self._lock:
            if not np.isfinite(candidate).all():
                self._errors.append("scores that are no numbers")
                return
            self._overlaps.append(overlap(answered, candidate))
            self._texts += len(answered)
            self._theirs += answered_s
            self._own += candidate_s

    def failed(self, error: BaseException) -> None:
        """Count a request that the candidate could not answer."""
        with self._lock:
            self._errors.append(f"{type(error).__name__}: {error}")

    @property
    def seen(self) -> int:
        """How many requests the candidate has answered."""
        return len(self._overlaps)

    @property
    def text_s(self) -> float:
        """CPU time of a text by the model that answers; nan before the first."""
        return self._theirs / self._texts if self._texts else math.nan

    def verdict(self, now: float) -> TrialVerdict | None:
        """Return whether the candidate is let in; None while that is open."""
        budget = self.budget
        with self._lock:
            seen = len(self._overlaps)
            if len(self._errors) > budget.max_errors:
                return TrialVerdict(False, f"{len(self._errors)} requests failed, the last by {self._errors[-1]}")
            needed = budget.requests if now - self.began < budget.seconds else min(FEWEST, budget.requests)
            if seen < needed:
                return None
            slowdown = self._own / self._theirs if self._theirs > 0 else math.nan
            mean = sum(self._overlaps) / seen
        told = f"{seen} requests: {slowdown:.2f} times the CPU time, overlap@{AT} {mean:.3f}"
        if slowdown > budget.max_slowdown:
            return TrialVerdict(False, f"{told}; slower than {budget.max_slowdown:g} times")
        if mean < budget.min_overlap:
            return TrialVerdict(False, f"{told}; ranks otherwise than {budget.min_overlap:g} allows")
        return TrialVerdict(True, told)


def overlap(one: Float32, other: Float32) -> float:
    """Return the share of two rankings' first `AT` items that is in both; of equal scores the earlier item."""
    count = min(AT, len(one))
    if not count:
        return 1.0
    first, second = (np.argsort(-scores, kind="stable")[:count] for scores in (one, other))
    return len(np.intersect1d(first, second)) / count


class Probation:
    """A model that was just let in, over its first requests: what it must not do is fail or be slow.

    Args:
        budget: that it must hold: `requests`, `max_slowdown`, `max_errors`.
        text_s: CPU time of a text of the model before it; nan if unknown: then only errors count.
    """

    def __init__(self, budget: TrialBudget, text_s: float) -> None:
        self.budget, self.text_s = budget, text_s
        self._cpu_s, self._texts, self._requests, self._errors = 0.0, 0, 0, 0
        self._lock = threading.Lock()

    def answered(self, cpu_s: float, texts: int) -> TrialVerdict | None:
        """Count an answer.

        Args:
            cpu_s: CPU time that it took.
            texts: that were scored for it: what was known from before cost nothing.

        Returns:
            Whether the model stays; None while that is open.
        """
        with self._lock:
            self._cpu_s += cpu_s
            self._texts += texts
            self._requests += 1
            if self._requests < self.budget.requests:
                return None
            slowdown = self._cpu_s / self._texts / self.text_s if self._texts else math.nan
        told = f"{self.budget.requests} requests: {slowdown:.2f} times the CPU time of the model before"
        if slowdown > self.budget.max_slowdown:
            return TrialVerdict(False, f"{told}; slower than {self.budget.max_slowdown:g} times")
        return TrialVerdict(True, told)

    def failed(self, error: BaseException) -> TrialVerdict | None:
        """Count a request that it could not answer; as `answered`."""
        with self._lock:
            self._errors += 1
            if self._errors <= self.budget.max_errors:
                return None
        return TrialVerdict(False, f"{self._errors} requests failed, the last by {type(error).__name__}: {error}")
