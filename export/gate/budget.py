"""A budget: what a ranker is held to, as data. Bounds on the fields of the table and on comparisons."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.export.errors import UserError
from rankdistill.export.report.recommendation import ALLOWABLE
from rankdistill.export.yaml_file import read_yaml

BOUND = re.compile(
    r"\s*(?P<metric>[A-Za-z_0-9@]+)\s*(?P<operator><=|>=)\s*(?P<value>[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*"
)
OPTIONS = {"confidence": 0.95, "time_limit": 120.0}
ALLOW = "allow"
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Metric:
    """Something that a budget can bound.

    Attributes:
        name: as it is written in a budget.
        kind: "quality", "size", "memory", "latency" or "batch": how it is had.
        higher: whether higher is better; such a metric is bounded from below.
        low, high: what a value can be at all.
        needs: "teacher", "baseline" or nothing: what it is compared with.
        meaning: one line for the reader.
    """

    name: str
    kind: str
    higher: bool
    low: float
    high: float
    needs: str
    meaning: str


_SHARE, _AMOUNT, _ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("ndcg@10", "quality", True, *_SHARE, "", "normalised discounted cumulative gain of the first ten"),
        Metric("mrr@10", "quality", True, *_SHARE, "", "reciprocal rank of the first relevant among ten"),
        Metric("map", "quality", True, *_SHARE, "", "mean average precision"),
        Metric("pair_accuracy", "quality", True, *_SHARE, "", "pairs of different grades in the right order"),
        Metric("tau", "quality", True, -1.0, 1.0, "", "Kendall's tau-b with the teacher's order"),
        Metric("rbo", "quality", True, *_SHARE, "", "rank-biased overlap with the teacher's order"),
        Metric("overlap@10", "quality", True, *_SHARE, "", "share of the teacher's first ten"),
        Metric("retention", "quality", True, *_AMOUNT, "", "nDCG@10 over the teacher's"),
        Metric("lift_kept", "quality", True, *_ANY, "", "share kept of the teacher's lead over the best baseline"),
        Metric("quality_difference", "quality", True, -1.0, 1.0, "baseline", "nDCG@10 less the baseline bundle's"),
        Metric("size_mb", "size", False, *_AMOUNT, "", "file of the served graph, 10^6 bytes"),
        Metric("peak_rss_mb", "memory", False, *_AMOUNT, "", "peak memory of a process that serves it, 10^6 bytes"),
        Metric("p50_ms", "latency", False, *_AMOUNT, "", "median wall time of a request here"),
        Metric("p95_ms", "latency", False, *_AMOUNT, "", "95th percentile of it"),
        Metric("p99_ms", "latency", False, *_AMOUNT, "", "99th percentile of it"),
        Metric("cpu_ms_per_query", "latency", False, *_AMOUNT, "", "median CPU time of a request, all threads"),
        Metric("pairs_per_s", "latency", True, *_AMOUNT, "", "pairs over wall time"),
        Metric(
            "cpu_speedup_vs_teacher_onnx", "latency", True, *_AMOUNT, "teacher",
            "the teacher's CPU time over this one's, both in onnxruntime",
        ),
        Metric("cpu_ratio", "latency", False, *_AMOUNT, "baseline", "CPU time over the baseline bundle's"),
        Metric("p50_ratio", "latency", False, *_AMOUNT, "baseline", "median wall time over the baseline bundle's"),
        Metric("p95_ratio", "latency", False, *_AMOUNT, "baseline", "95th percentile over the baseline bundle's"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """One line of a budget.

    Attributes:
        metric: what is bounded.
        allowed: the least value where higher is better, else the largest.
    """

    metric: Metric
    allowed: float

    def __str__(self) -> str:
        return f"{self.metric.name} {'>=' if self.metric.higher else '<='} {self.allowed:g}"


@dataclass(frozen=True)
class Budget:
    """What a ranker is held to.

    Attributes:
        bounds: all of which must hold.
        confidence: of every interval.
        time_limit: seconds that measuring latency may take, for each comparison.
        allow: what a bundle's verdict may be beside "recommended": not_shown, not_recommended (which takes both).
    """

    bounds: tuple[Bound, ...]
    confidence: float
    time_limit: float
    allow: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Budget:
        """Read a YAML file.

        Raises:
            UserError: if it is missing, no YAML, or holds anything that is no budget; every mistake is named.
        """
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise UserError(f"{path}: no budget; it has require: [a list of bounds]")
        content.pop("defaults", None)  # Hydra's, where the file is a group of conf/
        return cls.of(content, str(path))

    @classmethod
    def of(cls, content: Mapping[str, Any], where: str) -> Budget:
        """Check a budget's content.

        Args:
            content: require, confidence, time_limit, allow.
            where: what a message begins with.

        Raises:
            UserError: with a line for each mistake.
        """
        mistakes = [f"{name}: no such option" for name in content if name not in ("require", ALLOW, *OPTIONS)]
        lines = content.get("require")
        if not isinstance(lines, Sequence) or isinstance(lines, str) or not lines:
            mistakes.append("require: a list of bounds such as 'retention >= 0.95' is needed")
            lines = []
        values = dict(OPTIONS)
        for name, (low, high) in {"confidence": (0.5, 1.0), "time_limit": (0.0, math.inf)}.items():
            value = content.get(name, values[name])
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
                mistakes.append(f"{name}: {value!r}; a number between {low:g} and {high:g}")
            else:
                values[name] = float(value)
        allow = content.get(ALLOW, [])
        mistakes += allow_mistakes(allow)
        bounds = []
        for line in lines:
            try:
                bounds.append(parse_bound(str(line)))
            except UserError as error:
                mistakes.append(str(error))
        if mistakes:
            raise UserError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
        return cls(tuple(bounds), values["confidence"], values["time_limit"], tuple(allow))


def allow_mistakes(allow: Any) -> list[str]:
    """Return what is wrong with a budget's `allow`: nothing, or one line."""
    if isinstance(allow, Sequence) and not isinstance(allow, str) and all(word in ALLOWABLE for word in allow):
        return []
    told = (
        f"[{', '.join(map(str, allow))}]" if isinstance(allow, Sequence) and not isinstance(allow, str) else repr(allow)
    )
    return [f"{ALLOW}: {told}; a list of {' and '.join(ALLOWABLE)}, or an empty one"]


def parse_bound(text: str) -> Bound:
    """Read `metric <= number` or `metric >= number`.

    Raises:
        UserError: if it is none, the metric is unknown, or the bound is on the wrong side, can never or always hold.
    """
    match = BOUND.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r}: no bound; write a metric, <= or >=, and a number")
    name = match["metric"]
    if name not in METRICS:
        raise UserError(f"{text!r}: no metric {name}; there are {', '.join(METRICS)}")
    metric = METRICS[name]
    try:
        allowed = float(match["value"])
    except ValueError as error:
        raise UserError(f"{text!r}: {match['value']} is no number") from error
    operator = ">=" if metric.higher else "<="
    if match["operator"] != operator:
        better = "higher" if metric.higher else "lower"
        raise UserError(f"{text!r}: of {name} {better} is better; bound it with {operator}")
    # at the better end of what a value can be a bound can still hold (tau >= 1), at the worse end it says nothing
    best, worst = (metric.high, metric.low) if metric.higher else (metric.low, metric.high)
    beyond = allowed > best if metric.higher else allowed < best or (allowed == best == 0)
    if beyond or not math.isfinite(allowed):
        raise UserError(f"{text!r}: can never hold; {name} is from {metric.low:g} to {metric.high:g}")
    if allowed == worst or (allowed < worst if metric.higher else allowed > worst):
        raise UserError(f"{text!r}: always holds; {name} is from {metric.low:g} to {metric.high:g}")
    return Bound(metric, allowed)
