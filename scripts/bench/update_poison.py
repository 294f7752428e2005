"""How much of a poison the check of labels finds, and how often it takes sound outcomes for one: on a run's dev split.

python scripts/bench/update_poison.py --run RUN --out update_poison.json

Dev lists, which were never trained on, are cut into events of eight candidates in random order. Their grades are the
outcomes, and the served model is the run's 8-bit student. Labels of a part are flipped: of some events in a row, or of
all events of some users.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data.records import RankingData, Split
from rankdistill.export.files import write_atomic
from rankdistill.export.measure import predictions
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.models.model_files import RUN
from rankdistill.online.label_check import label_check
from rankdistill.options import HeadUpdate

SHOWN = 8
WINDOWS, USERS = (20, 50, 100, 200), (0.1, 0.2, 0.3, 0.4)
HIGHEST = 2  # grade, which a flip takes for 0

Flip = Callable[[int, int], bool]


def draw(split: Split, events: int, seed: int) -> list[tuple[int, np.ndarray]]:
    """Return events: the query, whose user it is, and the rows that were shown."""
    rng, found = np.random.default_rng(seed), []
    for query in range(len(split.query)):
        rows = rng.permutation(np.arange(split.offsets[query], split.offsets[query + 1]))
        found += [(query, rows[at : at + SHOWN]) for at in range(0, len(rows) - SHOWN + 1, SHOWN)]
    return [found[place] for place in rng.permutation(len(found))[:events]]


def refused(split: Split, scores: np.ndarray, events: list[tuple[int, np.ndarray]], flip: Flip) -> bool:
    """Return whether the events are refused when some are flipped, by their place and their query."""
    grades = [np.minimum(split.grade[rows], HIGHEST) for _, rows in events]
    grades = [HIGHEST - g if flip(at, events[at][0]) else g for at, g in enumerate(grades)]
    count = len(events)
    made = Split(
        np.arange(count, dtype=np.int32),
        np.arange(0, SHOWN * count + 1, SHOWN, dtype=np.int64),
        np.arange(SHOWN * count, dtype=np.int32),
        np.concatenate(grades).astype(np.int32),
    )
    shown = scores[np.concatenate([rows for _, rows in events])]
    return not label_check(made, shown, [str(query) for query, _ in events], None, HeadUpdate()).ok


def shares(split: Split, scores: np.ndarray, count: int, draws: int) -> dict[str, Any]:
    """Return in how many of the draws each poison is found."""

    def times(make: Callable[[np.random.Generator, int], Flip]) -> int:
        found = 0
        for seed in range(draws):
            events = draw(split, count, seed)
            found += refused(split, scores, events, make(np.random.default_rng(seed), len(events)))
        return found

    def in_a_row(size: int) -> Callable[[np.random.Generator, int], Flip]:
        def make(rng: np.random.Generator, events: int) -> Flip:
            start = int(rng.integers(events - size + 1))
            return lambda at, _: start <= at < start + size

        return make

    def of_users(share: float) -> Callable[[np.random.Generator, int], Flip]:
        def make(rng: np.random.Generator, _: int) -> Flip:
            chosen = set(rng.permutation(len(split.query))[: round(share * len(split.query))].tolist())
            return lambda _, query: query in chosen

        return make

    return {
        "sound": times(lambda *_: lambda *_: False),
        "in_a_row": {size: times(in_a_row(size)) for size in WINDOWS},
        "of_users": {share: times(of_users(share)) for share in USERS},
    }


def main() -> None:
    """Measure and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="with a cascade, which scores the dev split")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    stages = json.loads((options.run / RUN).read_text(encoding="utf-8"))["stages"]
    data = RankingData.open(options.run / stages["data"])
    scores = predictions.read(options.run / stages["dev predictions student onnxruntime int8"])
    found: dict[str, Any] = {
        "set": data.summary["name"],
        "split": "dev",
        "events": options.events,
        "draws": options.draws,
    }
    found |= {"refused": shares(data.splits["dev"], scores, options.events, options.draws)}
    print(json.dumps(found, indent=2))
    if options.out:
        host = {"host": describe_host(), "versions": versions(["rankdistill", "numpy", "scipy"])}
        write_atomic(options.out, json.dumps({**host, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
