"""A comparison of runs as a CSV table, and as one HTML file that asks nothing of a network."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rankdistill.export.compare.comparison_figures import parallel, scatter
from rankdistill.export.compare.comparison_rows import COSTS, FIELDS, WITH_INTERVAL, Comparison, between
from rankdistill.export.compare.comparison_table import finding, recommended, shown_setting, verdict_of
from rankdistill.export.compare.overrides import short_names
from rankdistill.export.extras import require
from rankdistill.export.files import write_atomic
from rankdistill.export.report.templates import render
from rankdistill.export.report.tradeoff import MAIN
from rankdistill.export.report.tradeoff_table import shown, shown_interval

TEMPLATE = "comparison.html.j2"
ABOUT, AFTER = ("job", "experiment", "status", "error", "recommendation"), ("verdict", "seconds", "started", "report")
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

Row = Mapping[str, Any]


def write_csv(comparison: Row, path: Path) -> None:
    """Write a row a run: what it is, its values of what varies, what was measured with intervals, its fronts.

    Args:
        comparison: see `comparison.compare`.
        path: of the file, UTF-8; what a run does not have is empty.
    """
    columns: dict[str, Any] = {name: lambda row, name=name: row[name] for name in ABOUT}
    for name in comparison["varied"]:
        columns.setdefault(name, lambda row, name=name: row["settings"][name])
    for name in ("form", "split", "queries"):
        columns[name] = lambda row, name=name: row[name]
    for name in FIELDS:
        columns[name] = lambda row, name=name: row[name]
        if name in WITH_INTERVAL:
            for end, which in enumerate(("low", "high")):
                columns[f"{name}_{which}"] = lambda row, name=name, end=end: (row[f"{name}_ci"] or [None, None])[end]
    for name in COSTS:
        columns[f"front_{name}"] = lambda row, name=name: row["fronts"][name]
    columns["host"] = lambda row: None if row["host"] is None else comparison["hosts"][row["host"]]
    for name in AFTER:
        columns[name] = lambda row, name=name: row[name]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in comparison["rows"]:
        writer.writerow(_cell(value(row)) for value in columns.values())
    write_atomic(path, file.getvalue().encode("utf-8", "backslashreplace"))


def write_json(comparison: Comparison, path: Path) -> None:
    """Write the comparison as it is."""
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_page(comparison: Row, path: Path) -> None:
    """Write the page; the same comparison gives the same bytes.

    Args:
        comparison: see `comparison.compare`; its reports' paths are relative to the page's folder.
        path: of the page.

    Raises:
        UserError: if plotly or jinja2 is not installed.
    """
    require("sweep", "plotly")
    require("train", "jinja2")
    write_atomic(path, _render(comparison).encode("utf-8", "backslashreplace"))


def _render(comparison: Row) -> str:
    from plotly.offline import get_plotlyjs

    filters: dict[str, Callable[..., Any]] = {
        "shown": shown,
        "interval": shown_interval,
        "setting": shown_setting,
        "href": _href,
    }
    figures = {"latency": scatter(comparison, "latency"), "size": scatter(comparison, "size")}
    figures |= {"parallel": parallel(comparison)}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    usable = [row for row in comparison["rows"] if row[MAIN] is not None]
    return render(
        "rankdistill.export.compare",
        TEMPLATE,
        filters,
        c=comparison,
        title=f"{', '.join(comparison['experiments']) or 'runs'}: {_count(len(comparison['rows']), 'run')} compared",
        finding=finding(comparison),
        figures=drawn,
        figures_json=_script_json(drawn),
        comparison_json=_script_json(comparison),
        plotlyjs=get_plotlyjs() if drawn else "",
        short=short_names(comparison["varied"]),
        usable=usable,
        without=[row for row in comparison["rows"] if row[MAIN] is None],
        ranked=sorted(usable, key=lambda row: -row[MAIN]),
        bases=_bases(comparison),
        between=lambda a, b: between(comparison, a, b),
        verdict_of=verdict_of,
        recommended=recommended,
        reasons=list(dict.fromkeys(found["reason"] for found in comparison["differences"] if "reason" in found)),
    )


def _bases(comparison: Row) -> list[str]:
    """Return the jobs that have a column in the table of differences."""
    if comparison["every_two"]:
        ranked = sorted((row for row in comparison["rows"] if row[MAIN] is not None), key=lambda row: -row[MAIN])
        return [row["job"] for row in ranked]
    return list(dict.fromkeys(job for job in (comparison["best"], comparison["reference"]) if job is not None))


def _script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(ESCAPES.get(character, character) for character in text)


def _href(path: str) -> str:
    """Return a relative path as a link; a colon in it must not make it a scheme."""
    return quote(path, safe="/", errors="surrogatepass")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
