"""What is kept of a finished run, small enough to be kept for good, and what several of them say together."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel, wilcoxon

from rankdistill.export.files import write_atomic
from rankdistill.export.gate.estimates import LEADS
from rankdistill.export.graphs.graph_files import STATES
from rankdistill.export.measure.intervals import difference_interval, ratio_interval
from rankdistill.export.report import evaluation

HOW = {"confidence": 0.95, "resamples": 10000, "seed": 0}
MAIN = "ndcg@10"
KEPT = (MAIN, "tau")
DIGITS = 4  # of a CPU millisecond
LIBRARIES = ("rankdistill", "torch", "transformers", "onnxruntime")
BASELINES = ("bm25", "popularity", "embedding")

Record = dict[str, Any]


def record(run: Path, arguments: Sequence[str]) -> Record:
    """Return what the summary needs of a run: each query's quality and CPU time, the student's size, data and machine.

    Args:
        run: a finished run's folder.
        arguments: of `distill`, without the data's folder.
    """
    content = evaluation.read(run / "evaluation.json.gz")
    tradeoff = json.loads((run / "tradeoff.json").read_text(encoding="utf-8"))
    served = _served(content["models"])
    models = []
    for row in content["models"]:
        if row["model"] == "student" and served == STATES != row["engine"]:
            continue  # the whole graph is not how a split student is served
        kept = {key: row[key] for key in ("model", "engine", "precision")}
        kept["quality"] = {name: row["quality"][name] for name in KEPT}
        if "cpu_ms" in row:  # the median of each query's samples
            kept["cpu_ms"] = np.median(np.array(row["cpu_ms"]), axis=0).round(DIGITS).tolist()
        models.append(kept)
    students = {
        row["precision"]: {name: row[name] for name in ("size_mb", "params")}
        for row in tradeoff["rows"]
        if row["model"] == "student" and row["engine"] == served
    }
    return {
        "arguments": [*arguments],
        "fingerprint": tradeoff["fingerprint"],
        "models": models,
        "students": students,
        "host": tradeoff["host"],
        "versions": {name: tradeoff["versions"][name] for name in LIBRARIES},
    }


def _served(models: Sequence[Mapping[str, Any]]) -> str:
    """Return the engine that a student is judged with: a split one's with items' states computed before."""
    return STATES if any(row["engine"] == STATES for row in models) else "onnxruntime"


def write(path: Path, content: Record) -> None:
    """Write a record; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, gzip.compress((json.dumps(content) + "\n").encode(), compresslevel=9, mtime=0))


def read(path: Path, arguments: Sequence[str]) -> Record | None:
    """Return the record of a run with these arguments in any order; None if there is none, or it tells no data."""
    if not path.is_file():
        return None
    content: Record = json.loads(gzip.decompress(path.read_bytes()))
    same = sorted(content["arguments"]) == sorted(arguments)
    return content if same and "fingerprint" in content else None


def differing(runs: Mapping[str, Record]) -> str | None:
    """Return in what the runs of one fold differ that are to be judged together; None if in nothing."""
    first, *others = runs
    for field in ("fingerprint", "versions"):
        for name in others:
            if runs[name][field] != runs[first][field]:
                return f"{field}: {first} has {runs[first][field]}, {name} {runs[name][field]}"
    teachers = {name: values([each], "teacher", "fp32") for name, each in runs.items()}
    for name in others:
        if not np.array_equal(teachers[name], teachers[first], equal_nan=True):
            return f"the teacher: that of {name} is not that of {first}"
    return None


def values(records: Sequence[Record], model: str, precision: str | None, field: str = MAIN) -> np.ndarray | None:
    """Return a model's values of all folds' queries together, float64 [queries]; None if it was not measured."""
    parts = []
    for each in records:
        rows = [row for row in each["models"] if row["model"] == model and row["precision"] in (precision, None)]
        if not rows:
            return None
        parts.append(np.array(rows[-1]["quality"][field], dtype=np.float64))
    return np.concatenate(parts)


def cpu(records: Sequence[Record], model: str, engine: str, precision: str) -> np.ndarray:
    """Return the CPU milliseconds of the timed queries, the median of each one's samples, float64 [queries]."""
    key = (model, engine, precision)
    rows = [
        next(row for row in each["models"] if (row["model"], row["engine"], row["precision"]) == key)
        for each in records
    ]
    return np.concatenate([row["cpu_ms"] for row in rows])


def judge(records: Sequence[Record], precision: str) -> dict[str, Any]:
    """Return what a student keeps of its teacher, with intervals, and how much cheaper it is."""
    own, teacher = values(records, "student", precision), values(records, "teacher", "fp32")
    baselines = {each: found for each in BASELINES if (found := values(records, each, "fp32")) is not None}
    simple = baselines.get("popularity", baselines.get("bm25"))
    theirs = cpu(records, "teacher", "pytorch", "fp32")
    ours = cpu(records, "student", _served(records[0]["models"]), precision)
    assert own is not None
    assert teacher is not None
    assert simple is not None
    return {
        MAIN: float(np.nanmean(own)),
        "retention": float(np.nanmean(own) / np.nanmean(teacher)),
        "retention_ci": ratio_interval(own, teacher, **HOW),
        "lift_kept": float(np.nanmean(own - simple) / np.nanmean(teacher - simple)),
        "lift_kept_ci": ratio_interval(own - simple, teacher - simple, **HOW, **LEADS),
        "above": {name: compare(own, each) for name, each in baselines.items()},
        "tau": float(np.nanmean(values(records, "student", precision, "tau"))),
        "speedup": float(theirs.mean() / ours.mean()),
        "speedup_ci": ratio_interval(theirs, ours, **HOW, worst=None, best=None),
        **records[0]["students"][precision],
    }


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Return the paired difference of two models, its interval, and p of the t-test and of Wilcoxon's test."""
    known = ~np.isnan(one) & ~np.isnan(other)
    return {
        "difference": float((one - other)[known].mean()),
        "interval": difference_interval(one, other, **HOW),
        "p_t": float(ttest_rel(one[known], other[known]).pvalue),
        "p_wilcoxon": float(wilcoxon(one[known], other[known]).pvalue) if (one != other)[known].any() else 1.0,
    }
