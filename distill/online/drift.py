"""When the served model has drifted from what its users want: ADWIN over its quality on fresh outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.data.records import Split
from rankdistill.errors import DataError
from rankdistill.export.errors import UserError
from rankdistill.export.extras import require
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.online.events.feedback import Feedback
from rankdistill.options.update import DriftSignal

NDCG, BRIER = "ndcg@10", "brier"
CLOCK = 8  # events between two looks of ADWIN at its window; its own 32 is for streams of thousands a minute
KEPT = 5_000  # values of a model that are stored: ADWIN's window grows for ever, and an older one tells no more
MODELS = 8  # served models that are followed, the latest; older ones have no fresh outcomes

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alarm:
    """A change for the worse.

    Attributes:
        model: key of the served model.
        events: of that model until the alarm, that told something.
        before: mean of the measure over ADWIN's window until the change.
        after: mean since then.
    """

    model: str
    events: int
    before: float
    after: float


class Drift:
    """Follows the quality of each served model; its own successor is not measured by what the model before reached.

    ADWIN (Bifet, Gavalda 2007, "Learning from time-changing data with adaptive windowing", section 2.2) keeps a window
    of values in [0, 1] and drops its older part once two parts of it have different means. It does so bit by bit, so
    after an alarm a model is followed anew from the change on: one change is one alarm. A change for the better only
    shortens the window.

    Args:
        options: the measure and ADWIN's bounds.

    Raises:
        UserError: if river is not installed.
    """

    def __init__(self, options: DriftSignal) -> None:
        require("online", "river")
        self.options = options
        self._followed: dict[str, _Followed] = {}

    def add(self, feedback: Feedback, scores: Array) -> list[Alarm]:
        """Take outcomes in their order; returns the alarms.

        Args:
            feedback: the lists, each by the key of the model that served it.
            scores: float [pairs], that model's raw logits of them, or `shown_scores` for the order it was shown in.

        Raises:
            ValueError: if scores are not [pairs], or one is NaN.
        """
        values = event_values(self.options.measure, scores, feedback.split)
        alarms = []
        for model, value in zip(feedback.model, values.tolist(), strict=True):
            if math.isnan(value):
                continue
            followed = self._followed.pop(model, None) or _Followed(self.options)
            self._followed[model] = followed  # the latest is last
            if (means := followed.add(value)) is not None:
                alarms.append(Alarm(model, followed.events, *means))
        for model in list(self._followed)[:-MODELS]:
            del self._followed[model]
        return alarms

    def means(self) -> dict[str, float]:
        """Return each followed model's mean over ADWIN's window."""
        return {model: followed.mean for model, followed in self._followed.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return what has to be stored to follow on later, as JSON can hold it."""
        followed = {
            model: {"events": each.events, "values": each.values[-KEPT:]} for model, each in self._followed.items()
        }
        return {"measure": self.options.measure, "models": followed}

    @classmethod
    def from_dict(cls, options: DriftSignal, values: Mapping[str, Any]) -> Drift:
        """Return a follower that goes on where `as_dict` was taken.

        Raises:
            UserError: if river is not installed, or the values are of another measure or none.
        """
        drift = cls(options)
        try:
            if values["measure"] != options.measure:
                raise UserError(f"drift.measure={options.measure}: what was stored is {values['measure']}; begin anew")
            for model, stored in values["models"].items():
                drift._followed[model] = _Followed(options)
                for value in stored["values"]:
                    drift._followed[model].add(float(value))
                drift._followed[model].events = int(stored["events"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"no stored state of a drift signal ({error!r})") from error
        return drift


class _Followed:
    """One model's detector, and the values in its window."""

    def __init__(self, options: DriftSignal) -> None:
        self._options = options
        self.events = 0
        self.values: list[float] = []
        self._begin([])

    @property
    def mean(self) -> float:
        return float(self._adwin.estimation)

    def add(self, value: float) -> tuple[float, float] | None:
        """Take a value; returns the means before and after a change for the worse, from which on it begins anew."""
        self.events += 1
        self.values.append(value)
        if len(self.values) > 2 * KEPT:
            self.values = self.values[-KEPT:]
        self._adwin.update(value)
        if not self._adwin.drift_detected:
            return None
        cut = _change_point(self.values)
        before, after = float(np.mean(self.values[:cut])), float(np.mean(self.values[cut:]))
        if (after < before) == (self._options.measure == BRIER):  # for the better
            self.values = self.values[-int(self._adwin.width) :]
            return None
        self._begin(self.values[cut:])
        return before, after

    def _begin(self, values: list[float]) -> None:
        from river.drift import ADWIN

        self._adwin = ADWIN(delta=self._options.delta, clock=CLOCK, grace_period=self._options.grace)
        self.values = values
        for value in values:
            self._adwin.update(value)


def _change_point(values: list[float]) -> int:
    """Return where the second of two parts with different means most likely begins (Hinkley 1970, equal variances)."""
    sums = np.cumsum(np.asarray(values) - np.mean(values))[:-1]
    first = np.arange(1, len(values))
    return int(np.argmax(sums**2 / (first * (len(values) - first)))) + 1


def event_values(measure: str, scores: Array, split: Split) -> Float64:
    """Return each list's quality, float64 [lists] in [0, 1], by its told outcomes alone; NaN where they tell nothing.

    - ndcg@10: `rankdistill.export.measure.quality.ranking_metrics`; NaN without two grades to tell apart.
    - brier: mean of (sigmoid(score) - [grade > 0])^2 (Brier 1950); NaN without an outcome.

    Args:
        measure: one of these names.
        scores: float [pairs], raw logits.
        split: the lists.

    Raises:
        ValueError: if scores are not [pairs], or one that counts is NaN.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != split.grade.shape:
        raise ValueError(f"scores must be [{split.pairs}], one for each pair; got {scores.shape}")
    known = split.grade >= 0
    told = np.r_[0, np.cumsum(known)][split.offsets]
    grades, scores = split.grade[known], scores[known]
    lists = np.repeat(np.arange(len(split.query)), np.diff(told))
    size = np.bincount(lists, minlength=len(split.query))
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    if measure == BRIER:
        chance = 0.5 * (1 + np.tanh(scores / 2))  # the logistic function without overflow
        error = np.bincount(lists, (chance - (grades > 0)) ** 2, minlength=len(size))
        return np.where(size > 0, error / np.maximum(size, 1), np.nan)
    highest, lowest = np.full(len(size), -1), np.full(len(size), np.iinfo(np.int64).max)
    np.maximum.at(highest, lists, grades)
    np.minimum.at(lowest, lists, grades)
    return np.where(highest > lowest, ranking_metrics(scores, grades, told)[NDCG], np.nan)


def shown_scores(feedback: Feedback) -> Float64:
    """Return scores float64 [pairs] of the order in which items were shown: 1 / position.

    Raises:
        DataError: if a position is not logged.
    """
    if (feedback.position == 0).any():
        missing = int((feedback.position == 0).sum())
        raise DataError(f"{missing} of {len(feedback.position)} items shown have no position; score them by the model")
    return 1.0 / feedback.position
