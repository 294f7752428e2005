"""The levels of a cascade: cut-offs for several tolerances, and what each keeps and costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export.measure.cut_offs import CutOff, Needs
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.shortlist import Cut, Shortlist

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stage:
    """A stage's scores of every candidate, as if it had to score them all.

    Attributes:
        name: of the stage.
        dev: float32 [pairs of dev].
        measured: float32 [pairs of the measured split].
        ms_per_pair: CPU time.
    """

    name: str
    dev: Float32
    measured: Float32
    ms_per_pair: float


@dataclass(frozen=True)
class Lists:
    """Candidate lists.

    Attributes:
        grades: int [pairs].
        offsets: int64 [queries + 1].
    """

    grades: Array
    offsets: Int64


@dataclass(frozen=True)
class Asked:
    """What cut-offs are chosen for.

    Attributes:
        rule: "number" or "margin".
        depth: how many of the last stage's first items count.
        tolerance: most of them that may be lost, a share; of the level that is served where none is named.
        confidence: with which it is kept.
        ladder: further tolerances, each for a level of its own.
    """

    rule: str
    depth: int
    tolerance: float
    confidence: float
    ladder: Sequence[float]


def ladder(stages: Sequence[Stage], dev: Lists, measured: Lists, asked: Asked) -> dict[str, Any]:
    """Choose cut-offs on dev and measure every level.

    A tolerance is parted evenly among the cuts, and each cut's loss counted over all items, not over those that are
    left. What was dropped before only makes it easier to be passed on, so that the losses' sum bounds the cascade's.

    Args:
        stages: from cheap to dear.
        dev: lists that cut-offs are chosen on.
        measured: lists that quality is told of.
        asked: the rule and the tolerances.

    Returns:
        `levels` from the dearest to the cheapest, the name of the `default` one, and `warnings`.
    """
    needs = [
        Needs.of(stage.dev, stages[-1].dev, dev.offsets, rule=asked.rule, depth=asked.depth) for stage in stages[:-1]
    ]
    found = {tolerance: _choose(needs, tolerance, asked.confidence) for tolerance in {asked.tolerance, *asked.ladder}}
    alone = [_level(stage.name, [stage], [], stages[-1], dev, measured, asked.depth) for stage in reversed(stages)]
    levels, warnings = alone[:1], []
    for level in alone[1:]:
        if level["cpu_ms"] >= alone[0]["cpu_ms"]:
            warnings.append(f"{level['name']} alone takes as much CPU time as {alone[0]['name']}: it is no level")
        else:
            levels.append(level)
    default = alone[0]["name"]
    by_cuts: dict[tuple[Cut, ...], str] = {}  # of two tolerances with one level the smaller is told
    for tolerance, chosen in sorted(found.items()):
        cuts = tuple(cut_off.cut for cut_off in chosen)
        name = f"{'+'.join(stage.name for stage in stages)}@{tolerance:g}"
        if not chosen:
            warnings.append(f"{len(dev.offsets) - 1} dev queries do not show a cut with tolerance {tolerance:g}")
        elif cuts not in by_cuts:
            level = _level(name, stages, cuts, stages[-1], dev, measured, asked.depth)
            if level["cpu_ms"] >= alone[0]["cpu_ms"]:
                warnings.append(f"{name} takes as much CPU time as {alone[0]['name']} alone: it is no level")
            else:
                levels.append(level | {"tolerance": tolerance, "promised": _promised(chosen)})
                by_cuts[cuts] = name
        if tolerance == asked.tolerance:
            default = by_cuts.get(cuts, default)
    if default == alone[0]["name"]:
        warnings.append(f"tolerance {asked.tolerance:g} is kept by {default} alone, which is the default level")
    return {"levels": sorted(levels, key=lambda each: -each["cpu_ms"]), "default": default, "warnings": warnings}


def _choose(needs: Sequence[Needs], tolerance: float, confidence: float) -> list[CutOff]:
    """Return a cut for each stage but the last; none if one of them has none."""
    found = [each.choose(tolerance / len(needs), confidence) for each in needs]
    chosen = [cut_off for cut_off in found if cut_off is not None]
    return chosen if len(chosen) == len(needs) else []


def _promised(chosen: Sequence[CutOff]) -> dict[str, float]:
    """Return what is known of the loss of further queries: bounds of its expectation and of their mean."""
    return {name: sum(getattr(cut_off, name) for cut_off in chosen) for name in ("expected", "bound")}


def _level(
    name: str, stages: Sequence[Stage], cuts: Sequence[Cut], last: Stage, dev: Lists, measured: Lists, depth: int
) -> dict[str, Any]:
    """Return a level's numbers; its costs are those of dev, what it loses is told of both."""
    scores, passed, lost = {}, {}, {}
    for split, lists, reference in (("dev", dev, last.dev), ("measured", measured, last.measured)):
        own = [stage.dev if split == "dev" else stage.measured for stage in stages]
        scores[split], passed[split] = walk(own, cuts, lists.offsets)
        lost[split] = lost_share(scores[split], reference, lists.offsets, depth)
    ndcg, whole = (_ndcg(values, measured) for values in (scores["measured"], last.measured))
    cost = sum(stage.ms_per_pair * number for stage, number in zip(stages, passed["dev"], strict=True))
    return {
        "name": name,
        "stages": [stage.name for stage in stages],
        "cuts": [asdict(cut) for cut in cuts],
        "cpu_ms": round(cost, 4),
        "ndcg@10": ndcg,
        "retention": ndcg / whole if whole else 1.0,
        "dev_ndcg@10": _ndcg(scores["dev"], dev),
        "lost": lost,
        "items": {split: [round(number, 2) for number in numbers] for split, numbers in passed.items()},
    }


def walk(stages: Sequence[Float32], cuts: Sequence[Cut], offsets: Int64) -> tuple[Float32, list[float]]:
    """Return what a cascade gives, from stored scores.

    Args:
        stages: float32 [pairs] each, of all pairs.
        cuts: one less.
        offsets: int64 [queries + 1].

    Returns:
        Scores, float32 [pairs], and how many items of a query each stage scores in the mean.
    """
    found = np.empty(len(stages[0]), dtype=np.float32)
    number = np.zeros(len(stages))
    for start, stop in itertools.pairwise(offsets.tolist()):
        shortlist = Shortlist(stop - start)
        for place, scores in enumerate(stages):
            number[place] += len(shortlist.left)
            own = scores[start:stop][shortlist.left]
            if place < len(cuts):
                shortlist.pass_on(own, cuts[place])
        found[start:stop] = shortlist.scores(own)
    return found, [float(each) for each in number / (len(offsets) - 1)]


def lost_share(scores: Array, reference: Array, offsets: Int64, depth: int) -> float:
    """Return which share of a reference's first `depth` items are not among the first of a ranking, mean of queries."""
    lost = []
    for start, stop in itertools.pairwise(offsets.tolist()):
        one, other = (np.argsort(-each[start:stop], kind="stable")[:depth] for each in (scores, reference))
        lost.append(1 - len(np.intersect1d(one, other)) / len(other))
    return float(np.mean(lost))


def _ndcg(scores: Array, lists: Lists) -> float:
    return float(ranking_metrics(scores, lists.grades, lists.offsets)["ndcg@10"].mean())
