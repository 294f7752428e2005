"""The trade-off as a page: one HTML file that asks nothing of a network."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rankdistill.export.files import write_atomic
from rankdistill.export.report.plain_text import visible
from rankdistill.export.report.recommendation import headline as first_line
from rankdistill.export.report.recommendation import recommendation_of
from rankdistill.export.report.templates import render
from rankdistill.export.report.tradeoff_table import (
    conditions,
    finding,
    headline,
    name,
    same_form,
    shown,
    shown_interval,
)

TEMPLATE = "report.html.j2"
# CSS pixels; a page narrower than the first shows the second, so that letters keep their size
PLOT_SIZES = {"wide": (940, 560), "narrow": (440, 480)}
POINTS_PER_INCH = 72  # an SVG's unit, so that sizes below are in it
FONT_SIZE = 11
# letters stay text in the page's font
DRAWING = {"svg.fonttype": "none", "text.parse_math": False, "font.size": FONT_SIZE}
DIRECTIONS = 24  # in which a place for a name is looked for
MARKERS = {
    ("pytorch", "fp32"): "o",
    ("onnxruntime", "fp32"): "s",
    ("onnxruntime", "int8"): "D",
    ("onnxruntime", "weight8"): "p",
    ("states", "fp32"): "X",
    ("states", "int8"): "*",
    ("states", "weight8"): "P",
    ("openvino", "fp32"): "v",
    ("openvino", "bf16"): "h",
}
# colours that are nowhere else in a drawing; the page's style says what they are in light and in dark
INK, MUTED, GRID, TEACHER, STUDENT, OTHER = (f"#00000{i}" for i in range(1, 7))
STYLE_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", TEACHER: "teacher", STUDENT: "student", OTHER: "other"}

FILE_COLOURS = {
    "ink": "#16202b", "muted": "#566473", "grid": "#e3e7ec", "teacher": "#a8480a", "student": "#0b62bd",
    "other": "#5d4b9c",
}  # fmt: skip

Row = Mapping[str, Any]
Point = tuple[float, float]  # right and up, in points
Box = tuple[float, float, float, float]  # left, bottom, right, top


def write_report(tradeoff: Mapping[str, Any], path: Path) -> None:
    """Write the page; the same trade-off gives the same bytes, and a reader never sees half a page.

    Args:
        tradeoff: content of tradeoff.json.
        path: of the page; its folder must exist.
    """
    write_atomic(path, _render(tradeoff))


def _render(tradeoff: Mapping[str, Any]) -> str:
    return render(
        "rankdistill.export.report",
        TEMPLATE,
        {"shown": shown, "interval": shown_interval, "name": name, "first_line": first_line},
        t=tradeoff,
        verdict=recommendation_of(tradeoff),
        finding=finding(tradeoff),
        conditions=conditions(tradeoff),
        headline=headline(tradeoff),
        same_form=same_form(tradeoff),
        plots={which: quality_plot(tradeoff["rows"], size, which) for which, size in PLOT_SIZES.items()},
        config=yaml.safe_dump(tradeoff.get("config") or {}, sort_keys=False, allow_unicode=True),
    )


def quality_plot(rows: Sequence[Row], size: tuple[int, int], prefix: str) -> str:
    """Draw quality against latency as inline SVG.

    Args:
        rows: of the trade-off; those with a latency become points, others dashed lines.
        size: width and height in CSS pixels.
        prefix: of the drawing's ids, so that several stand in one page.

    Returns:
        The <svg> element; an empty string if nothing was timed.
    """
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # a home that its list of fonts cannot be kept in is no fault
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [row for row in rows if (row.get("p50_ms") or 0) > 0 and row.get("ndcg@10") is not None]
    lines = [row for row in rows if row.get("p50_ms") is None and row.get("ndcg@10") is not None]
    if not points:
        return ""
    with matplotlib.rc_context({**DRAWING, "svg.hashsalt": prefix}):
        figure = Figure(figsize=(size[0] / POINTS_PER_INCH, size[1] / POINTS_PER_INCH), dpi=POINTS_PER_INCH)
        FigureCanvasAgg(figure)  # measures text
        left, bottom, right, top = 54 / size[0], 52 / size[1], 1 - (112 if lines else 16) / size[0], 1 - 10 / size[1]
        axes = figure.add_axes((left, bottom, right - left, top - bottom))
        _draw_axes(axes, points, lines)
        _draw_baselines(axes, lines)
        _draw_points(axes, points, separator="\n" if size[0] < size[1] else " ")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    label = "nDCG@10 against the median latency of a query, by model; the same numbers stand in the table below"
    return _inline_svg(file.getvalue(), prefix, label)


def plot_file(rows: Sequence[Row]) -> str:
    """Draw quality against latency as an SVG file of its own, in light colours; empty if nothing was timed."""
    width, height = PLOT_SIZES["wide"]
    svg = quality_plot(rows, (width, height), "plot")
    for variable, colour in FILE_COLOURS.items():
        svg = svg.replace(f"var(--{variable})", colour)
    if not svg:
        return ""
    tag, rest = svg.split(">", 1)
    tag = re.sub(r' (width|height|style)="[^"]*"', "", tag)
    frame = f' width="{width}" height="{height}" style="background: #fff" font-family="sans-serif"'
    return f"{tag}{frame}>{rest}\n"


def _draw_axes(axes: Any, points: Sequence[Row], lines: Sequence[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ends = [end for row in points for end in _ends(row)] + [row["ndcg@10"] for row in lines]
    room = 0.3 * max(max(ends) - min(ends), 0.01)  # for labels above and below
    axes.set_ylim(min(ends) - room, max(ends) + room)
    times = [row["p50_ms"] for row in points]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.8, max(times) * 1.8)
    wide = max(times) > 5 * min(times)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("p50 latency per query, ms (log scale; left is faster)", color=MUTED)
    axes.set_ylabel("nDCG@10 (up is better)", color=MUTED)
    axes.tick_params(colors=MUTED, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)


def _draw_baselines(axes: Any, lines: Sequence[Row]) -> None:
    """Draw dashed lines whose names stand beside the axes, moved apart where they would touch."""
    right, height = axes.bbox.x1, FONT_SIZE * 1.35
    wanted = sorted((float(axes.transData.transform((1, row["ndcg@10"]))[1]), i) for i, row in enumerate(lines))
    places: list[float] = []
    for y, _ in wanted:
        places.append(max(y, places[-1] + height) if places else y)
    shift = sum(p - y for p, (y, _) in zip(places, wanted, strict=True)) / max(len(places), 1)
    for place, (y, i) in zip(places, wanted, strict=True):
        row = lines[i]
        axes.axhline(row["ndcg@10"], color=MUTED, linestyle=(0, (5, 4)), linewidth=1.2, zorder=1)
        axes.annotate(
            visible(f"{row['model']} {shown(row['ndcg@10'], 'score')}"),
            xy=(right, y), xytext=(right + 10, place - shift), xycoords="figure pixels", textcoords="figure pixels",
            color=INK, va="center", arrowprops={"arrowstyle": "-", "color": MUTED, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _draw_points(axes: Any, points: Sequence[Row], separator: str) -> None:
    """Draw points with intervals and, where there is room, their names."""
    from matplotlib.text import Text

    drawn: list[list[Box]] = []  # a point's interval and marker
    for row in points:
        low, high = _ends(row)
        axes.vlines(row["p50_ms"], low, high, color=_colour(row), linewidth=1.6)
        marker = MARKERS.get((row["engine"], row["precision"]), "^")
        axes.plot(row["p50_ms"], row["ndcg@10"], marker, color=_colour(row), markersize=7)
        ends = [(row["p50_ms"], value) for value in (low, row["ndcg@10"], high)]
        (x, bottom), (_, y), (_, top) = axes.transData.transform(ends)
        drawn.append([(x - 3, bottom, x + 3, top), (x - 6, y - 6, x + 6, y + 6)])
    names: list[Box] = []
    for i in sorted(range(len(points)), key=lambda i: drawn[i][0]):
        left, bottom, right, top = drawn[i][1]
        centre = ((left + right) / 2, (bottom + top) / 2)
        label = axes.annotate(
            visible(name(points[i])).replace(" ", separator, 1), xy=centre, xytext=(0, 0), xycoords="figure pixels",
            textcoords="figure pixels", color=_colour(points[i]), va="center", ha="center", linespacing=1.1,
            arrowprops={"arrowstyle": "-", "color": _colour(points[i]), "linewidth": 0.8, "shrinkA": 1, "shrinkB": 5},
        )  # fmt: skip
        size = Text.get_window_extent(label)  # of the text alone, without its leader
        taken = [box for other in drawn[:i] + drawn[i + 1 :] for box in other] + names
        box = _free_place(centre, (size.width + 6, size.height + 4), drawn[i], taken, tuple(axes.bbox.extents))
        label.set_position(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        names += [box, *_leader(centre, box)]


def _free_place(centre: Point, size: Point, own: Sequence[Box], taken: Sequence[Box], frame: Box) -> Box:
    """Return the box for a name near its point that, with the leader to it, overlaps least with what is there.

    Args:
        centre: of the point.
        size: of the name.
        own: what is drawn of the point itself, which the leader may cross.
        taken: everything else.
        frame: what the name should stay inside.
    """
    best: tuple[float, Box] | None = None
    for turn in range(DIRECTIONS):
        angle = 2 * math.pi * turn / DIRECTIONS
        for distance in range(0, 240, 10):
            x = centre[0] + math.cos(angle) * (size[0] / 2 + 10 + distance)
            y = centre[1] + math.sin(angle) * (size[1] / 2 + 10 + distance)
            box = (x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)
            outside = size[0] * size[1] - _overlap([box], [frame])
            cost = distance + 10 * (_overlap([box], [*own, *taken]) + outside + _overlap(_leader(centre, box), taken))
            if best is None or cost < best[0] - 1e-6:
                best = (cost, box)
    assert best is not None
    return best[1]


def _leader(centre: Point, box: Box) -> list[Box]:
    """Return small boxes along the line from a point to its name, outside of both."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    steps = max(1, round(math.hypot(x - centre[0], y - centre[1]) / 5))
    found = []
    for step in range(2, steps):
        at = (centre[0] + (x - centre[0]) * step / steps, centre[1] + (y - centre[1]) * step / steps)
        if not (box[0] < at[0] < box[2] and box[1] < at[1] < box[3]):
            found.append((at[0] - 2, at[1] - 2, at[0] + 2, at[1] + 2))
    return found


def _overlap(boxes: Sequence[Box], others: Sequence[Box]) -> float:
    """Return the area that boxes share with others."""
    if not boxes or not others:
        return 0.0
    a, b = np.asarray(boxes)[:, None], np.asarray(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return float(np.prod(np.maximum(sides, 0), axis=-1).sum())


def _colour(row: Row) -> str:
    return {"teacher": TEACHER, "student": STUDENT}.get(row["model"], OTHER)


def _ends(row: Row) -> tuple[float, float]:
    low, high = row.get("ndcg@10_ci") or (row["ndcg@10"], row["ndcg@10"])
    return low, high


def _inline_svg(document: str, prefix: str, label: str) -> str:
    """Return a document's <svg> with ids of its own, the page's colours, and a name for screen readers."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg)
    for colour, variable in STYLE_NAMES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    head = f'<svg class="{prefix}" role="img" aria-label="{label}"'
    svg = re.sub(r'<svg( width="[^"]*"| height="[^"]*")*', head, svg, count=1)
    return svg.replace(">", f"><title>{label}</title>", 1)
