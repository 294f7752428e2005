"""The model card: what a bundle is, what was measured of it, and how each tool loads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.measure.report import plot_file
from export.measure.table import conditions, finding, shown, shown_interval
from export.plain import code, markdown, visible

TEMPLATE = "card.md.j2"


def write_card(manifest: Mapping[str, Any], tradeoff: Mapping[str, Any], card: Path, plot: Path) -> None:
    """Write the card and its plot; the same content gives the same bytes.

    Args:
        manifest: of the bundle.
        tradeoff: content of tradeoff.json.
        card: Markdown file to write.
        plot: SVG file to write, in the same folder.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finish(value: Any) -> Any:
        return visible(value) if type(value) is str else value

    environment = Environment(
        loader=PackageLoader("export", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False, finalize=finish,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "interval": shown_interval, "markdown": markdown, "code": code}
    drawing = plot_file(tradeoff["rows"])
    text = environment.get_template(TEMPLATE).render(
        m=manifest,
        t=tradeoff,
        finding=finding(tradeoff),
        conditions=conditions(tradeoff),
        plot=plot.name if drawing else None,
    )
    card.write_text(text, encoding="utf-8", newline="\n")
    if drawing:
        plot.write_text(drawing, encoding="utf-8", newline="\n")
