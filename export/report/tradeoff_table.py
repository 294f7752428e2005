"""The trade-off in words and as a table for the terminal, and how its values are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rankdistill.export.graphs.graph_files import STATES
from rankdistill.export.report.recommendation import NOT_RECOMMENDED, RECOMMENDED, recommendation_of

NOTHING = "–"
STYLES = {RECOMMENDED: "bold green", NOT_RECOMMENDED: "bold red"}  # of a verdict; of one not shown: bold yellow
UNBOUNDED = 1000  # columns, more than any table needs: what its own width is measured with

Row = Mapping[str, Any]


def significant(value: float, digits: int = 3) -> str:
    """Write a value with three significant digits (or `digits`) and no exponent."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


KINDS: Mapping[str, Callable[[float], str]] = {
    "score": lambda value: f"{value:.3f}",
    "difference": lambda value: f"{value:+.3f}".replace("-", "−"),
    "exact": lambda value: f"{value:.4f}",
    "small": lambda value: f"{value:+.4f}".replace("-", "−"),
    "percent": lambda value: f"{100 * value:.1f}%",
    "share": lambda value: f"{100 * value:g}%",
    "hundredths": lambda value: f"{100 * value:.1f}",
    "amount": significant,
    "times": lambda value: f"{significant(value)}×",
    "count": lambda value: f"{value:,.0f}",
    "millions": lambda value: f"{significant(value / 1e6)} M",
    "rounding": lambda value: f"{value:.1e}".replace("-", "−"),
}
INTERVAL_KINDS = {"percent": "hundredths", "times": "amount"}  # a unit stands once, at the value


def shown(value: float | None, kind: str) -> str:
    """Write a value as its kind (see `KINDS`) is written; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return KINDS[kind](value)


def shown_interval(interval: tuple[float, float] | list[float] | None, kind: str) -> str:
    """Write an interval as [low, high]; nothing for None."""
    if interval is None:
        return ""
    low, high = (shown(bound, INTERVAL_KINDS.get(kind, kind)) for bound in interval)
    return f"[{low}, {high}]"


def name(row: Row) -> str:
    """Return a row's model, engine and precision in one."""
    return " ".join(str(part) for part in (row["model"], row.get("engine"), row.get("precision")) if part)


def headline(tradeoff: Mapping[str, Any]) -> Row | None:
    """Return the row that the page is about: the last one of the student, None without a student."""
    students = [row for row in tradeoff["rows"] if row["model"] == "student"]
    return students[-1] if students else None


def finding(tradeoff: Mapping[str, Any]) -> str:
    """Return in plain words what the student keeps and saves."""
    row = headline(tradeoff)
    if row is None:
        return "No student was measured."
    said = f"{name(row)} keeps {_with_interval(row, 'retention', 'percent')} of the teacher's nDCG@10"
    speedup = row.get("speedup")
    if speedup is None:
        return f"{said}; its speed was not measured."
    if speedup < 1:  # the factor the other way round, and its interval's ends with it
        slower = {
            "factor": 1 / speedup,
            "factor_ci": [1 / end for end in reversed(row.get("speedup_ci") or [])] or None,
        }
        return f"{said} but takes {_with_interval(slower, 'factor', 'times')} the CPU time of the teacher in PyTorch."
    return f"{said} with {_with_interval(row, 'speedup', 'times')} less CPU time per query than the teacher in PyTorch."


def same_form(tradeoff: Mapping[str, Any]) -> Row | None:
    """Return the teacher's row in the headline's engine and precision: what was gained without distilling."""
    row = headline(tradeoff)
    if row is None or (row["engine"], row["precision"]) == ("pytorch", "fp32"):
        return None
    form = ("teacher", row["engine"], row["precision"])
    found = [r for r in tradeoff["rows"] if (r["model"], r["engine"], r["precision"]) == form]
    return found[0] if found and found[0].get("speedup") is not None else None


def tradeoff_table(tradeoff: Mapping[str, Any]) -> Table:
    """Return the trade-off as a table of about 90 columns; where there are only 80, two of them break in two lines.

    Args:
        tradeoff: content of tradeoff.json.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False, header_style="bold")
    for title in ("model", "engine", "precision"):
        table.add_column(title, no_wrap=True)
    table.add_column("nDCG@10 ±", justify="right", min_width=len("nDCG@10"))
    table.add_column("retention", justify="right", no_wrap=True)
    table.add_column("p50 / p95 ms", justify="right", min_width=len("123.4 /"))
    for title in ("CPU-ms", "speed-up", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in tradeoff["rows"]:
        table.add_row(*(Text(cell) for cell in _cells(row)), style="" if row.get("p50_ms") is not None else "dim")
    return table


def print_tradeoff(tradeoff: Mapping[str, Any], console: Console) -> None:
    """Print the verdict, the table, what must not be overlooked, and what it was measured on.

    A console that is no terminal says it has 80 columns; there the table takes the width it needs, so that a log or a
    pipe gets one line a row.

    Args:
        tradeoff: content of tradeoff.json.
        console: where to print.
    """
    verdict = recommendation_of(tradeoff)
    console.print(
        Text(verdict.sentence, style=STYLES.get(verdict.status, "bold yellow")), soft_wrap=not console.is_terminal
    )
    table = tradeoff_table(tradeoff)
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).maximum
    console.print(table, crop=False)
    for warning in tradeoff.get("warnings", ()):
        console.print(Text(f"warning: {warning}", style="bold yellow"), soft_wrap=True)
    console.print(Text(conditions(tradeoff), style="dim"), soft_wrap=True)


def conditions(tradeoff: Mapping[str, Any]) -> str:
    """Return in one line on what quality and latency were measured."""
    latency, host = tradeoff.get("latency") or {}, tradeoff.get("host") or {}
    parts = [
        f"{tradeoff['dataset']}, {tradeoff['split']} split: {shown(tradeoff['queries'], 'count')} queries, "
        f"{shown(tradeoff['pairs'], 'count')} pairs; intervals {shown(tradeoff['confidence'], 'share')}",
    ]
    if latency:
        parts.append(
            f"time per query over {shown(latency.get('queries'), 'count')} queries, {latency.get('threads', NOTHING)} "
            f"threads; speed-up in CPU time over the teacher in PyTorch"
        )
    if any(row.get("engine") == STATES for row in tradeoff["rows"]):
        parts.append(f"{STATES}: onnxruntime, with items' states computed before")
    if tradeoff.get("inputs"):
        read = (f"{model} {shown(of['tokens'], 'amount')} ({of['items']})" for model, of in tradeoff["inputs"].items())
        parts.append(f"tokens a pair: {', '.join(read)}")
    if host.get("processor"):
        parts.append(f"{host['processor']}, {host.get('cores', NOTHING)} cores")
    return "; ".join(parts)


def _with_interval(row: Row, field: str, kind: str) -> str:
    return f"{shown(row.get(field), kind)} {shown_interval(row.get(f'{field}_ci'), kind)}".rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    score = shown(row.get("ndcg@10"), "score")
    if row.get("ndcg@10_ci") is not None:
        low, high = row["ndcg@10_ci"]
        score += f" ±{shown((high - low) / 2, 'score')}"
    times = [shown(row.get(field), "amount") for field in ("p50_ms", "p95_ms")]
    return (
        row["model"],
        row.get("engine") or NOTHING,
        row.get("precision") or NOTHING,
        score,
        shown(row.get("retention"), "percent"),
        NOTHING if times == [NOTHING, NOTHING] else " / ".join(times),
        shown(row.get("cpu_ms_per_query"), "amount"),
        shown(row.get("speedup"), "times"),
        shown(row.get("size_mb"), "amount"),
    )
