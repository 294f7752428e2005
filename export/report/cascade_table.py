"""A cascade's levels as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rankdistill.export.report.tradeoff_table import NOTHING, UNBOUNDED, shown

Level = Mapping[str, Any]


def print_cascade(cascade: Mapping[str, Any], console: Console) -> None:
    """Print the levels from the dearest to the cheapest, and what the columns are.

    Args:
        cascade: content of cascade.json.
        console: where to print; one that is no terminal gets one line a level, as long as it takes.
    """
    table = _table(cascade)
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).maximum
    console.print(table, crop=False)
    for warning in cascade["warnings"]:
        console.print(Text(f"warning: {warning}", style="bold yellow"), soft_wrap=True)
    console.print(Text(_conditions(cascade), style="dim"), soft_wrap=True)


def _table(cascade: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False, header_style="bold")
    table.add_column("level", no_wrap=True)
    for title in ("items", "lost, promised", "lost", "nDCG@10", "retention", "CPU-ms", "fewer"):
        table.add_column(title, justify="right", no_wrap=True)
    dearest = cascade["levels"][0]["cpu_ms"]
    for level in cascade["levels"]:
        cells = _cells(level, dearest)
        table.add_row(*(Text(cell) for cell in cells), style="bold" if level["name"] == cascade["default"] else "")
    return table


def _cells(level: Level, dearest: float) -> tuple[str, ...]:
    promised = level.get("promised")
    return (
        level["name"],
        " > ".join(shown(number, "amount") for number in level["items"]["measured"]),
        NOTHING if promised is None else shown(max(promised.values()), "percent"),
        shown(level["lost"]["measured"], "percent"),
        shown(level["ndcg@10"], "score"),
        shown(level["retention"], "percent"),
        shown(level["cpu_ms"], "amount"),
        shown(dearest / level["cpu_ms"] if level["cpu_ms"] else None, "times"),
    )


def _conditions(cascade: Mapping[str, Any]) -> str:
    last = cascade["levels"][0]["name"]
    return (
        f"cascade, default {cascade['default']}: items that each stage scores; share lost of the first "
        f"{cascade['depth']} of {last} alone, promised from {shown(cascade['dev_queries'], 'count')} dev queries with "
        f"confidence {shown(cascade['confidence'], 'share')} and found on {cascade['split']}; retention of {last}'s "
        f"nDCG@10; CPU time predicted from the stages' own"
    )
