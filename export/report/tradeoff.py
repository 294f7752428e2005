"""The trade-off: one row a model with quality, agreement, speed and size, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.measure.latency import Latency
from rankdistill.export.measure.quality import (
    METRICS,
    agreement,
    difference_interval,
    mean_interval,
    ranking_metrics,
    ratio_interval,
    same_values,
)
from rankdistill.export.report.recommendation import Recommendation, is_baseline
from rankdistill.export.runtime.scorer import Float32

FORMAT = 1
MAIN = "ndcg@10"

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A model with everything measured of it.

    Attributes:
        model: teacher, student, popularity, bm25 or embedding.
        engine: pytorch, onnxruntime, openvino or states; None for a baseline without one.
        precision: fp32, bf16, int8 or weight8; None for a baseline without one.
        scores: float32 [pairs] on the split.
        latency: samples; None for a baseline, and where nothing was timed.
        size_mb: of the file with the weights, 10^6 bytes.
        params: number of parameters.
    """

    model: str
    engine: str | None
    precision: str | None
    scores: Float32
    latency: Latency | None = None
    size_mb: float | None = None
    params: int | None = None


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: share covered, how often the queries are weighed anew, seed."""

    confidence: float
    resamples: int
    seed: int

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the interval functions."""
        return {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}


def tradeoff_rows(
    candidates: Sequence[Candidate],
    grades: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    relevant: int,
    bootstrap: Bootstrap,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the table's rows, and what the teacher and the student that is served differ by from each baseline.

    Args:
        candidates: the first is the teacher in PyTorch, the measure of all others.
        grades: int32 [pairs].
        offsets: int64 [queries + 1].
        relevant: least grade that is relevant in MRR and MAP.
        bootstrap: how intervals are made.
    """
    teacher = candidates[0]
    quality = [ranking_metrics(c.scores, grades, offsets, relevant) for c in candidates]
    rows = []
    for candidate, values in zip(candidates, quality, strict=True):
        row: dict[str, Any] = {"model": candidate.model, "engine": candidate.engine, "precision": candidate.precision}
        row |= _quality_fields(values, quality[0], bootstrap)
        row |= {name: _mean(v) for name, v in agreement(candidate.scores, teacher.scores, offsets).items()}
        row["tied"] = tied_share(candidate.scores, grades, offsets)
        row |= _speed_fields(candidate.latency, teacher.latency, bootstrap)
        row |= {"size_mb": candidate.size_mb, "params": candidate.params}
        row["peak_rss_mb"] = candidate.latency.peak_rss_mb if candidate.latency else None
        rows.append(row)
    measured = list(zip(candidates, quality, strict=True))
    judged = [("teacher", quality[0])]
    served = [(f"student {c.precision}", v) for c, v in measured if _is_served(c.model, c.engine)]
    comparisons = [
        compare(name, own[MAIN], c.model, values[MAIN], bootstrap)
        for name, own in [*judged, *served[-1:]]
        for c, values in measured
        if is_baseline({"model": c.model})
    ]
    return rows, comparisons


def warnings_of(
    comparisons: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], said: Recommendation | None = None
) -> list[str]:
    """Return what a reader must not overlook: a teacher, or the student that is served, no better than a baseline.

    Args:
        comparisons: of the table.
        rows: of the table.
        said: the verdict, which stands before all warnings; what it tells of is not told again.
    """
    score = {row["model"]: row[MAIN] for row in reversed(rows)}
    score |= {f"student {row['precision']}": row[MAIN] for row in rows if _is_served(row["model"], row["engine"])}
    found = []
    for comparison in comparisons:
        low, high = comparison["interval"]
        name, _, baseline = comparison["name"].partition(" - ")
        if low > 0 or (said is not None and said.says(comparison)):
            continue
        verdict = "below" if comparison["difference"] < 0 else "not surely above"
        found.append(
            f"{name} {verdict} {baseline}: nDCG@10 {score[name]:.3f} against {score[baseline]:.3f}, difference "
            f"{comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    return found


def compare(name: str, values: Float64, other: str, other_values: Float64, how: Bootstrap) -> dict[str, Any]:
    """Return a model's difference to a baseline in nDCG@10, with its interval.

    Args:
        name: of the model, "teacher" or "student int8".
        values: float64 [queries] of it.
        other: name of the baseline.
        other_values: float64 [queries], of the same queries.
        how: how the interval is made.
    """
    return {
        "name": f"{name} - {other}",
        "metric": MAIN,
        "difference": _mean(values - other_values),
        "interval": list(difference_interval(values, other_values, **how.options())),
    }


def tied_share(scores: npt.NDArray[Any], grades: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> float:
    """Return the share of the lists in which all candidates have one score, of those whose grades differ.

    Args:
        scores: float [pairs].
        grades: int32 [pairs].
        offsets: int64 [queries + 1].
    """
    lists = [slice(start, stop) for start, stop in itertools.pairwise(offsets.tolist())]
    told = [scores[rows].min() == scores[rows].max() for rows in lists if len(set(grades[rows].tolist())) > 1]
    return float(np.mean(told)) if told else math.nan


def finite(value: Any) -> Any:
    """Return JSON values with None in place of every NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quality_fields(values: Mapping[str, Float64], teacher: Mapping[str, Float64], how: Bootstrap) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for metric in METRICS:
        fields[metric] = _mean(values[metric])
        fields[f"{metric}_ci"] = list(mean_interval(values[metric], **how.options()))
    fields["retention"] = _ratio(_mean(values[MAIN]), _mean(teacher[MAIN]))
    own = teacher[MAIN] if same_values(values, teacher) else values[MAIN]  # the teacher in another engine
    fields["retention_ci"] = list(ratio_interval(own, teacher[MAIN], **how.options()))
    return fields


def _speed_fields(latency: Latency | None, teacher: Latency | None, how: Bootstrap) -> dict[str, Any]:
    """Speed-ups compare medians over a query's samples, so that one interrupted sample does not count."""
    names = ("p50_ms", "p95_ms", "p99_ms", "pairs_per_s", "cpu_ms_per_query", "speedup", "speedup_ci", "speedup_wall")
    if latency is None or teacher is None:
        return dict.fromkeys((*names, "speedup_wall_ci"))
    wall, cpu = np.median(latency.wall_ms, axis=0), np.median(latency.cpu_ms, axis=0)
    teacher_wall, teacher_cpu = np.median(teacher.wall_ms, axis=0), np.median(teacher.cpu_ms, axis=0)
    p50, p95, p99 = (float(p) for p in np.percentile(latency.wall_ms, (50, 95, 99)))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "pairs_per_s": float(latency.pairs.sum() / wall.sum() * 1e3),
        "cpu_ms_per_query": _mean(cpu),
        "speedup": _ratio(_mean(teacher_cpu), _mean(cpu)),
        "speedup_ci": list(_times_ratio(teacher_cpu, cpu, how)),
        "speedup_wall": _ratio(_mean(teacher_wall), _mean(wall)),
        "speedup_wall_ci": list(_times_ratio(teacher_wall, wall, how)),
    }


def _times_ratio(numerator: Float64, denominator: Float64, how: Bootstrap) -> tuple[float, float]:
    """Return the interval of a ratio of times, which have no known end."""
    return ratio_interval(numerator, denominator, **how.options(), worst=None, best=None)


def _is_served(model: str, engine: str | None) -> bool:
    return (model, engine) == ("student", "onnxruntime")


def _mean(values: Float64) -> float:
    """Return the mean of the values that are numbers, NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
