"""Estimates from what a bundle recorded query by query: quality always, latency where the run itself is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.gate.budget import METRICS
from rankdistill.export.gate.decision import FAIL, INCONCLUSIVE, Estimate, Missing
from rankdistill.export.measure.intervals import LEAST_QUERIES, difference_interval, mean_interval, ratio_interval
from rankdistill.export.measure.paired_timing import quantile_interval
from rankdistill.export.measure.quality import same_values
from rankdistill.export.report.recommendation import CHANCE, STUDENT, TEACHER, Recommendation, is_baseline, recommend
from rankdistill.export.report.tradeoff import Bootstrap, compare

RESAMPLES, SEED = 10_000, 0
MAIN, FP32 = "ndcg@10", "fp32"
PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
MORE_QUERIES = "more test queries are needed"
# the worst and the best query for a share of a lead: the teacher does as the baseline, the student loses or wins all
LEADS: Mapping[str, tuple[float, float]] = {"worst": (-1.0, 0.0), "best": (1.0, 0.0)}

Float64 = npt.NDArray[np.float64]
Found = dict[str, Estimate | Missing]
Content = Mapping[str, Any]  # of evaluation.json.gz


def quality_estimates(
    content: Content,
    precision: str,
    names: Sequence[str],
    confidence: float,
    baseline: tuple[Content, str] | Missing | None,
) -> Found:
    """Return estimates of quality metrics of the student's graph of that precision.

    Args:
        content: what the bundle recorded.
        precision: "fp32" or "int8".
        names: of the metrics that are wanted.
        confidence: of the intervals.
        baseline: what the baseline bundle recorded and the precision of the graph that it serves, or why that cannot be
            compared with; None without one.
    """
    own = _values(content, "student", precision)
    if own is None:
        return {name: Missing(f"the bundle has no per-query values of {precision}") for name in names}
    found: Found = {}
    for name in names:
        if name == "quality_difference":
            found[name] = _difference(content, own, confidence, baseline)
        elif name in ("retention", "lift_kept"):
            found[name] = _relative(name, content, own, confidence)
        else:
            ends = {"low": METRICS[name].low, "high": METRICS[name].high}
            interval = mean_interval(own[name], confidence=confidence, resamples=RESAMPLES, seed=SEED, **ends)
            found[name] = _of_queries(float(np.nanmean(own[name])), interval, own[name])
    return found


def latency_estimates(content: Content, precision: str, confidence: float) -> Found:
    """Return estimates of the student's latency from the samples of the run that made the bundle.

    Args:
        content: what the bundle recorded.
        precision: "fp32" or "int8".
        confidence: of the intervals.
    """
    own = _model(content, "student", precision)
    if own is None or "wall_ms" not in own:
        return {}
    wall, cpu = (np.array(own[name], dtype=np.float64) for name in ("wall_ms", "cpu_ms"))
    found: Found = {}
    for name, share in PERCENTILES.items():
        found[name] = _of_queries(float(np.quantile(wall, share)), _widest(wall, share, confidence), wall[0])
    medians = np.median(cpu, axis=0)
    interval = quantile_interval(medians, 0.5, confidence)
    found["cpu_ms_per_query"] = _of_queries(float(np.median(medians)), interval, medians)
    teacher = _model(content, "teacher", "fp32", "onnxruntime")
    if teacher is not None and "cpu_ms" in teacher:
        theirs = np.median(np.array(teacher["cpu_ms"], dtype=np.float64), axis=0)
        interval = ratio_interval(
            theirs, medians, confidence=confidence, resamples=RESAMPLES, seed=SEED, worst=None, best=None
        )
        found["cpu_speedup_vs_teacher_onnx"] = _of_queries(float(theirs.mean() / medians.mean()), interval, medians)
    return found


def recommendation(content: Content, precision: str, confidence: float) -> Recommendation:
    """Decide what a run came to from what its bundle recorded.

    Args:
        content: what the bundle recorded.
        precision: of the student's graph that is judged; the last served one where that has no values.
        confidence: of the intervals.
    """
    how = Bootstrap(confidence, RESAMPLES, SEED)
    models = {STUDENT: _served(content, precision), TEACHER: _model(content, TEACHER, FP32, "pytorch")}
    models[TEACHER] = models[TEACHER] or _model(content, TEACHER, FP32)
    judged = {name: row for name, row in models.items() if row is not None}
    baselines = [row for row in content["models"] if is_baseline(row)]
    values = {id(row): _row_values(row)[MAIN] for row in (*judged.values(), *baselines)}
    comparisons = [
        compare(
            f"{name} {row['precision']}" if name == STUDENT else name,
            values[id(row)],
            base["model"],
            values[id(base)],
            how,
        )
        for name, row in judged.items()
        for base in baselines
    ]
    return recommend([_summed(row) for row in (*judged.values(), *baselines)], comparisons, len(content["queries"]))


def _served(content: Content, precision: str) -> Content | None:
    rows = [_model(content, STUDENT, precision, "onnxruntime"), _model(content, STUDENT, precision)]
    rows += [row for row in reversed(content["models"]) if (row["model"], row["engine"]) == (STUDENT, "onnxruntime")]
    return next((row for row in rows if row is not None), None)


def _summed(row: Content) -> Content:
    """Return what a verdict needs of a model: its mean, and in how many lists all candidates have one score."""
    values = _row_values(row)
    made = {name: row[name] for name in ("model", "engine", "precision")} | {MAIN: float(np.nanmean(values[MAIN]))}
    if "tau" in values and "pair_accuracy" in values:
        told = ~np.isnan(values["pair_accuracy"])
        alike = np.isnan(values["tau"]) & (values["pair_accuracy"] == CHANCE)
        made["tied"] = float(alike[told].mean()) if told.any() else math.nan
    return made


def _widest(samples: Float64, share: float, confidence: float) -> tuple[float, float]:
    """Return an interval of a quantile of samples [samples, queries] that holds the interval of each row.

    A query's further samples are no further queries: taken as such they would make the interval far too narrow.
    """
    low, high = zip(*(quantile_interval(row, share, confidence) for row in samples), strict=True)
    return min(low), max(high)


def _relative(name: str, content: Content, own: Mapping[str, Float64], confidence: float) -> Estimate | Missing:
    teacher = _values(content, "teacher", "fp32")
    if teacher is None:
        return Missing("the bundle has no per-query values of the teacher")
    above, all_ = own[MAIN], teacher[MAIN]
    if name == "retention":
        above = all_ if same_values(own, teacher) else above
        interval = ratio_interval(above, all_, confidence=confidence, resamples=RESAMPLES, seed=SEED)
    else:
        simple = {row["model"]: _row_values(row)[MAIN] for row in content["models"] if is_baseline(row)}
        if not simple:
            return Missing("no baseline was measured (popularity, BM25, embedding)")
        best = max(simple, key=lambda model: float(np.nanmean(simple[model])))
        if (unsure := _unsure_lead(all_, simple[best], best, confidence)) is not None:
            return unsure
        above, all_ = above - simple[best], all_ - simple[best]
        interval = ratio_interval(above, all_, confidence=confidence, resamples=RESAMPLES, seed=SEED, **LEADS)
    return _of_queries(float(np.nanmean(above) / np.nanmean(all_)), interval, above)


def _unsure_lead(teacher: Float64, simple: Float64, name: str, confidence: float) -> Missing | None:
    """Return what a bound on a share of the teacher's lead over a baseline comes to where that lead is not sure.

    A share of a lead that may be none says nothing. A teacher that is surely behind fails: there is no lead to keep.
    """
    low, high = difference_interval(teacher, simple, confidence=confidence, resamples=RESAMPLES, seed=SEED)
    queries = int((~np.isnan(teacher - simple)).sum())
    if low > 0:
        return None
    lead = f"{MAIN} {np.nanmean(teacher - simple):+.3f} [{low:+.3f}, {high:+.3f}], {queries:,} queries"
    hint = f"train a better teacher, take more test queries, or bound {MAIN} instead"
    if high < 0 and queries >= LEAST_QUERIES:
        return Missing(f"the teacher is surely below {name} ({lead}): it has no lead to keep; {hint}", FAIL)
    few = f"; at least {LEAST_QUERIES} are needed" if queries < LEAST_QUERIES else ""
    return Missing(f"the teacher has no sure lead over {name} ({lead}{few}); {hint}", INCONCLUSIVE)


def _difference(
    content: Content,
    own: Mapping[str, Float64],
    confidence: float,
    baseline: tuple[Content, str] | Missing | None,
) -> Estimate | Missing:
    if baseline is None:
        return Missing("it needs --baseline BUNDLE")
    if isinstance(baseline, Missing):
        return baseline
    recorded, precision = baseline
    for field, what in (("fingerprint", "data"), ("split", "split"), ("queries", "queries")):
        if recorded.get(field) != content.get(field):
            return Missing(f"the baseline was measured on other {what}")
    theirs = _values(recorded, "student", precision)
    if theirs is None:
        return Missing(f"the baseline has no per-query values of {precision}")
    a, b = own[MAIN], own[MAIN] if same_values(own, theirs) else theirs[MAIN]
    interval = difference_interval(a, b, confidence=confidence, resamples=RESAMPLES, seed=SEED)
    return _of_queries(float(np.nanmean(a - b)), interval, a)


def _model(content: Content, model: str, precision: str | None, engine: str | None = None) -> Content | None:
    """Return the last row of a model with that precision, and that engine if one is named."""
    rows = [row for row in content["models"] if (row["model"], row["precision"]) == (model, precision)]
    rows = [row for row in rows if engine in (None, row["engine"])]
    return rows[-1] if rows else None


def _values(content: Content, model: str, precision: str | None) -> dict[str, Float64] | None:
    row = _model(content, model, precision)
    return None if row is None else _row_values(row)


def _row_values(row: Content) -> dict[str, Float64]:
    return {name: np.array(values, dtype=np.float64) for name, values in row["quality"].items()}


def _of_queries(value: float, interval: tuple[float, float], values: Float64) -> Estimate:
    known = int((~np.isnan(values)).sum())
    return Estimate(value if known else math.nan, *interval, samples=known, unit="queries", limit=MORE_QUERIES)
