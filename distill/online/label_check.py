"""Whether outcomes are what they say: flipped ones contradict the served model, a change of taste hardly does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from rankdistill.data.records import Float32, Split
from rankdistill.export.measure.intervals import LEAST_QUERIES
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.online.checks import Check
from rankdistill.options import Update

LABELS = "labels"
PARTS = 5  # of the events by time that are looked at by themselves; then halves of those, and so on
LEAST_LISTS = LEAST_QUERIES  # of a slice; of fewer, chance decides
LEAST_USERS = 5  # that disagree; how much fewer may spoil is what update.max_user_share bounds

Float64 = npt.NDArray[np.float64]
Slice = tuple[str, Float64]


def label_check(split: Split, scores: Float32, users: Sequence[str], old: float | None, update: Update) -> Check:
    """Look for a slice of the events whose labels contradict the served model.

    A served model that ranks at all agrees with sound outcomes in more than half of the pairs of candidates of
    different grade, and as much below it with flipped ones. No slice (`_windows` of time, `_dissenters`) may be below
    `min_agreement` by the upper end of a t interval, whose confidence is shared among the slices (Bonferroni). Fewer
    than `LEAST_LISTS` condemn nothing: two that agree would make an interval without width.

    Args:
        split: lists of known grades, in the order of time.
        scores: the served model's logits, float32 [pairs].
        users: [lists], "" where not told.
        old: its pair accuracy on the old test set, if there is one; told beside.
        update: has bound and confidence.
    """
    accuracy = ranking_metrics(scores, split.grade, split.offsets)["pair_accuracy"]
    tells = ~np.isnan(accuracy)
    accuracy, users = accuracy[tells], [user for user, kept in zip(users, tells, strict=True) if kept]
    if not len(accuracy):
        return Check(LABELS, True, None, update.min_agreement, "no event has outcomes that differ: nothing to compare")
    slices = [*_windows(accuracy), *_dissenters(accuracy, users, update.min_agreement)]
    confidence = 1 - (1 - update.confidence) / len(slices)
    bounds = [_upper(values, confidence) for _, values in slices]
    worst = int(np.argmin(bounds))
    name, values = slices[worst]
    beside = "" if old is None else f" (on the old test set {old:.3f})"
    detail = (
        f"the served model orders {accuracy.mean():.3f} of the pairs as their outcomes do{beside}, and in the worst of "
        f"{len(slices)} slices, {name}, {values.mean():.3f}, with {update.confidence:.0%} confidence at most "
        f"{bounds[worst]:.3f}; at least {update.min_agreement:g}"
    )
    ok = bounds[worst] >= update.min_agreement or len(accuracy) < LEAST_LISTS
    return Check.of_lists(LABELS, ok, bounds[worst], update.min_agreement, detail, len(accuracy))


def _windows(accuracy: Float64) -> Iterator[Slice]:
    """Yield parts of the events by time that overlap by half, down to `LEAST_LISTS`; all of them, if they are few."""
    count = len(accuracy)
    size = count // PARTS
    if size < LEAST_LISTS:
        yield f"all {count} events", accuracy
    while size >= LEAST_LISTS:
        for start in sorted({*range(0, count - size, max(1, size // 2)), count - size}):
            yield f"events {start + 1} to {start + size} of {count}", accuracy[start : start + size]
        size //= 2


def _dissenters(accuracy: Float64, users: Sequence[str], bound: float) -> Iterator[Slice]:
    """Yield the lists of users that half of their lists show to disagree, without that half: it was chosen by."""
    rows: dict[str, list[int]] = {}
    for row, user in enumerate(users):
        if user:
            rows.setdefault(user, []).append(row)
    found, who = [], set()
    for user, own in rows.items():
        halves = accuracy[own[0::2]], accuracy[own[1::2]]
        for chosen_by, rest in (halves, halves[::-1]):
            if len(own) > 1 and chosen_by.mean() < bound:
                found.append(rest)
                who.add(user)
    values = np.concatenate([np.zeros(0), *found])
    if len(who) >= LEAST_USERS and len(values) >= LEAST_LISTS:
        yield f"{len(who)} users that contradict it", values


def _upper(values: Float64, confidence: float) -> float:
    """Return the upper end of Student's two-sided interval of the mean."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 1.0
    return float(values.mean() + stats.t.ppf((1 + confidence) / 2, max(1, len(values) - 1)) * error)
