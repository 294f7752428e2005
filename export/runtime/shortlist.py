"""The items of one request on their way through a cascade: who is left, and what order all of them get in the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rankdistill.export.runtime.scorer import Float32

SIGN = np.int64(0x7FFFFFFF)  # bits of a float32 but for its sign


@dataclass(frozen=True)
class Cut:
    """Which items a stage passes on: all within `margin` of its `rank`-th best; ties, and so equal texts, together.

    Attributes:
        rank: with a margin of 0, the number of items that are passed on.
        margin: of the stage's scores.
    """

    rank: int
    margin: float = 0.0

    def passed(self, scores: Float32) -> npt.NDArray[np.bool_]:
        """Return which items are passed on, bool [items]; all of them if there are no more than `rank`."""
        if len(scores) <= self.rank:
            return np.ones(len(scores), dtype=np.bool_)
        exact = np.asarray(scores, dtype=np.float64)
        least = np.partition(exact, len(exact) - self.rank)[len(exact) - self.rank] - self.margin
        return np.asarray(~(exact < least))  # what is no number is passed on, for the last stage to tell


class Shortlist:
    """A request's items; each stage scores those that are left and passes some on.

    Args:
        items: how many there are.

    Attributes:
        left: int64 [items left], their places in the request, rising.
    """

    def __init__(self, items: int) -> None:
        self.left = np.arange(items)
        self._items = items
        self._dropped: list[tuple[npt.NDArray[np.int64], Float32]] = []

    def pass_on(self, scores: Float32, cut: Cut) -> None:
        """Keep what a stage passes on of the items that are left, whose scores these are."""
        passed = cut.passed(scores)
        self._dropped.append((self.left[~passed], scores[~passed]))
        self.left = self.left[passed]

    def scores(self, last: Float32) -> Float32:
        """Return the request's scores.

        Args:
            last: of the items that are left, by the last stage.

        Returns:
            float32 [items]: of those that the last stage saw, its own; all others below these, first those that came
            furthest, by the differences of the scores of the stage that saw them last.
        """
        found = np.empty(self._items, dtype=np.float32)
        found[self.left] = last
        floor = np.float32(last.min()) if len(last) else np.float32(0)
        for rows, scores in reversed(self._dropped):
            if len(rows):
                found[rows] = _below(floor, scores)
                floor = found[rows].min()
        return found


def _below(floor: np.float32, scores: Float32) -> Float32:
    """Move scores below a floor: by one amount, so that differences stay, and where float32 would round two of them to
    one value, by so little more that they stay two.
    """
    order = np.argsort(-scores, kind="stable")
    exact = np.asarray(scores, dtype=np.float64)[order]
    moved = np.r_[floor, np.float64(floor) - (exact[0] - exact)].astype(np.float32)
    # float32 values of one sign lie in the order of their bits; these whole numbers lie in the order of all of them
    bits = moved.view(np.int32).astype(np.int64)
    steps = np.where(bits >= 0, bits, -(bits & SIGN))
    place = np.r_[0, 1 + np.cumsum(np.r_[0, exact[1:] != exact[:-1]])]  # equal scores share one
    steps = (np.minimum.accumulate(steps + place) - place)[1:]
    bits = np.where(steps >= 0, steps, -steps | ~SIGN).astype(np.int32)
    found = np.empty(len(scores), dtype=np.float32)
    found[order] = bits.view(np.float32)
    return found
