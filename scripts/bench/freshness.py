"""How fresh updates keep a student, beside a frozen one and one that is distilled anew: streams of events in order.

python scripts/bench/freshness.py --work WORK --games FOLDER --out freshness.json \
    [--streams movielens swapped games] [--systems top_k_layers head ...]

Every slice of a stream is scored before anything is learned from it. FOLDER has Amazon games (corpus.jsonl and
ratings.tsv); MovieLens-100K comes from the package index. What is finished is kept in WORK, and a stopped laboratory
goes on there. A plot of each stream is written beside OUT. `--tune OVERRIDES ...` tries options of `distill-update`
(each a word of options separated by commas) on the first part of MovieLens' stream, which is not reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from drift_models import Updated, distil, score
from drift_report import FROZEN, FULL, System, compared, forgotten, over_frozen, plot
from drift_stream import Plan, Stream, read_games, read_movielens, stream_of
from hydra import compose, initialize_config_module

from rankdistill import options as options_
from rankdistill.commands import distill
from rankdistill.commands import update as update_cli
from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.online.events.labelled_lists import Shown
from rankdistill.options import Config, Updating

SLICE = 500  # events between two updates
PLANS = {
    "movielens": Plan(keep=0.16, shown=10, titles=3, old=1400, dev=1500, most=5500),
    "games": Plan(keep=0.02, shown=10, titles=3, old=1400, dev=1500, most=5500),
}
SWAPS = {"dev": ("Comedy", "Thriller"), "test": ("Action", "Children's")}
SWAP_AFTER, DEV_SWAP_AFTER = 1500, 500
POINTS = {"movielens": [3500], "swapped": [3500], "games": [2500]}  # events before each full distillation
ALL_UPDATES = ["update.group_size=10"]
SYSTEMS = {  # ways to be updated, by options of distill-update
    "top_k_layers": ["update=top_k_layers"],
    "head": ["update=head"],
    "head, new optimizer": ["update=head", "update.optimizer=new"],
    "top_k_layers, new optimizer": ["update=top_k_layers", "update.optimizer=new"],
    "lora": ["update=lora"],
    "all": ["update=all", "train.freeze_embeddings=false"],
    "all, new optimizer": ["update=all", "train.freeze_embeddings=false", "update.optimizer=new"],
}
LIBRARIES = ("rankdistill", "torch", "transformers", "peft", "numpy")
RECIPE = [  # of the frozen student and of every full distillation
    "student=l1_h384", "teacher.max_length=64", "teacher.fit.max_pairs=12000", "teacher.fit.group_size=10",
    "teacher.fit.evaluations=2", "student.fit.max_pairs=32000", "student.fit.group_size=10",
    "student.fit.evaluations=1",
]  # fmt: skip


def config_of(overrides: Sequence[str]) -> Config:
    """Return a run's options."""
    options_.register()
    with initialize_config_module("rankdistill.conf", version_base="1.3"):
        return distill.convert(compose("config", overrides=[*overrides]))


def updating_of(overrides: Sequence[str]) -> Updating:
    """Return the options of an update."""
    return update_cli.convert(update_cli.composed("laboratory", [*ALL_UPDATES, *overrides]))


def ndcg(scores: np.ndarray, lists: Sequence[Shown]) -> np.ndarray:
    """Return nDCG@10 of each list, float64 [lists]."""
    grades = np.array([grade for each in lists for grade in each.grades])
    offsets = np.cumsum([0, *(len(each.items) for each in lists)])
    return ranking_metrics(scores, grades, offsets)["ndcg@10"]


def slices_of(count: int, size: int) -> list[slice]:
    """Return the slices of a stream, the last as long as is left."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class Laboratory:
    """One stream and all that follow it.

    Args:
        name: of the stream.
        stream: its lists.
        config: of every full distillation.
        work: where models and scores are kept.
    """

    def __init__(self, name: str, stream: Stream, config: Config, work: Path) -> None:
        self.name, self.stream, self.config, self.work = name, stream, config, work
        self.slices = slices_of(len(stream.lists), SLICE)
        self.first = distil(stream.old, config, work)
        self.last: dict[str, np.ndarray] = {}  # nDCG@10 on the old test set of each system's last model

    def frozen(self) -> System:
        """Return what the first student makes of the stream."""
        parts = [self._values(self.first.folder, self.first.key, self.stream.lists[part]) for part in self.slices]
        self.last[FROZEN] = self._values(self.first.folder, self.first.key, self.stream.test)
        cost = {part: round(seconds, 1) for part, seconds in self.first.cost.items()}
        told = {"made_of": len(self.stream.old), "cpu_s_of_parts": cost}
        return System(np.concatenate(parts), [float(self.last[FROZEN].mean())], [], told)

    def full(self, points: Sequence[int]) -> System:
        """Return what students make of it that are distilled anew on all lists to date, after so many events each."""
        model, values, cost, parts = self.first, [], [], []
        self.last[FULL] = self._values(model.folder, model.key, self.stream.test)
        old = [float(self.last[FULL].mean())]
        for begin, end in itertools.pairwise([0, *points, len(self.stream.lists)]):
            if begin:
                model = distil([*self.stream.old, *self.stream.lists[:begin]], self.config, self.work)
                self.last[FULL] = self._values(model.folder, model.key, self.stream.test)
                old.append(float(self.last[FULL].mean()))
                parts.append({part: round(seconds, 1) for part, seconds in model.cost.items()})
                cost.append(sum(model.cost.values()))
            values.append(self._values(model.folder, model.key, self.stream.lists[begin:end]))
        return System(np.concatenate(values), old, cost, {"after": [*points], "cpu_s_of_parts": parts})

    def updated(self, name: str, options: Updating, until: int | None = None) -> System:
        """Return what a student makes of it that is updated after every slice.

        Args:
            name: of the system.
            options: of its updates.
            until: only the events before this one.
        """
        student = Updated(self.first, self.stream.test, options, self.config, self.work)
        values, old, told = [], [], []
        slices = [part for part in self.slices if until is None or part.stop <= until]
        for part in slices:
            lists = self.stream.lists[part]
            values.append(self._values(student.folder, student.key, lists))
            old.append(float(ndcg(student.test_scores, self.stream.test).mean()))
            if part is not slices[-1]:
                told.append(student.learn(lists))
                print(f"{self.name} {name} {part.stop}: {values[-1].mean():.4f} {told[-1]}", flush=True)
        self.last[name] = ndcg(student.test_scores, self.stream.test)
        return System(
            np.concatenate(values), old, [each["cpu_s"] for each in told],
            {
                "after": [part.stop for part in slices[:-1]],
                "check_cpu_s": [round(each["check_cpu_s"], 1) for each in told],
                "refused_by": [each["refused_by"] for each in told],
            },
        )  # fmt: skip

    def _values(self, folder: Path, key: str, lists: Sequence[Shown]) -> np.ndarray:
        return ndcg(score(folder, key, lists, self.config, self.work), lists)


def read_stream(name: str, games: Path | None) -> Stream:
    """Return a stream by its name."""
    if name == "games":
        if games is None:
            raise SystemExit("--games FOLDER is missing: Amazon games")
        return stream_of(read_games(games), PLANS["games"])
    change = {"swapped": (SWAPS["test"], SWAP_AFTER), "dev": (SWAPS["dev"], DEV_SWAP_AFTER)}.get(name)
    return stream_of(read_movielens(), PLANS["movielens"], change)


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is found on a stream, with its plot beside the results."""
    whole = read_stream(name, arguments.games)
    stream = replace(whole, lists=whole.lists[: arguments.until])
    laboratory = Laboratory(name, stream, config_of([*RECIPE, *arguments.recipe]), arguments.work)
    points = [point for point in POINTS[name] if point < len(stream.lists)]
    systems = {FROZEN: laboratory.frozen()} | ({FULL: laboratory.full(points)} if points else {})
    for system in arguments.systems:
        systems[system] = laboratory.updated(system, updating_of(SYSTEMS[system]))
    ends = [*points[1:], len(stream.lists)][: len(points)]
    windows = [slice(begin, end) for begin, end in zip(points, ends, strict=True)]
    marks: dict[str, float] = {f"distilled anew ({point})": point for point in points}
    marks |= {} if stream.change is None else {"change": stream.change}
    plot(systems, laboratory.slices, marks, arguments.out.with_name(f"{arguments.out.stem}_{name}.svg"))
    return {
        "plan": asdict(PLANS["games" if name == "games" else "movielens"]),
        "recipe": [*RECIPE, *arguments.recipe],
        "old": len(stream.old), "test": len(stream.test), "events": len(whole.lists), "replayed": len(stream.lists),
        "change": stream.change,
        "slices": [part.stop for part in laboratory.slices],
        "systems": {system: found.as_dict(laboratory.slices) for system, found in systems.items()},
        "windows": [
            {"from": window.start, "to": window.stop} | compared(systems, window, number)
            for number, window in enumerate(windows)
        ],
        "over_frozen": over_frozen(systems, laboratory.slices),
        "forgotten": forgotten(systems, laboratory.last),
    }  # fmt: skip


def tune(arguments: argparse.Namespace) -> None:
    """Print what options make of the part of two streams that is not reported."""
    for name in ("movielens", "dev"):
        laboratory = Laboratory(name, read_stream(name, None), config_of(RECIPE), arguments.work)
        until = PLANS["movielens"].dev
        frozen = laboratory.frozen()
        for words in arguments.tune:
            found = laboratory.updated(words, updating_of(words.split(",")), until)
            gain = [
                round(float((found.values - frozen.values[:until])[part].mean()), 4) for part in slices_of(until, SLICE)
            ]
            lost = [round(value - found.old[0], 4) for value in found.old]
            print(f"TUNE {name} {words}: gain {gain} old {lost} CPU {np.mean(found.cost):.1f} s", flush=True)


def main() -> None:
    """Run the laboratory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--games", type=Path)
    parser.add_argument("--streams", nargs="+", default=["movielens", "swapped", "games"], choices=POINTS)
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS], choices=SYSTEMS, metavar="SYSTEM")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="OPTION=VALUE", help="of distill, over the recipe")
    parser.add_argument("--until", type=int, metavar="EVENTS", help="replay only so many events of each stream")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tune", nargs="+", metavar="OVERRIDES")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.tune:
        tune(arguments)
        return
    about = {"host": describe_host(), "versions": versions(LIBRARIES), "slice": SLICE,
             "updates": {name: [*ALL_UPDATES, *words] for name, words in SYSTEMS.items()}}  # fmt: skip
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    streams = kept.get("streams", {})
    for name in arguments.streams:
        streams[name] = measured(name, arguments)
        write_atomic(arguments.out, json.dumps(about | {"streams": streams}, indent=1) + "\n")


if __name__ == "__main__":
    main()
