"""Which node groups stay fp32: those that cost the ranking more in int8 than they save, until a budget holds.

Everything begins in int8. The group taken back to fp32 next is the one that restores most of the fp32 order for what it
costs; gains are found again only for the group in front, the others keep what they had as an upper bound (the lazy
greedy of Minoux 1978). At the end each kept group, the dearest first, goes to int8 again if the budget holds so.
No clock decides: a group's cost is its share of the multiply-accumulates plus its share of the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Kept = frozenset[str]


@dataclass(frozen=True)
class Closeness:
    """How close a graph's ranking is to its fp32 graph's.

    Attributes:
        ndcg: its nDCG@10 over that of fp32.
        tau: Kendall's tau-b with the fp32 order.
        overlap: share of the first ten of fp32 that are among its first ten.
        cpu_ms: CPU time a pair took; told, never decided by.
    """

    ndcg: float
    tau: float
    overlap: float
    cpu_ms: float = field(compare=False, default=0.0)


@dataclass(frozen=True)
class Limits:
    """What the quantized graph is held to.

    Attributes:
        max_drop: most that nDCG@10 may fall below fp32's, as a share of it.
        min_overlap: least overlap@10 with fp32.
    """

    max_drop: float
    min_overlap: float

    def hold(self, found: Closeness) -> bool:
        """Return whether a graph keeps them."""
        return found.ndcg >= 1 - self.max_drop and found.overlap >= self.min_overlap


@dataclass(frozen=True)
class Choice:
    """What a search found.

    Attributes:
        kept: groups in fp32, in the order in which they were taken.
        met: whether the limits hold with a group left in int8.
        closeness: with these groups in fp32.
        begun: with all groups in int8.
        alone: with that group alone in fp32, by group.
        costs: by group, share of the multiply-accumulates plus share of the bytes.
        evaluations: how many graphs were scored.
    """

    kept: tuple[str, ...]
    met: bool
    closeness: Closeness
    begun: Closeness
    alone: Mapping[str, Closeness]
    costs: Mapping[str, float]
    evaluations: int

    def rows(self) -> list[dict[str, Any]]:
        """Return for each group what keeping it alone in fp32 would change, and whether it is kept."""
        return [
            {
                "group": group,
                "kept": group in self.kept,
                "cost": self.costs[group],
                "tau_gain": found.tau - self.begun.tau,
                "overlap_gain": found.overlap - self.begun.overlap,
                "ndcg_gain": found.ndcg - self.begun.ndcg,
                "cpu_ms": found.cpu_ms - self.begun.cpu_ms,
            }
            for group, found in self.alone.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the whole as JSON values."""
        return {
            "met": self.met,
            "evaluations": self.evaluations,
            "begun": asdict(self.begun),
            "closeness": asdict(self.closeness),
            "kept": list(self.kept),
            "groups": self.rows(),
        }


def search(costs: Mapping[str, float], evaluate: Callable[[Kept], Closeness], limits: Limits) -> Choice:
    """Choose the groups that stay fp32.

    Args:
        costs: what each group gives up in fp32, > 0, by group.
        evaluate: scores the graph with these groups in fp32; called once for each set.
        limits: what must hold.
    """
    known: dict[Kept, Closeness] = {}

    def closeness(kept: Kept) -> Closeness:
        if kept not in known:
            known[kept] = evaluate(kept)
        return known[kept]

    begun = closeness(frozenset())
    alone = {group: closeness(frozenset([group])) for group in costs}
    gains = {group: (found.tau - begun.tau) / costs[group] for group, found in alone.items()}
    kept: list[str] = []
    while not limits.hold(closeness(frozenset(kept))) and len(kept) < len(costs):
        kept.append(_next(kept, gains, costs, closeness))
    for group in sorted(kept, key=lambda each: -costs[each]):
        rest = [each for each in kept if each != group]
        if limits.hold(closeness(frozenset(rest))):
            kept = rest
    found = closeness(frozenset(kept))
    met = limits.hold(found) and len(kept) < len(costs)
    return Choice(tuple(kept), met, found, begun, alone, dict(costs), len(known))


def _next(
    kept: list[str], gains: dict[str, float], costs: Mapping[str, float], closeness: Callable[[Kept], Closeness]
) -> str:
    """Return the group that gains most for its cost beside those that are kept; `gains` is brought up to date."""
    now, fresh = closeness(frozenset(kept)).tau, set()
    while True:
        first = max((group for group in costs if group not in kept), key=lambda group: gains[group])
        if first in fresh:
            return first
        gains[first] = (closeness(frozenset([*kept, first])).tau - now) / costs[first]
        fresh.add(first)
