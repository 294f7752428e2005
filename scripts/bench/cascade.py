"""What a bundle's cascade keeps and saves: in CPU time, against its last stage alone, and over random splits.

python scripts/bench/cascade.py --bundle BUNDLE --candidates 50 100 --work FOLDER --out cascade.json

The bundle is one of distill cascade=student_teacher on MovieLens. Lists of other lengths are made of the same users and
relevant items, with more unseen ones. Cut-offs are chosen anew for each length: on dev, measured on test; then on
random halves of both, measured on the other half. Scores are kept in FOLDER and reused.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data import sources
from rankdistill.data.records import RankingData
from rankdistill.export.measure.cascade_levels import Asked, Lists, Stage, ladder, lost_share, walk
from rankdistill.export.measure.cut_offs import Needs
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.quality import difference_interval, ranking_metrics, ratio_interval
from rankdistill.export.runtime.bm25 import Bm25
from rankdistill.export.runtime.cascade import Cascade, Level
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.runtime.plan import score
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.shortlist import Cut
from rankdistill.options import MovieLensData

SPLITS, TRIALS, TIMED = ("dev", "test"), 200, 20
TOLERANCES, CONFIDENCE, DEPTH = (0.01, 0.02, 0.05, 0.1), 0.95, 10
Scorers = Mapping[str, Ranker | Bm25]


def lists_of(data: MovieLensData, candidates: int, folder: Path) -> RankingData:
    """Return the data set with lists of so many candidates."""
    out = folder / f"data-{candidates}"
    if not out.is_dir():
        out.mkdir(parents=True)
        sources.locate(replace(data, candidates=candidates)).write(out)
    return RankingData.open(out)


def scores_of(name: str, scorer: Ranker | Bm25, data: RankingData, folder: Path) -> dict[str, Float32]:
    """Return a stage's scores of every candidate, by split."""
    found = {}
    for split in SPLITS:
        path = folder / f"{name}-{split}.npy"
        if not path.is_file():
            print(f"{path} ...", flush=True)
            parts = [_score(scorer, query, items) for query, items in data.lists(data.splits[split])]
            np.save(path, np.concatenate(parts))
        found[split] = np.load(path)
    return found


def time_levels(scorers: Scorers, levels: Sequence[dict[str, Any]], data: RankingData) -> dict[str, float]:
    """Return each level's CPU-ms of a query on one thread: median over turns, mean over queries; interleaved."""
    plans = {}
    for level in levels:
        cuts = tuple(Cut(**cut) for cut in level["cuts"])
        told = Level(level["name"], tuple(level["stages"]), cuts, level["cpu_ms"], level["ndcg@10"], level["retention"])
        plans[level["name"]] = Cascade(scorers, [told], told.name)
    queries = list(data.lists(data.splits["test"].sample(TIMED, 0)))
    samples = {name: np.empty((3, len(queries))) for name in plans}
    for turn in range(3):
        for number, (query, items) in enumerate(queries):
            for name, plan in plans.items():
                start = time.process_time()
                score(plan, query, items)
                samples[name][turn, number] = (time.process_time() - start) * 1e3
    return {name: round(float(np.median(values, axis=0).mean()), 3) for name, values in samples.items()}


def try_splits(stages: Sequence[Stage], lists: Mapping[str, Lists], rule: str, tolerance: float) -> dict[str, Any]:
    """Choose cuts on random halves of all queries; return how often the other half keeps the tolerance."""
    offsets = np.r_[lists["dev"].offsets, lists["dev"].offsets[-1] + lists["test"].offsets[1:]]
    grades = np.r_[lists["dev"].grades, lists["test"].grades]
    whole = [np.r_[stage.dev, stage.measured] for stage in stages]
    needs = [Needs.of(each, whole[-1], offsets, rule=rule, depth=DEPTH) for each in whole[:-1]]
    ndcg_last = ranking_metrics(whole[-1], grades, offsets)["ndcg@10"]
    rng = np.random.default_rng(0)
    kept, lost, items, retention = [], [], [], []
    for _ in range(TRIALS):
        order = rng.permutation(len(offsets) - 1)
        half = len(order) // 2
        cuts = []
        for each in needs:
            chosen = replace(each, values=each.values[order[:half]]).choose(tolerance / len(needs), CONFIDENCE)
            if chosen is not None:
                cuts.append(chosen.cut)
        if len(cuts) < len(needs):
            kept.append(True)  # the last stage alone
            continue
        rows = np.concatenate([np.arange(offsets[q], offsets[q + 1]) for q in order[half:]])
        ends = np.r_[0, np.cumsum(np.diff(offsets)[order[half:]])]
        found, scored = walk([each[rows] for each in whole], cuts, ends)
        lost.append(lost_share(found, whole[-1][rows], ends, DEPTH))
        kept.append(lost[-1] <= tolerance)
        items.append(scored[-1])
        ndcg = ranking_metrics(found, grades[rows], ends)["ndcg@10"].mean()
        retention.append(ndcg / ndcg_last[order[half:]].mean())
    return {
        "tolerance": tolerance, "rule": rule, "kept": float(np.mean(kept)), "without_cut": TRIALS - len(lost),
        "lost": float(np.mean(lost)) if lost else None, "items_of_last": float(np.mean(items)) if items else None,
        "retention_mean": float(np.mean(retention)) if retention else None,
        "retention_kept_.995": float(np.mean(np.array(retention) >= 0.995)) if retention else None,
    }  # fmt: skip


def measure(scorers: Scorers, data: RankingData, folder: Path) -> dict[str, Any]:
    """Return levels with measured costs, and what random splits keep, for lists of one length."""
    lists = {split: Lists(data.splits[split].grade, data.splits[split].offsets) for split in SPLITS}
    scored = {name: scores_of(name, scorer, data, folder) for name, scorer in scorers.items()}
    told = {}
    for rule in ("margin", "number"):
        stages = [Stage(name, each["dev"], each["test"], 1.0) for name, each in scored.items()]
        alone = [{"name": s.name, "stages": [s.name], "cuts": [], "cpu_ms": 0.0, "ndcg@10": 0.0, "retention": 0.0}
                 for s in stages]  # fmt: skip
        costs = time_levels(scorers, alone, data)
        length = lists["dev"].offsets[-1] / (len(lists["dev"].offsets) - 1)
        stages = [replace(stage, ms_per_pair=costs[stage.name] / length) for stage in stages]
        found = ladder(stages, lists["dev"], lists["test"], Asked(rule, DEPTH, 0.05, CONFIDENCE, TOLERANCES))
        for split in SPLITS:
            _add_intervals(found["levels"], stages, lists[split], split)
        measured = time_levels(scorers, found["levels"], data)
        for level in found["levels"]:
            level["measured_cpu_ms"] = measured[level["name"]]
            level["times_fewer_cpu_ms"] = round(measured[stages[-1].name] / measured[level["name"]], 2)
        told[rule] = found | {"splits": [try_splits(stages, lists, rule, tolerance) for tolerance in TOLERANCES]}
    return told


def _add_intervals(levels: Sequence[dict[str, Any]], stages: Sequence[Stage], lists: Lists, split: str) -> None:
    """Add the 95% intervals of retention and of the difference in nDCG@10 to the last stage alone."""
    own = {stage.name: stage.dev if split == "dev" else stage.measured for stage in stages}
    last = ranking_metrics(own[stages[-1].name], lists.grades, lists.offsets)["ndcg@10"]
    drawn = {"confidence": 0.95, "resamples": 10_000, "seed": 0}
    for level in levels:
        cuts = [Cut(**cut) for cut in level["cuts"]]
        scores, _ = walk([own[name] for name in level["stages"]], cuts, lists.offsets)
        ndcg = ranking_metrics(scores, lists.grades, lists.offsets)["ndcg@10"]
        level[f"{split}_retention"] = float(ndcg.mean() / last.mean())
        level[f"{split}_retention_ci"] = ratio_interval(ndcg, last, **drawn)
        level[f"{split}_difference_ci"] = difference_interval(ndcg, last, **drawn)


def _score(scorer: Ranker | Bm25, query: str, items: Sequence[str]) -> Float32:
    return scorer.scores(query, items) if isinstance(scorer, Bm25) else scorer.score_items(query, items)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--candidates", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    options = Manifest.read(arguments.bundle).content["config"]["data"]
    data = MovieLensData(**options)
    with Cascade.load(arguments.bundle, threads=1, keep_mb=0) as cascade:
        result = {"host": describe_host(), "versions": versions(("rankdistill", "onnxruntime", "numpy")), "lists": {}}
        for candidates in arguments.candidates:
            records = lists_of(data, candidates, arguments.work)
            scores = arguments.work / f"scores-{candidates}"
            scores.mkdir(exist_ok=True)
            result["lists"][candidates] = measure(cascade.scorers, records, scores)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
