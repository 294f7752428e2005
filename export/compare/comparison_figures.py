"""The figures of a comparison as plotly reads them; their colours are variables of the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.export.compare.comparison_table import shown_setting
from rankdistill.export.compare.overrides import short_names
from rankdistill.export.report.tradeoff import MAIN
from rankdistill.export.report.tradeoff_table import shown, shown_interval

AXES = {"latency": ("cpu_ms_per_query", "CPU-ms per query"), "size": ("size_mb", "weights, MB")}
SCATTER_HEIGHT, PARALLEL_HEIGHT = 430, 420  # CSS pixels
TALLY = 8  # values of an axis that are all written; jobs on a front that are all named
MOST_LINES, MOST_CHARACTERS = 14, 60  # of options in a hover box
WIDE = 20  # an axis whose ends are so many times apart is a logarithmic one
CLEAR = "rgba(0,0,0,0)"
INK, MUTED, GRID, PANEL, ON_FRONT = (f"var(--{name})" for name in ("ink", "muted", "grid", "panel", "student"))
HOVER = {"align": "left", "bgcolor": PANEL, "font": {"color": INK, "size": 12}}
LEAST_STEP = 0.045  # of an axis' height between two marks
HOVERED = (
    ("retention", "retention", "percent"), ("tau", "tau-b", "score"), ("cpu_ms_per_query", "CPU-ms", "amount"),
    ("p50_ms", "p50 ms", "amount"), ("p95_ms", "p95 ms", "amount"), ("speedup", "speed-up, CPU", "times"),
    ("size_mb", "MB", "amount"), ("params", "params", "millions"),
)  # fmt: skip
OBJECTIVES = (
    (MAIN, "nDCG@10", "score", True),
    ("cpu_ms_per_query", "CPU-ms", "amount", False),
    ("size_mb", "MB", "amount", False),
)

Row = Mapping[str, Any]
Figure = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """An axis of the parallel coordinates: its title, each run's place on it (0 to 1), its marks' places and texts."""

    title: str
    places: Sequence[float]
    marks: Sequence[tuple[float, str]]


def scatter(comparison: Row, front: str) -> Figure | None:
    """Return quality against a cost, with intervals and the front; None if no run has both.

    Args:
        comparison: see `comparison.compare`.
        front: "latency" or "size".
    """
    field, title = AXES[front]
    rows = [row for row in comparison["rows"] if row[MAIN] is not None and (row[field] or 0) > 0]
    if not rows:
        return None
    costs = [row[field] for row in rows]
    ends = min(costs) / 1.25, max(costs) * 1.25
    traces = _teacher_line(rows, ends)
    groups = dict.fromkeys(row["data"] for row in rows)
    on = [row for row in rows if row["fronts"][front]]
    for data in groups:
        line = sorted((row for row in on if row["data"] == data), key=lambda row: (row[field], row[MAIN]))
        traces.append(_front_line(line, field))
    named = len(on) <= TALLY and max((len(row["job"]) for row in on), default=0) <= TALLY
    traces.append(
        _points([row for row in rows if not row["fronts"][front]], field, comparison, "not on it", named=False)
    )
    traces.append(_points(on, field, comparison, "front", named=named))
    marks = ticks(*ends)
    layout = _layout(SCATTER_HEIGHT) | {
        "xaxis": _axis(f"{title} (log scale; left is better)") | {
            "type": "log", "range": [math.log10(end) for end in ends], "tickvals": marks,
            "ticktext": [f"{mark:g}" for mark in marks],
        },
        "yaxis": _axis("nDCG@10 (up is better)") | {"tickformat": "~g"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": INK}},
        "hovermode": "closest", "modebar": {"bgcolor": CLEAR, "color": MUTED, "activecolor": INK},
        "hoverlabel": HOVER,
    }  # fmt: skip
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def parallel(comparison: Row) -> Figure | None:
    """Return parallel coordinates over what varies and the objectives; None if fewer than two runs have them all."""
    objectives = [o for o in OBJECTIVES if any(row[o[0]] is not None for row in comparison["rows"])]
    rows = [row for row in comparison["rows"] if objectives and all(row[field] is not None for field, *_ in objectives)]
    if len(rows) < 2:
        return None
    short = short_names(comparison["varied"])
    axes = []
    for name in comparison["varied"]:
        values = [row["settings"][name] for row in rows]
        if len({shown_setting(value) for value in values}) > 1:
            axes.append(_option_axis(_cut(short[name], 18), values))
    for field, label, kind, more in objectives:
        numbers = [float(row[field]) for row in rows]
        marks = _marks(min(numbers), max(numbers), kind)
        axes.append(_number_axis(label, numbers, marks, upwards=more))
    lines = [_line(row, [axis.places[i] for axis in axes], comparison) for i, row in enumerate(rows)]
    layout = _layout(PARALLEL_HEIGHT) | {
        "margin": {"l": 104, "r": 30, "t": 8, "b": 8}, "showlegend": False, "hovermode": "closest", "hoverlabel": HOVER,
        "xaxis": {"visible": False, "fixedrange": True, "range": [-0.1, len(axes) - 0.9]},
        "yaxis": {"visible": False, "fixedrange": True, "range": [-0.06, 1.16]},
        "shapes": [
            {"type": "line", "x0": x, "x1": x, "y0": -0.03, "y1": 1.03, "line": {"color": MUTED, "width": 1},
             "layer": "below"} for x in range(len(axes))
        ],
        "annotations": [label for x, axis in enumerate(axes) for label in _labels(x, axis)],
    }  # fmt: skip
    lines.sort(key=lambda line: line["opacity"])  # the front's are drawn over the others
    return {"data": lines, "layout": layout, "axes": len(axes)}


def _marks(low: float, high: float, kind: str) -> list[tuple[float, str]]:
    """Return an axis's two ends and round values well between them, each text once."""
    room = 0.08 * (high - low)
    inner = [mark for mark in ticks(low, high) if low + room < mark < high - room]
    found = {shown(mark, kind): mark for mark in (*inner, high, low)}
    return [(mark, text) for text, mark in found.items()]


def ticks(low: float, high: float) -> list[float]:
    """Return round values between two ends: 1, 2, 5, 10, ... where they are far apart, else in even steps."""
    if low > 0 and high / low > TALLY:
        factors = (1, 2, 5) if high / low < 1000 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [mark for power in powers for factor in factors if low <= (mark := float(f"{factor}e{power}")) <= high]
    if high <= low:
        return [low]
    power = math.floor(math.log10((high - low) / 5))
    step, exponent = next(
        (f, p) for p in (power, power + 1) for f in (1, 2, 5) if (high - low) / float(f"{f}e{p}") <= 6
    )  # fmt: skip
    size = float(f"{step}e{exponent}")
    return [round(i * size, max(0, -exponent)) for i in range(math.ceil(low / size), math.floor(high / size) + 1)]


def _teacher_line(rows: Sequence[Row], ends: tuple[float, float]) -> list[Figure]:
    """Return a dashed line at the teacher's quality, if all runs have the same."""
    found = {row[f"teacher_{MAIN}"] for row in rows}
    if len(found) > 1 or None in found:
        return []
    value = found.pop()
    return [
        {
            "type": "scatter", "mode": "lines", "name": f"teacher {shown(value, 'score')}", "x": list(ends),
            "y": [value, value], "line": {"color": "var(--teacher)", "dash": "dash", "width": 1.5}, "hoverinfo": "skip",
        }
    ]  # fmt: skip


def _front_line(rows: Sequence[Row], field: str) -> Figure:
    """Return the steps of the best quality that a cost buys."""
    return {
        "type": "scatter", "mode": "lines", "x": [row[field] for row in rows], "y": [row[MAIN] for row in rows],
        "line": {"color": ON_FRONT, "width": 1.5, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip


def _points(rows: Sequence[Row], field: str, comparison: Row, name: str, *, named: bool) -> Figure:
    on = name == "front"
    colour = ON_FRONT if on else MUTED
    ends = [row[f"{MAIN}_ci"] or (row[MAIN], row[MAIN]) for row in rows]
    return {
        "type": "scatter", "mode": "markers+text" if named else "markers", "name": name,
        "x": [row[field] for row in rows], "y": [row[MAIN] for row in rows],
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour,
            "array": [high - row[MAIN] for row, (_, high) in zip(rows, ends, strict=True)],
            "arrayminus": [row[MAIN] - low for row, (low, _) in zip(rows, ends, strict=True)],
        },
        "marker": {
            "symbol": "diamond" if on else "circle-open", "size": 11 if on else 8, "color": colour,
            "line": {"color": colour, "width": 1.5},
        },
        "text": [html.escape(f" {row['job']}", quote=False) for row in rows], "textposition": "top right",
        "textfont": {"color": INK}, "hoverinfo": "text", "hovertext": [_hover(row, comparison) for row in rows],
        "customdata": [row["job"] for row in rows],
    }  # fmt: skip


def _hover(row: Row, comparison: Row) -> str:
    """Return a box's lines; plotly reads them as HTML of its own, so that every text is escaped."""
    options = [f"{name}={shown_setting(value)}" for name, value in row["overrides"].items()]
    if len(options) > MOST_LINES:
        options = [*options[: MOST_LINES - 1], f"and {len(options) - MOST_LINES + 1} more"]
    score = f"nDCG@10 {shown(row[MAIN], 'score')} {shown_interval(row[f'{MAIN}_ci'], 'score')}".rstrip()
    numbers = [f"{label} {shown(row[field], kind)}" for field, label, kind in HOVERED if row[field] is not None]
    pairs = [" · ".join(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
    host = [comparison["hosts"][row["host"]]] if len(comparison["hosts"]) > 1 else []
    gate = [f"gate: {row['verdict']}"] if row["verdict"] else []
    lines = [html.escape(_cut(line, MOST_CHARACTERS), quote=False) for line in (*options, score, *pairs, *gate, *host)]
    return "<br>".join([f"<b>{html.escape(_cut(row['job'], MOST_CHARACTERS), quote=False)}</b>", *lines])


def _option_axis(title: str, values: Sequence[Any]) -> Axis:
    """Return an axis of numbers if all values are numbers, else of categories."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = [float(value) for value in values]
        distinct = sorted(set(numbers))
        marks = distinct if len(distinct) <= TALLY else ticks(distinct[0], distinct[-1])
        return _number_axis(title, numbers, [(mark, shown_setting(mark)) for mark in marks], upwards=True)
    words = [shown_setting(value) for value in values]
    distinct_words = sorted(set(words))
    places = {word: (place + 0.5) / len(distinct_words) for place, word in enumerate(distinct_words)}
    return Axis(title, [places[word] for word in words], _apart([(at, _cut(word, 14)) for word, at in places.items()]))


def _number_axis(title: str, numbers: Sequence[float], marks: Sequence[tuple[float, str]], *, upwards: bool) -> Axis:
    """Return an axis of numbers, logarithmic where its ends are far apart; better is up."""
    low, high = min(numbers), max(numbers)
    scale = math.log10 if low > 0 and high / low >= WIDE else float

    def place(number: float) -> float:
        share = 0.5 if high == low else (scale(number) - scale(low)) / (scale(high) - scale(low))
        return share if upwards else 1 - share

    return Axis(title, [place(number) for number in numbers], _apart([(place(mark), text) for mark, text in marks]))


def _apart(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the marks, from below, without those that would be written over another."""
    kept: list[tuple[float, str]] = []
    for place, text in sorted(marks):
        if not kept or place - kept[-1][0] >= LEAST_STEP:
            kept.append((place, text))
    return kept


def _line(row: Row, places: Sequence[float], comparison: Row) -> Figure:
    on = row["fronts"]["all"]
    colour = ON_FRONT if on else MUTED
    return {
        "type": "scatter", "mode": "lines+markers", "name": row["job"], "x": list(range(len(places))),
        "y": list(places), "line": {"color": colour, "width": 2 if on else 1},
        "marker": {"symbol": "diamond" if on else "circle-open", "size": 8 if on else 5, "color": colour},
        "opacity": 1 if on else 0.55, "hoverinfo": "text", "hovertext": _hover(row, comparison),
        "customdata": [row["job"]] * len(places),
    }  # fmt: skip


def _labels(x: int, axis: Axis) -> list[Figure]:
    """Return an axis' title and the marks left of it."""
    title = {
        "x": x, "y": 1.14, "text": f"<b>{html.escape(axis.title, quote=False)}</b>", "showarrow": False,
        "font": {"color": INK}, "yanchor": "top",
    }  # fmt: skip
    return [title] + [
        {
            "x": x, "y": place, "text": html.escape(text, quote=False), "showarrow": False, "xanchor": "right",
            "xshift": -6, "bgcolor": PANEL, "opacity": 0.85, "borderpad": 1, "font": {"color": INK, "size": 11},
        }
        for place, text in axis.marks
    ]  # fmt: skip


def _layout(height: int) -> Figure:
    return {
        "height": height, "margin": {"l": 58, "r": 14, "t": 44, "b": 50}, "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": MUTED},
    }  # fmt: skip


def _axis(title: str) -> Figure:
    return {
        "title": {"text": title, "standoff": 8}, "gridcolor": GRID, "linecolor": MUTED, "tickcolor": MUTED,
        "ticks": "outside", "ticklen": 4, "zeroline": False, "showline": True,
    }  # fmt: skip


def _cut(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
