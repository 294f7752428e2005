"""A comparison of runs in words and as a table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rankdistill.export.compare.comparison_rows import between
from rankdistill.export.compare.overrides import short_names
from rankdistill.export.report.plain_text import one_line
from rankdistill.export.report.recommendation import NOT_RECOMMENDED, NOT_SHOWN, RECOMMENDED
from rankdistill.export.report.run_folders import FINISHED
from rankdistill.export.report.tradeoff import MAIN
from rankdistill.export.report.tradeoff_table import NOTHING, UNBOUNDED, shown, shown_interval, significant

FRONT = "*"
FRONT_MEANING = "on the front: no other run is at least as good in nDCG@10, CPU-ms and MB, and better in one"
MOST_ERROR = 80  # characters of an error in the table; the files have all of it
LEAST_WIDTH = {"job": 8, "what varies": 24}  # columns that break in a narrow terminal, but not into syllables
RECOMMENDED_WORDS = {RECOMMENDED: "yes", NOT_SHOWN: "not shown", NOT_RECOMMENDED: "no"}
MOST_NAMED = 8  # jobs in a sentence

Row = Mapping[str, Any]


def print_comparison(comparison: Row, console: Console) -> None:
    """Print the table, what was found, and what limits it; one line a row where the console is no terminal.

    Args:
        comparison: see `comparison.compare`.
        console: where to print.
    """
    _print(comparison_table(comparison), console)
    if any(row["fronts"]["all"] for row in comparison["rows"]):
        console.print(Text(f"{FRONT} {FRONT_MEANING}", style="dim"), soft_wrap=True)
    console.print(Text(one_line(finding(comparison))), soft_wrap=True)
    for caveat in comparison["caveats"]:
        console.print(Text(f"warning: {one_line(caveat)}", style="bold yellow"), soft_wrap=True)


def comparison_table(comparison: Row) -> Table:
    """Return a table with a row a run: those on the front marked and bold, those without a result dim with the reason.

    Args:
        comparison: see `comparison.compare`.
    """
    varied = comparison["varied"]
    table = _table(("", "job", *(["what varies"] if varied else [])))
    for title in ("nDCG@10 ±", "retention", "CPU-ms", "p95 ms", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("recommended", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for row in comparison["rows"]:
        on = row["fronts"]["all"]
        style = "bold" if on else "dim" if row[MAIN] is None else ""
        asked = [what_varies(row, varied)] if varied else []
        cells = (FRONT if on else "", row["job"], *asked, *_numbers(row), recommended(row), _verdict(row))
        table.add_row(*(Text(one_line(cell)) for cell in cells), style=style)
    return table


def print_differences(comparison: Row, console: Console) -> None:
    """Print by how much the nDCG@10 of each run with a result differs from the reference's.

    Args:
        comparison: see `comparison.compare`.
        console: where to print.
    """
    reference = comparison["reference"]
    others = [row["job"] for row in comparison["rows"] if row[MAIN] is not None and row["job"] != reference]
    if not others:
        return
    table = _table(("job",))
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("that is", overflow="fold")
    for job in others:
        found = between(comparison, job, reference) or {"reason": "not compared"}
        cells = (job, *shown_difference(found), verdict_of(found))
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    share = shown(comparison["confidence"], "share")
    title = f"nDCG@10 minus that of {one_line(reference)}, in pairs over the same queries; intervals {share}"
    console.print(Text(f"\n{title}"), soft_wrap=True)
    _print(table, console)


def finding(comparison: Row) -> str:
    """Return in plain words how many runs have a result, which is the best, and which does as well for less."""
    rows = comparison["rows"]
    usable = [row for row in rows if row[MAIN] is not None]
    said = f"{len(usable)} of {len(rows)} {'run has' if len(rows) == 1 else 'runs have'} a result"
    without = Counter(row["status"] if row["status"] != FINISHED else "unusable" for row in rows if row[MAIN] is None)
    if without:
        said += f" ({', '.join(f'{count} {status}' for status, count in sorted(without.items()))})"
    best = next((row for row in usable if row["job"] == comparison["best"]), None)
    if best is None:
        return f"{said}."
    if len(comparison["data"]) > 1:
        return f"{said}, on {len(comparison['data'])} different sets of queries: fronts are within one."
    if len(usable) > 1:
        on = [row["job"] for row in usable if row["fronts"]["all"]]
        more = f" and {len(on) - MOST_NAMED} more" if len(on) > MOST_NAMED else ""
        which = f"run{'s' if len(on) > 1 else ''} {', '.join(on[:MOST_NAMED])}{more}"
        said += f"; on the front of nDCG@10, CPU-ms and MB: {which}" if on else ""
    score = f"{shown(best[MAIN], 'score')} {shown_interval(best[f'{MAIN}_ci'], 'score')}".rstrip()
    said += f". {'Best nDCG@10' if len(usable) > 1 else 'nDCG@10'}: run {best['job']}, {score}"
    return " ".join(part for part in (f"{said}.", _cheapest(comparison, usable, best), _doubt(best)) if part)


def what_varies(row: Row, varied: Sequence[str]) -> str:
    """Return a run's values of what varies in one line, by the shortest names."""
    short = short_names(varied)
    return " ".join(f"{short[name]}={shown_setting(row['settings'][name])}" for name in varied)


def shown_setting(value: Any) -> str:
    """Write an option's value; a dash for one that is not known."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def shown_difference(found: Row) -> tuple[str, str]:
    """Write a difference and its interval; a dash and nothing where there is only a reason."""
    return shown(found.get("difference"), "difference"), shown_interval(found.get("interval"), "difference")


def recommended(row: Row) -> str:
    """Return whether a run's student is recommended over the baselines, in a word; a dash without a result."""
    return RECOMMENDED_WORDS.get(str(row.get("recommendation")), NOTHING)


def verdict_of(found: Row) -> str:
    """Return in a word what a difference's interval says, or why there is none."""
    if "reason" in found:
        return f"not comparable: {found['reason']}"
    low, high = found["interval"]
    if low == high == 0:
        return "the same"
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _doubt(row: Row) -> str:
    """Return what must be said of the best run: that it is not known to be better than every baseline."""
    if row["recommendation"] == RECOMMENDED:
        return ""
    not_at_all = row["recommendation"] == NOT_RECOMMENDED
    return f"Run {row['job']} is {'not recommended' if not_at_all else 'not shown to be above every baseline'}."


def _cheapest(comparison: Row, usable: Sequence[Row], best: Row) -> str:
    """Return which run costs least CPU time of those not surely worse than the best, if times compare at all."""
    if not comparison["times_compare"] or best["cpu_ms_per_query"] is None:
        return ""
    alike, unknown = [], False
    for row in usable:
        if row["cpu_ms_per_query"] is None or row["cpu_ms_per_query"] >= best["cpu_ms_per_query"]:
            continue
        found = between(comparison, row["job"], best["job"]) or {}
        unknown |= "interval" not in found
        if "interval" in found and found["interval"][1] >= 0:
            alike.append(row)
    if not alike:
        return "" if unknown or len(usable) == 1 else "No run that costs less CPU time does as well."
    least = min(alike, key=lambda row: row["cpu_ms_per_query"])
    times = " instead of ".join(significant(row["cpu_ms_per_query"]) for row in (least, best))
    return f"Cheapest not told apart from it: run {least['job']}, {shown(least[MAIN], 'score')} for {times} CPU-ms."


def _numbers(row: Row) -> tuple[str, ...]:
    score = shown(row[MAIN], "score")
    if row[f"{MAIN}_ci"] is not None:
        low, high = row[f"{MAIN}_ci"]
        score += f" ±{shown((high - low) / 2, 'score')}"
    kinds = (("retention", "percent"), ("cpu_ms_per_query", "amount"), ("p95_ms", "amount"), ("size_mb", "amount"))
    return score, *(shown(row[field], kind) for field, kind in kinds)


def _verdict(row: Row) -> str:
    if row[MAIN] is not None:
        return row["verdict"] or NOTHING
    error = one_line(row["error"] or "no result")
    return f"{row['status']}: {error if len(error) <= MOST_ERROR else error[: MOST_ERROR - 1] + '…'}"


def _table(titles: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", min_width=LEAST_WIDTH.get(title))
    return table


def _print(table: Table, console: Console) -> None:
    """Print a table; a console that is no terminal says it has 80 columns, there it takes the width it needs."""
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).maximum
    console.print(table, crop=False)
