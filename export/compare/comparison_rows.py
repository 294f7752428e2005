"""Many runs side by side: a row each, the fronts, the differences between them, and what limits the comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.compare.caveats import caveats, data_of, host_of, timed_alike, told_data, told_host
from rankdistill.export.compare.differences import differences
from rankdistill.export.compare.overrides import overrides_of, settings_of, shortest_tails, varied
from rankdistill.export.errors import UserError
from rankdistill.export.measure import pareto
from rankdistill.export.report.recommendation import recommendation_of
from rankdistill.export.report.run_folders import FINISHED, REPORT, Run
from rankdistill.export.report.tradeoff import MAIN, finite
from rankdistill.export.report.tradeoff_table import headline

FORMAT = 1
CONFIDENCE = 0.95  # where no run says another
FIELDS = (
    MAIN, "retention", "mrr@10", "map", "pair_accuracy", "tau", "rbo", "overlap@10", "p50_ms", "p95_ms",
    "cpu_ms_per_query", "speedup", "size_mb", "params", "peak_rss_mb",
)  # fmt: skip
WITH_INTERVAL = (MAIN, "retention", "mrr@10", "map", "pair_accuracy", "speedup")
TIME = "cpu_ms_per_query"
COSTS = {  # what less of is better, by the front it makes with nDCG@10
    "latency": (TIME,),
    "size": ("size_mb",),
    "all": (TIME, "size_mb"),
}

Comparison = dict[str, Any]
Row = Mapping[str, Any]


def compare(runs: Sequence[Run], beside: Path, reference: int | None = None) -> Comparison:
    """Put runs side by side.

    Args:
        runs: in the order of the rows; each folder once.
        beside: folder that the reports' paths are relative to.
        reference: index of the run that the others are compared with; the first with a result if it is None.

    Returns:
        What a JSON file can hold:
        - rows: for each run job, status, error, overrides, settings (of what varies), the fields of `FIELDS` with
          their intervals (<field>_ci), the teacher's nDCG@10, recommendation and its sentence (None without a result),
          verdict (the gate's), seconds, host, data, report, and fronts: on which of `COSTS` it is, among the runs that
          were measured on the same data; none with CPU time where their times do not compare.
        - varied: names of what varies. reference: a job; best: the one of highest nDCG@10 on the reference's data.
        - differences, every_two: see `differences.differences`.
        - caveats: sentences. confidence: of the differences' intervals. data, hosts: what the rows' indices mean.
        - times_compare: whether all were timed on one host, with the same threads and queries.

    Raises:
        UserError: if the reference has no result.
    """
    names = _names(runs)
    options = varied(runs)
    rows = [_row(run, name, options, beside) for run, name in zip(runs, names, strict=True)]
    data = _numbered(rows, runs, "data", data_of)
    hosts = _numbered(rows, runs, "host", host_of)
    _mark_fronts(rows, runs)
    usable = [i for i, row in enumerate(rows) if row[MAIN] is not None]
    if reference is not None and reference not in usable:
        raise UserError(f"reference {runs[reference].folder} has no result ({rows[reference]['status']}); take another")
    first = reference if reference is not None else min(usable, default=None)
    base = None if first is None else names[first]
    alike = [i for i in usable if first is not None and rows[i]["data"] == rows[first]["data"]]
    best = max(alike, key=lambda i: rows[i][MAIN], default=None)
    best_name = None if best is None else names[best]
    confidence = next((c for run in runs if (c := _confidence(run)) is not None), CONFIDENCE)
    bases = list(dict.fromkeys(name for name in (best_name, base) if name is not None))
    found, every_two = differences([(runs[i], names[i]) for i in usable], bases, confidence)
    made: Comparison = {
        "format": FORMAT,
        "experiments": sorted({run.experiment for run in runs if run.experiment}),
        "confidence": confidence,
        "varied": options,
        "best": best_name,
        "reference": base,
        "data": [told_data(key) for key in data],
        "hosts": [told_host(key) for key in hosts],
        "times_compare": _times_compare([rows[i] for i in usable], [runs[i] for i in usable]),
        "caveats": caveats([runs[i] for i in usable], options, data, hosts),
        "rows": rows,
        "differences": found,
        "every_two": every_two,
    }
    return dict(finite(made))


def between(comparison: Row, a: str, b: str) -> Row | None:
    """Return the difference of two jobs, a minus b (or the reason that there is none); None if it was not made."""
    for found in comparison["differences"]:
        if (found["a"], found["b"]) == (a, b):
            return dict(found)
        if (found["a"], found["b"]) == (b, a):
            if "reason" in found:
                return {**found, "a": a, "b": b}
            low, high = found["interval"]
            return {
                **found,
                "a": a,
                "b": b,
                "difference": 0.0 - found["difference"],
                "interval": [0.0 - high, 0.0 - low],
            }
    return None


def moved(comparison: Comparison, before: Path, now: Path) -> Comparison:
    """Return a comparison whose reports' paths are relative to another folder."""
    rows = [
        row | {"report": row["report"] and _relative(before / row["report"], now)} for row in comparison["rows"]
    ]  # fmt: skip
    return comparison | {"rows": rows}


def _names(runs: Sequence[Run]) -> list[str]:
    """Return for each run as much of its folder's end as tells it from the others."""
    paths = [run.folder.resolve().parts for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError("a run is given twice; give each once")
    return shortest_tails(paths, "/")


def _row(run: Run, name: str, options: Sequence[str], beside: Path) -> dict[str, Any]:
    tradeoff = run.tradeoff or {}
    student = headline(tradeoff) if tradeoff else None
    row: dict[str, Any] = {
        "job": name,
        "experiment": run.experiment,
        "status": run.status,
        "error": "no student was measured" if tradeoff and student is None else run.error,
        "overrides": overrides_of(run),
        "settings": settings_of(run, options),
        "form": None,
        "split": tradeoff.get("split"),
        "queries": tradeoff.get("queries"),
    }
    if student is not None:
        row["form"] = " ".join(str(student[part]) for part in ("engine", "precision") if student.get(part))
    for field in FIELDS:
        row[field] = _number((student or {}).get(field))
        if field in WITH_INTERVAL:
            row[f"{field}_ci"] = _interval((student or {}).get(f"{field}_ci"))
    teachers = [r for r in tradeoff.get("rows", ()) if r["model"] == "teacher"]
    row[f"teacher_{MAIN}"] = _number(teachers[0].get(MAIN)) if teachers else None
    said = recommendation_of(tradeoff) if student is not None else None
    row |= {"recommendation": said and said.status, "recommendation_sentence": said and said.sentence}
    report = run.folder / REPORT
    row |= {"verdict": run.verdict, "seconds": run.seconds, "started": run.started}
    return row | {"report": _relative(report, beside) if run.status == FINISHED and report.is_file() else None}


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return value if known else None


def _interval(value: Any) -> list[float] | None:
    """Return the two ends of an interval, None unless both are numbers."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    ends = [end for end in map(_number, value) if end is not None]
    return ends if len(ends) == 2 else None


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _mark_fronts(rows: Sequence[dict[str, Any]], runs: Sequence[Run]) -> None:
    """Say of each row on which fronts it is.

    Runs on different data are not held against each other. Where the times of those on the same data do not compare,
    they have no front with CPU time.
    """
    for row in rows:
        row["fronts"] = dict.fromkeys(COSTS, False)
    for data in sorted({row["data"] for row in rows} - {None}):
        members = [i for i, row in enumerate(rows) if row["data"] == data]
        group = [rows[i] for i in members]
        timed = _times_compare(group, [runs[i] for i in members])
        for name, costs in COSTS.items():
            if TIME in costs and not timed:
                continue
            values = np.array([[row[field] for field in (MAIN, *costs)] for row in group], dtype=np.float64)
            for row, on in zip(group, pareto.front(values, [True, *(False for _ in costs)]), strict=True):
                row["fronts"][name] = bool(on)


def _times_compare(rows: Sequence[Row], runs: Sequence[Run]) -> bool:
    """Return whether runs with a result were timed on one host, with the same threads and queries."""
    return len({row["host"] for row in rows}) <= 1 and timed_alike(runs)


def _numbered(
    rows: Sequence[dict[str, Any]], runs: Sequence[Run], field: str, key: Callable[[Row], Hashable]
) -> list[Any]:
    """Give each row with a result the index of what it was measured on; return what the indices mean."""
    keys: list[Hashable] = []
    for row, run in zip(rows, runs, strict=True):
        row[field] = None
        if row[MAIN] is not None:
            found = key(run.tradeoff or {})
            if found not in keys:
                keys.append(found)
            row[field] = keys.index(found)
    return keys


def _confidence(run: Run) -> float | None:
    return _number((run.tradeoff or {}).get("confidence"))
