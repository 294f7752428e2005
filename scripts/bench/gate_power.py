"""Whether the gate can be trusted: false alarms on a bundle against itself, and injected losses that it must find.

python scripts/bench/gate_power.py --bundle BUNDLE --out gate_power.json

Three experiments, each with processes beside it that keep every core busy:
- same: the bundle against itself, bound cpu_ratio <= 1.02; a verdict "fail" is a false alarm.
- slower: every score call of one side scores one of its 20 items again, the one of median length: 5% more work; same
  bound; a verdict "fail" is what should come.
- worse: a set of QUERIES queries; random ones are ordered worse until the mean nDCG@10 is .005 lower; bound
  quality_difference >= -0.001; a verdict "fail" is what should come.

Every finished run is written to the file at once: stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill import Ranker
from rankdistill.export.files import write_atomic
from rankdistill.export.gate.budget import Budget
from rankdistill.export.gate.decision import judge
from rankdistill.export.gate.estimates import quality_estimates
from rankdistill.export.gate.measurements import compare
from rankdistill.export.measure.bench import golden_requests
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.runtime.threads import available_cores

LOSS, QUERIES, CANDIDATES, ITEMS = 0.005, 1000, 20, 20
SPEED = Budget.of({"require": ["cpu_ratio <= 1.02"], "time_limit": 60}, "speed")
QUALITY = Budget.of({"require": ["quality_difference >= -0.001"]}, "quality")
BUSY = "import numpy as np\na = np.ones((300, 300), np.float32)\nwhile True: a @ a"
RUNS = {"same": 200, "slower": 100, "worse": 100}


class Slower:
    """A ranker that does one item's work too much in every call."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    def score_items(self, query: str, items: Sequence[str]) -> Any:
        """Score the items, and the one of median length again."""
        self._ranker.score_items(query, [sorted(items, key=len)[len(items) // 2]])
        return self._ranker.score_items(query, items)


def speed_verdict(bundle: Path, slower: bool) -> dict[str, Any]:
    """Gate a bundle, loaded anew, against itself, one side slower or as it is."""
    requests = golden_requests(bundle, ITEMS)
    start = time.perf_counter()

    def as_it_is() -> Ranker:
        return Ranker.load(bundle, keep_mb=0)

    @contextmanager
    def with_more_work() -> Iterator[Slower]:
        with as_it_is() as ranker:
            yield Slower(ranker)

    subject = with_more_work if slower else as_it_is
    found = compare(subject, as_it_is, SPEED, SPEED.bounds, requests, lambda _: None)
    line = judge(SPEED, found, "student").lines[0]
    return {"verdict": line.verdict, "measured": line.measured, "low": line.low, "high": line.high,
            "loads": found["cpu_ratio"].samples, "seconds": round(time.perf_counter() - start, 2)}  # fmt: skip


def quality_verdict(seed: int) -> dict[str, Any]:
    """Gate a generated model of that many queries against one that orders random queries worse."""
    rng = np.random.default_rng(seed)
    offsets = np.arange(0, (QUERIES + 1) * CANDIDATES, CANDIDATES)
    grades = rng.choice(3, QUERIES * CANDIDATES, p=(0.7, 0.2, 0.1)).astype(np.int32)
    scores = grades + rng.normal(0, 1, len(grades))
    good = ranking_metrics(scores, grades, offsets)["ndcg@10"]
    bad = good.copy()
    for query in rng.permutation(QUERIES):
        if np.nanmean(good - bad) >= LOSS:
            break
        rows = slice(offsets[query], offsets[query + 1])
        harmed = scores[rows] + rng.normal(0, 1, CANDIDATES)
        bad[query] = ranking_metrics(harmed, grades[rows], np.array([0, CANDIDATES]))["ndcg@10"][0]
    contents = [
        {"fingerprint": "x", "split": "test", "queries": list(range(QUERIES)), "models": [
            {"model": "student", "engine": "onnxruntime", "precision": "int8", "quality": {"ndcg@10": values.tolist()}}
        ]} for values in (bad, good)
    ]  # fmt: skip
    baseline = (contents[1], "int8")
    found = quality_estimates(contents[0], "int8", ["quality_difference"], QUALITY.confidence, baseline)
    line = judge(QUALITY, found, "student").lines[0]
    return {"verdict": line.verdict, "measured": line.measured, "low": line.low, "high": line.high}


def main() -> None:
    """Run what is missing of the experiments, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(RUNS), nargs="+", default=list(RUNS))
    options = parser.parse_args()
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    if options.out.is_file():
        done |= json.loads(options.out.read_text())["runs"]
    load = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(available_cores())]
    try:
        for name in options.only:
            for number in range(len(done[name]), RUNS[name]):
                if name in ("same", "slower"):
                    done[name].append(speed_verdict(options.bundle, name == "slower"))
                else:
                    done[name].append(quality_verdict(number))
                write_atomic(options.out, summary(done))
            print(name, json.loads(summary(done))["rates"].get(name), flush=True)
    finally:
        for process in load:
            process.kill()


def summary(done: dict[str, list[dict[str, Any]]]) -> str:
    """Return the file's text: rates of every verdict, and every run."""
    rates = {}
    for name, runs in done.items():
        if runs:
            verdicts = {kind: sum(run["verdict"] == kind for run in runs) for kind in ("pass", "fail", "inconclusive")}
            rates[name] = {"runs": len(runs), **verdicts}
            if "seconds" in runs[0]:
                rates[name]["median_seconds"] = float(np.median([run["seconds"] for run in runs]))
                rates[name]["median_loads"] = float(np.median([run["loads"] for run in runs]))
    settings = {"loss": LOSS, "queries": QUERIES, "candidates": CANDIDATES, "items": ITEMS,
                "busy_processes": available_cores()}  # fmt: skip
    libraries = versions(("rankdistill", "onnxruntime", "numpy"))
    content = {"rates": rates, "settings": settings, "host": describe_host(), "versions": libraries, "runs": done}
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    main()
