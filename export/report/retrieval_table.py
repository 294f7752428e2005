"""What an embedder's vectors keep, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankdistill.export.measure.retrieval import NDCG, RECALL
from rankdistill.export.report.tradeoff_table import shown, shown_interval

TITLES = ("graph", "vectors", "dimensions", "bytes", NDCG, "kept", "over zero-shot", RECALL, "kept", "over zero-shot")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row as it is shown, in the order of `TITLES`."""
    found = [row["model"] if row["model"] == "zero-shot" else row["precision"], row["dtype"]]
    found += [str(row["dimensions"]), str(row["bytes"])]
    for name in (NDCG, RECALL):
        over = f"{shown(row[f'{name}_over_zero_shot'], 'difference')} "
        over += shown_interval(row[f"{name}_over_zero_shot_ci"], "difference")
        found += [shown(row[name], "score"), shown(row[f"{name}_kept"], "percent"), over]
    return tuple(found)


def print_retrieval(embedder: Mapping[str, Any], console: Console) -> None:
    """Print the forms of an embedder's vectors; `embedder` is what tradeoff.json says of it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for number, title in enumerate(TITLES):
        table.add_column(title, justify="left" if number < 2 else "right", no_wrap=True)
    for row in embedder["rows"]:
        table.add_row(*(Text(cell) for cell in cells(row)))
    if not console.is_terminal:
        table.width = 150
    console.print(table, crop=False)
    note = (
        f"embedder, {embedder['kind']}: recall over {shown(embedder['items'], 'count')} items, kept of its own float32 "
        f"vectors of {embedder['width']}, differences from the encoder before it was tuned"
    )
    console.print(Text(note, style="dim"), soft_wrap=True)
