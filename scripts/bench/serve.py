"""The service under load: what priorities, the cache and HTTP itself are worth, in ratios taken in one run.

python scripts/bench/serve.py --bundle BUNDLE --data AMAZON_GAMES --data CROWDFLOWER --out serve.json

Load is open-loop and Poisson, from another process over loopback; queries by a Zipf law, 40 texts a request. What is
compared takes turns, three times each. The client shares the cores with the service, as in every number here.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import parts
from load import Call, Load, Mix, Sample, percentile, poisson
from service import Process, serving

from rankdistill.export.files import write_atomic
from rankdistill.export.machine_lock import alone
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.threads import available_cores
from rankdistill.export.serve.caching.score_cache import PAGE_BYTES, PAGE_ITEMS

TEXTS, SKEW, REPEATS = 40, 0.9, 3
WAKE = 20  # requests that are not timed
SHARE = 0.01  # of all scores that the cache may keep
WARM = 3  # times as long as it is measured, the cache fills and counts
SHARES = {"high": 0.2, "normal": 0.3, "low": 0.5}
PATH = "/rerank"
OFF = {"cache": {"mb": 0}, "limits": {"concurrency": 100_000}}


def measured_cpu(process: Process, load: Load) -> tuple[list[Sample], float, float]:
    """Return a load's samples, the service's CPU seconds meanwhile, and the seconds until the last answer."""
    before, start = process.cpu_s(), time.perf_counter()
    samples = load.samples()
    return samples, process.cpu_s() - before, time.perf_counter() - start


def direct(bundle: Path, mix: Mix, rows: np.ndarray) -> tuple[float, float]:
    """Return requests per second and CPU seconds of a request of the runtime alone."""
    with Ranker.load(bundle) as ranker:
        for row in rows[:WAKE]:
            ranker.score_items(mix.queries[row], mix.items[row])
        start, cpu = time.perf_counter(), time.process_time()
        for row in rows:
            ranker.score_items(mix.queries[row], mix.items[row])
        return len(rows) / (time.perf_counter() - start), (time.process_time() - cpu) / len(rows)


def distinct(mix: Mix, count: int, turn: int) -> np.ndarray:
    """Return queries that were not asked before: equal ones in flight are scored once, and tokens are kept."""
    return np.random.default_rng(1).permutation(len(mix.queries))[turn * count : (turn + 1) * count]


def flood(process: Process, bodies: list[bytes], rows: np.ndarray) -> dict[str, float]:
    """Send requests all at once and return what the service can take, and CPU seconds of one."""
    calls = [Call(0.0, int(row)) for row in rows]
    samples, cpu, _ = measured_cpu(process, Load(process.address, PATH, bodies, calls))
    done = [sample for sample in samples if sample.status == 200]
    last = max(sample.seconds for sample in done)
    return {"requests_per_s": len(done) / last, "cpu_s": cpu / len(done), "failed": len(samples) - len(done)}


def overhead(bundle: Path, mix: Mix, count: int) -> dict[str, Any]:
    """Compare HTTP with the runtime alone, in turns: CPU of a request, and requests a second at saturation."""
    bodies, rows = mix.bodies(), []
    with serving(bundle, OFF) as process:
        flood(process, bodies, distinct(mix, WAKE, 0))
        for repeat in range(REPEATS):
            fresh = distinct(mix, count, repeat + 1)
            own_rate, own_cpu = direct(bundle, mix, fresh)
            served = flood(process, bodies, fresh)
            rows.append(
                {"direct_per_s": own_rate, "direct_cpu_s": own_cpu, **served, "cpu_ratio": served["cpu_s"] / own_cpu}
            )
    return {"repeats": rows, "cpu_ratio": float(np.median([row["cpu_ratio"] for row in rows]))}


def policies(bundle: Path, mix: Mix, seconds: float, capacity: float) -> dict[str, Any]:
    """Compare fifo with priorities at 80% of the capacity: high's p99, low's throughput, the longest wait."""
    bodies = mix.bodies()
    age_s, rate = 2.0, 0.8 * capacity
    found: dict[str, list[dict[str, float]]] = {"fifo": [], "priority": []}
    for repeat in range(REPEATS):
        for policy in ("fifo", "priority") if repeat % 2 == 0 else ("priority", "fifo"):
            with serving(bundle, {**OFF, "queue": {"policy": policy, "age_s": age_s}}) as process:
                flood(process, bodies, distinct(mix, WAKE, 0))
                calls = poisson(rate, seconds, mix, 10 + repeat, SHARES)
                samples = Load(process.address, PATH, bodies, calls).samples()
            row = {"failed": float(sum(sample.status != 200 for sample in samples))}
            for name in SHARES:
                own = [s for s in samples if calls[s.call].headers == (("x-priority", name),)]
                done = [s for s in own if s.status == 200 and calls[s.call].at + s.seconds <= seconds]
                row |= {
                    f"{name}_p50_ms": 1000 * percentile(own, 50), f"{name}_p99_ms": 1000 * percentile(own, 99),
                    f"{name}_max_ms": 1000 * percentile(own, 100), f"{name}_per_s": len(done) / seconds,
                }  # fmt: skip
            found[policy].append(row)

    def ratio(field: str) -> float:
        return float(np.median([o[field] / f[field] for o, f in zip(found["priority"], found["fifo"], strict=True)]))

    return {
        "rate_per_s": rate, "age_s": age_s, **found, "high_p99_ratio": ratio("high_p99_ms"),
        "low_throughput_ratio": ratio("low_per_s"), "longest_wait_ms": max(r["low_max_ms"] for r in found["priority"]),
    }  # fmt: skip


def cached(bundle: Path, mix: Mix, seconds: float, capacity: float) -> dict[str, Any]:
    """Keep 1% of all scores and compare a load's hits with those of the most frequent 1% alone."""
    pairs = sum(map(len, mix.items))
    kept = int(SHARE * pairs)
    best = float(np.sort(mix.shares)[::-1][: round(SHARE * len(mix.shares))].sum())
    bodies, ratios = mix.bodies(), []
    for repeat in range(REPEATS):
        with serving(bundle, {**OFF, "cache": {"mb": math.ceil(kept / PAGE_ITEMS) * PAGE_BYTES / 1e6}}) as process:
            url = f"http://{process.address[0]}:{process.address[1]}/metrics"
            counts = []
            for part, length in enumerate((WARM * seconds, seconds)):
                calls = poisson(0.9 * capacity, length, mix, 50 + 10 * repeat + part)
                Load(process.address, PATH, bodies, calls).samples()
                counts.append(_hits(url))
        hits, misses = (after - before for before, after in zip(*counts, strict=True))
        ratios.append(hits / (hits + misses))
    return {
        "pairs": pairs, "kept": kept, "hit_ratios": ratios, "static_optimum": best,
        "of_optimum": float(np.mean(ratios)) / best,
    }  # fmt: skip


def _hits(url: str) -> tuple[float, float]:
    page = httpx.get(url).text
    found = [re.search(rf"^ranker_cache_{name}_total (\S+)", page, re.MULTILINE) for name in ("hits", "misses")]
    return tuple(float(match[1]) if match else 0.0 for match in found)  # type: ignore[return-value]


EXPERIMENTS = ("overhead", "policies", "cached")


def main() -> None:
    """Run the experiments asked for; what a result file holds of others stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="BEIR folder; several times for several"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--requests", type=int, default=400, help="of each flood")
    options = parser.parse_args()
    mix = Mix.of(options.data, TEXTS, SKEW)
    with tempfile.TemporaryDirectory() as folder:
        run(options, parts.student(options.bundle, Path(folder) / "student"), mix)


def run(options: argparse.Namespace, bundle: Path, mix: Mix) -> None:
    """Run the experiments on a bundle without a cascade."""
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if "overhead" in options.only:
        with alone():
            results["overhead"] = overhead(bundle, mix, options.requests)
        print("overhead", json.dumps(results["overhead"], indent=1))
    capacity = float(np.median([row["requests_per_s"] for row in results["overhead"]["repeats"]]))
    for name, experiment in {"policies": policies, "cached": cached}.items():
        if name in options.only:
            with alone():
                results[name] = experiment(bundle, mix, options.seconds, capacity)
            print(name, json.dumps(results[name], indent=1))
    results |= {
        "cores": available_cores(), "host": describe_host(), "versions": versions(["rankdistill", "onnxruntime"]),
        "texts": TEXTS, "skew": SKEW,
    }  # fmt: skip
    write_atomic(options.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
