"""What limits a comparison of runs: other data, hosts, teachers, options; and the choice among many itself."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from rankdistill.export.compare.overrides import overrides_of, unnamed_differences
from rankdistill.export.report.run_folders import Run
from rankdistill.export.report.tradeoff_table import shown

MOST_NAMED = 5  # options in a caveat

Tradeoff = Mapping[str, Any]


def data_of(tradeoff: Tradeoff) -> Hashable:
    """Return what tells data apart; without a fingerprint the number of queries and pairs stands in for it."""
    known = tradeoff.get("fingerprint") or (tradeoff.get("queries"), tradeoff.get("pairs"))
    return str(tradeoff.get("dataset")), str(tradeoff.get("split")), known, tradeoff.get("queries")


def host_of(tradeoff: Tradeoff) -> Hashable:
    """Return what tells hosts apart; processors of one name with other instruction sets are two."""
    host = tradeoff.get("host") or {}
    return str(host.get("processor")), str(host.get("cores")), str(host.get("system")), str(host.get("flags"))


def told_data(key: Any) -> str:
    """Write what `data_of` returned."""
    name, split, known, queries = key
    unknown = "" if isinstance(known, str) else " without a fingerprint"
    return f"{name}, {split} split, {shown(queries, 'count')} queries{unknown}"


def told_host(key: Any) -> str:
    """Write what `host_of` returned, shortly."""
    return "unknown host" if key[0] == "None" else f"{key[0]}, {key[1]} cores"


def timed_alike(runs: Sequence[Run]) -> bool:
    """Return whether runs were timed with the same threads and as many queries and pairs."""
    timed = [(run.tradeoff or {}).get("latency") or {} for run in runs]
    return _distinct(str([how.get(field) for field in ("threads", "queries", "pairs")]) for how in timed) <= 1


def caveats(runs: Sequence[Run], options: Sequence[str], data: Sequence[Any], hosts: Sequence[Any]) -> list[str]:
    """Return what a reader must not overlook.

    Args:
        runs: those with a result.
        options: names of what varies.
        data: what tells the data of the runs apart.
        hosts: what tells their hosts apart.
    """
    tables = [run.tradeoff for run in runs if run.tradeoff is not None]
    found = []
    on_test = sum(table.get("split") == "test" for table in tables)
    if on_test > 1:
        found.append(
            f"{on_test} runs are compared on the test split: the best of many by the same queries looks better than it "
            "is. Choose on dev (measure.split=dev), then report the chosen one on test."
        )
    if len(data) > 1:
        told = "; ".join(dict.fromkeys(map(told_data, data)))
        found.append(
            f"Measured on {len(data)} different sets of queries ({told}): quality is compared only within one."
        )
    if len(hosts) > 1:
        told = "; ".join(dict.fromkeys(map(told_host, hosts)))
        found.append(
            f"Measured on {len(hosts)} different hosts ({told}): times do not compare between them, no front with CPU "
            "time is marked among them; the CPU speed-up over each run's own teacher compares."
        )
    if _distinct(str((table.get("stages") or {}).get("teacher")) for table in tables) > 1:
        found.append("The runs have different teachers: retention and speed-up are over each run's own.")
    if not timed_alike(runs):
        found.append(
            "Timed with different threads or queries: times do not compare, no front with CPU time is marked "
            "among them; the CPU speed-up compares roughly."
        )
    if _distinct(table.get("confidence") for table in tables) > 1:
        found.append("The runs' intervals do not all cover the same share (measure.confidence).")
    if unnamed := unnamed_differences(runs, [*options, *(name for run in runs for name in overrides_of(run))]):
        more = f" and {len(unnamed) - MOST_NAMED} more" if len(unnamed) > MOST_NAMED else ""
        found.append(
            f"The configurations also differ in what no override names: {', '.join(unnamed[:MOST_NAMED])}{more}."
        )
    return found


def _distinct(values: Iterable[Hashable]) -> int:
    return len(set(values))
