"""What must hold before an updated student is published: each check has a name, a number and a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.data.records import Float32, Split
from rankdistill.export.measure.intervals import LEAST_QUERIES, difference_interval
from rankdistill.export.measure.quality import agreement, ranking_metrics
from rankdistill.online.events.feedback import Counts
from rankdistill.online.events.labelled_lists import Shown
from rankdistill.options import Update

USER, BROKEN, FINITE = "one user", "broken events", "finite"
NEWEST, FORGETTING, INT8, BUNDLE = "newest events", "forgetting", "int8", "bundle"
METRIC = "ndcg@10"

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """What was found of one thing.

    Attributes:
        name: of the check.
        ok: whether the update may be published as far as it goes.
        measured: the number that was found; None where there was nothing to measure.
        bound: what it is held to.
        detail: in words.
        inconclusive: whether nothing speaks against it, but so few lists could not.
    """

    name: str
    ok: bool
    measured: float | None
    bound: float | None
    detail: str
    inconclusive: bool = False

    @classmethod
    def of_lists(cls, name: str, ok: bool, measured: float, bound: float, detail: str, lists: int) -> Check:
        """Return a check of quality: what it refuses is refused, what it lets pass on few lists is inconclusive.

        Args:
            name: of the check.
            ok: whether the bound is kept.
            measured: the number that was found.
            bound: what it is held to.
            detail: in words.
            lists: how many it rests on.
        """
        few = ok and lists < LEAST_QUERIES
        detail += f"; at least {LEAST_QUERIES} lists are needed, there were {lists}" if few else ""
        return cls(name, ok, measured, bound, detail, few)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; `inconclusive` only where it is."""
        return {name: value for name, value in asdict(self).items() if name != "inconclusive" or value}

    def __str__(self) -> str:
        verdict = "refused" if not self.ok else "inconclusive" if self.inconclusive else "ok"
        return f"{verdict}: {self.name}: {self.detail}"


def event_checks(lists: Sequence[Shown], counts: Counts, update: Update) -> Iterator[Check]:
    """Look at events before anything is learned from them: who they are of, and how many were broken.

    Args:
        lists: the new ones.
        counts: of their reading.
        update: has the bounds.
    """
    users = Counter(each.user for each in lists if each.user)
    (user, most), *_ = [*users.most_common(1), ("", 0)]
    share = most / max(1, len(lists))
    told_ = f"{share:.0%} of {len(lists)} events are of user {user!r:.60}" if user else "no event names a user"
    yield Check(
        USER,
        share <= update.max_user_share,
        share,
        update.max_user_share,
        f"{told_}, at most {update.max_user_share:.0%}",
    )
    share = counts.broken / max(1, counts.read)
    detail = f"{counts.broken} of {counts.read} events are broken, at most {update.max_broken:.0%}"
    yield Check(BROKEN, share <= update.max_broken, share, update.max_broken, detail)


def finite_check(parameters: bool, **scores: Float32) -> Check:
    """Look for numbers that are none, in what was trained and what it gives."""
    wrong = [name for name, values in scores.items() if not np.isfinite(values).all()]
    wrong += [] if parameters else ["the weights"]
    return Check(FINITE, not wrong, None, None, f"not finite: {', '.join(wrong)}" if wrong else "all numbers are")


def newest_check(split: Split, served: Float32, updated: Float32, update: Update, seed: int) -> Check:
    """Compare both models on events that neither was trained on: not worse, as far as so many lists can tell.

    Args:
        split: the newest lists, of known grades.
        served: logits, float32 [pairs].
        updated: logits, float32 [pairs].
        update: has the confidence.
        seed: of the bootstrap.
    """
    before, after = (ranked(scores, split) for scores in (served, updated))
    low, high = difference_interval(
        after, before, confidence=update.confidence, resamples=update.resamples, seed=seed
    )  # fmt: skip
    if not len(after):
        return Check(NEWEST, True, None, 0.0, "no held-out event has outcomes that differ: nothing to compare")
    mean = float((after - before).mean())
    detail = (
        f"{METRIC} {before.mean():.4f} to {after.mean():.4f} on {len(after)} held-out lists, {mean:+.4f} "
        f"[{low:+.4f}, {high:+.4f}]; not below 0 with {update.confidence:.0%} confidence"
    )
    return Check.of_lists(NEWEST, high >= 0, high, 0.0, detail, len(after))


def forgetting_check(split: Split, first: float, served: Float32, updated: Float32, update: Update) -> Check:
    """Hold an update to what the first version reached on the old test set: many small losses add up to a large one.

    Args:
        split: the old test set.
        first: mean nDCG@10 of the first version on it.
        served: logits, float32 [pairs].
        updated: logits, float32 [pairs].
        update: has the bound.
    """
    before, after = (float(ndcg(scores, split).mean()) for scores in (served, updated))
    drop = first - after
    detail = (
        f"{METRIC} on the old test set {first:.4f} at first, {before:.4f} served, {after:.4f} updated: "
        f"{drop:+.4f} lost, at most {update.max_forgetting:g}"
    )
    bound = update.max_forgetting
    return Check.of_lists(FORGETTING, drop <= bound, drop, bound, detail, len(split.offsets) - 1)


def int8_check(name: str, split: Split, exact: Float32, quantized: Float32, update: Update) -> Check:
    """Compare the 8-bit graph with the fp32 scores.

    Args:
        name: of the variant.
        split: the lists, of known grades.
        exact: float32 [pairs].
        quantized: float32 [pairs].
        update: has the bound.
    """
    drop = float(ndcg(exact, split).mean() - ndcg(quantized, split).mean())
    tau = float(np.nanmean(agreement(quantized, exact, split.offsets)["tau"]))
    detail = f"{METRIC} of {name} {drop:+.4f} below fp32, at most {update.max_int8_drop:g}; tau {tau:.3f}"
    bound = update.max_int8_drop
    return Check.of_lists(INT8, drop <= bound, drop, bound, detail, len(split.offsets) - 1)


def ndcg(scores: Float32, split: Split) -> Float64:
    """Return nDCG@10 of each list, float64 [lists]."""
    found: Float64 = ranking_metrics(scores, split.grade, split.offsets)[METRIC]
    return found


def ranked(scores: Float32, split: Split) -> Float64:
    """Return nDCG@10 of the lists whose grades differ, float64 [such lists]."""
    differ = [len(set(split.grade[a:b].tolist())) > 1 for a, b in zip(split.offsets, split.offsets[1:], strict=False)]
    found: Float64 = ndcg(scores, split)[np.array(differ, dtype=bool)]
    return found


def refusals(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that keep an update from being published."""
    return [check for check in checks if not check.ok]


def as_table(checks: Sequence[Check]) -> Mapping[str, Any]:
    """Return checks as a manifest tells of them, by name."""
    return {check.name: {k: v for k, v in check.as_dict().items() if k != "name"} for check in checks}
