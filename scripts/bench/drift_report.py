"""What a drift laboratory found: means by slice, paired intervals between systems, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.measure.quality import difference_interval, mean_interval, ratio_interval

HOW: dict[str, Any] = {"confidence": 0.95, "resamples": 10_000, "seed": 0}
FROZEN, FULL = "frozen", "full"


@dataclass(frozen=True)
class System:
    """What a system made of a stream.

    Attributes:
        values: nDCG@10 of every list, scored before anything was learned from it, float64 [lists].
        old: mean nDCG@10 on the old test set of each model that it served, in time.
        cost: CPU seconds of each of those models but the first.
        told: anything else of the JSON.
    """

    values: np.ndarray
    old: Sequence[float]
    cost: Sequence[float]
    told: Mapping[str, Any]

    def as_dict(self, slices: Sequence[slice]) -> dict[str, Any]:
        """Return what of it stands in the JSON."""
        return {
            "ndcg@10": [round(float(self.values[part].mean()), 4) for part in slices],
            "old_ndcg@10": [round(value, 4) for value in self.old],
            "cpu_s": [round(value, 1) for value in self.cost],
            **self.told,
        }


def compared(systems: Mapping[str, System], window: slice, number: int) -> dict[str, Any]:
    """Compare every system with the frozen and the fully distilled one on the lists of a window.

    Args:
        systems: by name.
        window: lists from one full distillation to the next.
        number: which of the full distillations it follows.

    Returns:
        By system: its mean; what it gains over frozen and lacks of full, with paired intervals; the share of full's
        gain, None where that is none; CPU time of one of its updates, and of all until the window, over that of the
        full distillation.
    """
    frozen, full = (systems[name].values[window] for name in (FROZEN, FULL))
    redone = systems[FULL].cost[number]
    found: dict[str, Any] = {
        "lists": len(frozen),
        FROZEN: _rounded(frozen.mean(), mean_interval(frozen, **HOW)),
        FULL: _rounded(full.mean(), mean_interval(full, **HOW)) | {"gain": _difference(full, frozen), "cpu_s": redone},
    }
    for name, system in systems.items():
        if name in (FROZEN, FULL):
            continue
        own = system.values[window]
        before = [cost for cost, end in zip(system.cost, system.told["after"], strict=True) if end <= window.start]
        found[name] = _rounded(own.mean(), mean_interval(own, **HOW)) | {
            "gain": _difference(own, frozen),
            "above_full": _difference(own, full),
            "recovered": _recovered(own - frozen, full - frozen),
            "of_full": _rounded(own.mean() / full.mean(), ratio_interval(own, full, **HOW)),
            "cpu_share_of_an_update": round(float(np.mean(system.cost)) / redone, 4),
            "cpu_share_of_all_until_here": round(sum(before) / redone, 4),
        }
    return found


def _recovered(gain: np.ndarray, full_gain: np.ndarray) -> dict[str, Any] | None:
    if mean_interval(full_gain, **HOW)[0] <= 0:
        return None  # a share of nothing
    return _rounded(gain.mean() / full_gain.mean(), ratio_interval(gain, full_gain, **HOW))


def over_frozen(systems: Mapping[str, System], slices: Sequence[slice]) -> dict[str, Any]:
    """Return each system's paired difference to frozen on every slice, with intervals."""
    base = systems[FROZEN].values
    return {
        name: [_difference(system.values[part], base[part]) for part in slices]
        for name, system in systems.items()
        if name != FROZEN
    }


def forgotten(systems: Mapping[str, System], values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return each system's difference to frozen on the old test set at the end, with paired intervals.

    Args:
        systems: by name.
        values: nDCG@10 of each list of that set by the last model of each system.
    """
    found = {}
    for name, system in systems.items():
        lowest = min(system.old) - system.old[0]
        found[name] = _difference(values[name], values[FROZEN]) | {"lowest": round(lowest, 4)}
    return found


def plot(systems: Mapping[str, System], slices: Sequence[slice], marks: Mapping[str, float], path: Path) -> None:
    """Draw nDCG@10 over the events, each slice above frozen, and the absolute values beneath it.

    Args:
        systems: by name.
        slices: of the stream.
        marks: what happened after how many events.
        path: of an SVG or PNG file.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    middle = [(part.start + part.stop) / 2 for part in slices]
    for name, system in systems.items():
        style: dict[str, Any] = {"color": "black", "linestyle": "--" if name == FROZEN else "-"}
        style = style if name in (FROZEN, FULL) else {"marker": ".", "linewidth": 1}
        means = np.array([system.values[part].mean() for part in slices])
        base = np.array([systems[FROZEN].values[part].mean() for part in slices])
        upper.plot(middle, means - base, label=name, **style)
        lower.plot(middle, means, **style)
    for what, where in marks.items():
        for axis in (upper, lower):
            axis.axvline(where, color="grey", linestyle=":", linewidth=1)
        upper.annotate(what, (where, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=7)
    upper.set_ylabel("nDCG@10 above frozen")
    lower.set_ylabel("nDCG@10")
    lower.set_xlabel("events of the stream, each slice scored before it is learned from")
    figure.legend(loc="outside upper center", fontsize=7, ncols=5)  # inside, it hides marks and lines
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    return _rounded((one - other).mean(), difference_interval(one, other, **HOW))


def _rounded(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"mean": round(float(value), 4), "interval": [round(float(end), 4) for end in interval]}
