"""What is asked of students: how much of the ranking at which speed, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.measure.pareto import front

POINTS = ((0.995, 5), (0.99, 15), (0.97, 30), (0.94, 60))  # retention at a speed-up over the teacher in PyTorch
LIFTS = ((0.97, 5), (0.9, 15))  # lift kept at a speed-up

Students = Mapping[str, Mapping[str, Any]]  # what `kept_runs.judge` says of each


def on_front(students: Students) -> list[str]:
    """Return those that no other one beats in retention and speed-up together, the slowest first."""
    values = np.array([[each["retention"], each["speedup"]] for each in students.values()])
    best = [name for name, kept in zip(students, front(values, [True, True]), strict=True) if kept]
    return sorted(best, key=lambda name: float(students[name]["speedup"]))


def reached(students: Students) -> list[dict[str, Any]]:
    """Return what was asked for, and of the students that are fast enough the one that keeps most.

    `met` says by what it reaches the point: "bounds", the lower ends of both its intervals; "means"; or None. `student`
    is None where none is fast enough.
    """
    found = []
    for quality, asked in (("retention", POINTS), ("lift_kept", LIFTS)):
        for least, times in asked:
            fast = {name: each for name, each in students.items() if each["speedup"] >= times}
            name = max(fast, key=lambda n, q=quality: fast[n][q], default=None)
            point: dict[str, Any] = {quality: least, "speedup": times, "student": name, "met": None}
            if name is not None and fast[name][quality] >= least:
                lower = (fast[name][f"{quality}_ci"][0], fast[name]["speedup_ci"][0])
                point["met"] = "bounds" if lower[0] >= least and lower[1] >= times else "means"
            found.append(point)
    return found


def answers(students: Students) -> dict[str, Any]:
    """Return both, for the results."""
    return {"front": on_front(students), "points": reached(students)}


def told(point: Mapping[str, Any]) -> str:
    """Return a point in words."""
    quality = "retention" if "retention" in point else "lift_kept"
    met = {"bounds": "reached, lower bounds too", "means": "reached by means", None: "not reached"}[point["met"]]
    return f"{quality} {point[quality]} at {point['speedup']}x: {met} ({point['student'] or 'none is as fast'})"


def above_labels(students: Students) -> list[str]:
    """Return a line for each student that was made on labels alone too."""
    lines = []
    for name, each in students.items():
        if (alone := each.get("labels_alone")) is not None:
            above = alone["distilled_above"]
            low, high = above["interval"]
            lines.append(
                f"  {name}: {each['int8']['ndcg@10']:.3f}, on labels alone {alone['ndcg@10']:.3f}: "
                f"{above['difference']:+.3f} [{low:.3f}, {high:.3f}], p = {above['p_t']:.2g}"
            )
    return lines


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of every set's students in int8, the slowest first; in bold the front."""
    lines = ["| set | student | nDCG@10 | retention | lift kept | tau | speed-up | MB |", "|---" * 8 + "|"]
    for name, result in results.items():
        students = {student: each["int8"] for student, each in result["students"].items()}
        best = on_front(students)
        for student, each in sorted(students.items(), key=lambda item: float(item[1]["speedup"])):
            low, high = each["speedup_ci"]
            cells = [
                name, f"**{student}**" if student in best else student, _digits(each["ndcg@10"]),
                _share(each["retention"], each["retention_ci"]), _digits(each["lift_kept"]), _digits(each["tau"]),
                f"{each['speedup']:.1f} [{low:.1f}, {high:.1f}]", f"{each['size_mb']:.1f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _digits(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _share(value: float, interval: list[float]) -> str:
    return f"{value:.1%} [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]"


def draw(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw every set's students in int8, retention over speed-up with both intervals, as an SVG or PNG file.

    The front is filled and joined; a grey cross is a point that was asked for.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "points"
    from matplotlib import pyplot as plt

    rows = -(-len(results) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 3.6 * rows), squeeze=False, sharex=True, layout="constrained")
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        _panel(axis, {student: each["int8"] for student, each in result["students"].items()})
        axis.set_title(f"{name}: teacher {_digits(result['teacher'])} nDCG@10, {result['queries']} queries", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("speed-up over the teacher in PyTorch, CPU time a query", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("retention, %", fontsize=8)
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _panel(axis: Any, students: Students) -> None:
    best = on_front(students)
    line = [(students[name]["speedup"], students[name]["retention"] * 100) for name in best]
    axis.plot(*zip(*line, strict=True), color="tab:blue", linewidth=1, zorder=1)
    for name, each in students.items():
        x, y, colour = each["speedup"], each["retention"] * 100, "tab:blue" if name in best else "darkgrey"
        low, high = (each["retention_ci"][end] * 100 for end in (0, 1))
        slow, fast = each["speedup_ci"]
        axis.errorbar(
            x, y, xerr=[[x - slow], [fast - x]], yerr=[[y - low], [high - y]], color=colour, elinewidth=0.7, marker="o",
            markersize=4, markerfacecolor=colour if name in best else "white",
        )  # fmt: skip
        axis.annotate(
            name, (x, y), textcoords="offset points", xytext=(4, 4 if name in best else -9), fontsize=7, color=colour
        )
    asked = [(times, least * 100) for least, times in POINTS]
    axis.plot(*zip(*asked, strict=True), linestyle="none", marker="x", markersize=7, color="black", alpha=0.5)
    axis.set_xscale("log")
    axis.set_xlim(4, 260)  # room for the names of the fastest
    ticks = [5, 10, 15, 30, 60, 120]
    axis.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axis.minorticks_off()
    axis.tick_params(labelsize=8)
    axis.axhline(100, color="grey", linewidth=0.5, linestyle=":")
