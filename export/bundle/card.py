"""The model card: what a bundle is, what was measured of it, and how each tool loads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdistill.export.report.plain_text import code, markdown, visible
from rankdistill.export.report.recommendation import Recommendation, headline
from rankdistill.export.report.report_page import plot_file
from rankdistill.export.report.tradeoff_table import conditions, finding, shown, shown_interval

TEMPLATE = "card.md.j2"
TITLE = "\n# "  # a card's first heading


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
        loader=PackageLoader("rankdistill.export.bundle", "."), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False, finalize=finish,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "interval": shown_interval, "markdown": markdown, "code": code}
    drawing = plot_file(tradeoff["rows"])
    text = environment.get_template(TEMPLATE).render(
        m=manifest,
        t=tradeoff,
        verdict=first_line(Recommendation.of(manifest["verdict"])),
        finding=finding(tradeoff),
        conditions=conditions(tradeoff),
        plot=plot.name if drawing else None,
    )
    card.write_text(text, encoding="utf-8", newline="\n")
    if drawing:
        plot.write_text(drawing, encoding="utf-8", newline="\n")


def first_line(verdict: Recommendation | None) -> str:
    """Return what stands below a card's title; nothing for a bundle from before there were verdicts."""
    return "" if verdict is None else f"**{headline(verdict.sentence)}**"


def with_verdict(text: str, old: Recommendation | None, new: Recommendation) -> str:
    """Return a card with another verdict below its title, in place of the old one if it has that.

    Args:
        text: of the card.
        old: the verdict that it was written with.
        new: the verdict that holds now.
    """
    if old is not None and (line := first_line(old)) in text:
        return text.replace(line, first_line(new), 1)
    before, title, after = text.partition(TITLE)
    name, end, rest = after.partition("\n")
    return f"{before}{title}{name}{end}\n{first_line(new)}\n{rest}" if title else f"{first_line(new)}\n\n{text}"
