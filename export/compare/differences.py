"""Differences of students of several runs, in pairs over the same queries."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.errors import UserError
from rankdistill.export.gate.estimates import MAIN, RESAMPLES, SEED
from rankdistill.export.measure.intervals import difference_interval
from rankdistill.export.measure.quality import same_values
from rankdistill.export.report import evaluation
from rankdistill.export.report.run_folders import Run
from rankdistill.export.report.tradeoff_table import headline
from rankdistill.export.runtime.manifest import EVALUATION

MOST_RUNS = 20  # above it every two would be hundreds: then only those with two runs are made


@dataclass(frozen=True)
class PerQuery:
    """A run's student query by query.

    Attributes:
        name: of the run.
        data: the data's fingerprint, and its split.
        queries: ids.
        quality: values of every metric, float64 [queries] each.
    """

    name: str
    data: tuple[str, str]
    queries: tuple[str, ...]
    quality: Mapping[str, npt.NDArray[np.float64]]

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Those of nDCG@10."""
        return self.quality[MAIN]


def per_query(run: Run, name: str) -> PerQuery | str:
    """Return the values of a finished run's student query by query, or in words why there are none.

    Args:
        run: a finished one.
        name: what the run is called.
    """
    row = headline(run.tradeoff or {"rows": []})
    if row is None:
        return f"{name} has no student"
    if not (run.folder / EVALUATION).exists():
        return f"{name} has no {EVALUATION}"
    try:
        content = evaluation.read(run.folder / EVALUATION)
        form = ("student", row.get("engine"), row.get("precision"))
        models = [m for m in content["models"] if (m["model"], m["engine"], m["precision"]) == form]
        quality = {name: np.array(values, dtype=np.float64) for name, values in models[-1]["quality"].items()}
        shape = quality[MAIN].shape
        queries = tuple(map(str, content["queries"]))
        fingerprint, split = content.get("fingerprint"), content.get("split")
    except (UserError, ValueError, LookupError, TypeError):
        return f"{name}: {EVALUATION} is damaged"
    if not (isinstance(fingerprint, str) and isinstance(split, str)):
        return f"{name}: {EVALUATION} does not say what data it is of"
    if shape != (len(queries),):
        return f"{name}: {EVALUATION} is damaged"
    return PerQuery(name, (fingerprint, split), queries, quality)


def differences(
    runs: Sequence[tuple[Run, str]], bases: Sequence[str], confidence: float
) -> tuple[list[dict[str, Any]], bool]:
    """Return differences of nDCG@10 between every two runs, or with the bases alone if there are many.

    Args:
        runs: finished ones and their names.
        bases: names of those that the others are compared with if there are more than `MOST_RUNS`.
        confidence: of the intervals, each for itself.

    Returns:
        For two runs a and b: {a, b, difference (a minus b), interval, queries} or {a, b, reason}; and whether it is
        every two.
    """
    names = [name for _, name in runs]
    every = len(runs) <= MOST_RUNS
    if every:
        wanted = list(itertools.combinations(names, 2))
    else:
        wanted = list(dict.fromkeys((name, base) for base in bases for name in names if name != base))
        wanted = [pair for i, pair in enumerate(wanted) if pair[::-1] not in wanted[:i]]
    read = {name: per_query(run, name) for run, name in runs}
    return [{"a": a, "b": b, **_difference(read[a], read[b], confidence)} for a, b in wanted], every


def _difference(a: PerQuery | str, b: PerQuery | str, confidence: float) -> dict[str, Any]:
    if isinstance(a, str) or isinstance(b, str):
        return {"reason": "; ".join(reason for reason in (a, b) if isinstance(reason, str))}
    for one, other, what in zip(a.data, b.data, ("data", "splits"), strict=True):
        if one != other:
            return {"reason": f"measured on different {what}: {one} and {other}"}
    if a.queries != b.queries:
        return {"reason": "measured on different queries"}
    apart = a.values - b.values
    if np.isnan(apart).all():
        return {"reason": "no query has a value in both"}
    theirs = a.values if same_values(a.quality, b.quality) else b.values
    interval = difference_interval(a.values, theirs, confidence=confidence, resamples=RESAMPLES, seed=SEED)
    count = int((~np.isnan(apart)).sum())
    return {"difference": float(np.nanmean(apart)), "interval": list(interval), "queries": count}
