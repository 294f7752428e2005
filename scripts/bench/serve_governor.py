"""A governed service while the load steps up and down: how soon its p99 is back, what it served meanwhile.

python scripts/bench/serve_governor.py --bundle CASCADE_BUNDLE --data FOLDER --out serve_governor.json

The bundle is one of distill cascade=student_teacher. Load is open-loop and Poisson: .5, 2 and .5 times what the dearest
level can take, measured first. The same load goes to that level without a governor, for comparison.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parts
from load import Call, Load, Mix, Sample, poisson
from service import serving

from rankdistill.export.files import write_atomic
from rankdistill.export.machine_lock import alone
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.runtime.cascade import Cascade

TEXTS, SKEW, PATH = 40, 0.9, "/rerank"
STEPS = (0.5, 2.0, 0.5)
OFF = {"cache": {"mb": 0}}
WINDOW_S = 1.0
TARGET = 8  # times what a request of the dearest level takes with all threads to itself


def capacity(bundle: Path, mix: Mix, level: str, count: int = 60) -> float:
    """Return the requests a second that a level can take."""
    with serving(bundle, {**OFF, "level": level}) as process:
        bodies = mix.bodies()
        calls = [Call(0.0, row) for row in range(count)]
        Load(process.address, PATH, bodies, calls[:10]).samples()
        samples = Load(process.address, PATH, bodies, calls).samples()
    return count / max(sample.seconds for sample in samples)


def steps(rate: float, seconds: float, mix: Mix) -> list[Call]:
    """Return the calls of all steps, one after the other."""
    calls: list[Call] = []
    for place, share in enumerate(STEPS):
        calls += [
            replace(call, at=call.at + place * seconds) for call in poisson(share * rate, seconds, mix, 100 + place)
        ]
    return calls


def judge(calls: list[Call], samples: list[Sample], seconds: float, target_s: float) -> dict[str, Any]:
    """Return p99 by second, when it was back under the target after the step up, and what served."""
    at = np.array([calls[sample.call].at for sample in samples])
    late = np.array([sample.seconds if sample.status == 200 else np.nan for sample in samples])
    by_second = [
        float(np.nanquantile(late[(at >= start) & (at < start + WINDOW_S)], 0.99, method="higher"))
        for start in np.arange(0, len(STEPS) * seconds, WINDOW_S)
    ]
    first = int(seconds / WINDOW_S)
    over = [n for n, p99 in enumerate(by_second[first : 2 * first]) if not p99 <= target_s]
    parts = {}
    for place, share in enumerate(STEPS):
        inside = [s for s in samples if place * seconds <= calls[s.call].at < (place + 1) * seconds]
        parts[f"step {place} ({share}x)"] = {
            "statuses": dict(Counter(str(sample.status) for sample in inside)),
            "levels": dict(Counter(sample.headers.get("x-rank-level", "none") for sample in inside)),
        }
    return {
        "back_after_s": (over[-1] + 1) * WINDOW_S if over else 0.0,
        "p99_by_second_ms": [round(1000 * p99, 1) for p99 in by_second], "steps": parts,
    }  # fmt: skip


def main() -> None:
    """Measure the capacity, then the steps with and without a governor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each step")
    parser.add_argument("--floor", type=float, default=0.95, help="lowest retention")
    parser.add_argument("--ordered", action="store_true", help="levels by what they keep of the last stage's order")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, alone():
        if options.ordered:
            options.bundle = parts.ordered(options.bundle, Path(folder) / "ordered")
        found = {"ordered": options.ordered} | compare(options, Mix.of(options.data, TEXTS, SKEW))
    found |= {"host": describe_host(), "versions": versions(["rankdistill", "onnxruntime"])}
    write_atomic(options.out, json.dumps(found, indent=2) + "\n")


def compare(options: argparse.Namespace, mix: Mix) -> dict[str, Any]:
    """Send the same steps to a governed service and to one that stays at the dearest level."""
    levels = Cascade.levels(options.bundle)
    dearest = levels[0].name
    rate = capacity(options.bundle, mix, dearest)
    target_s = TARGET / rate
    calls, bodies = steps(rate, options.seconds, mix), mix.bodies()
    governed = {"governor": {"p99_ms": 1000 * target_s, "floor": options.floor}}
    found: dict[str, Any] = {"capacity_per_s": rate, "target_ms": 1000 * target_s, "floor": options.floor}
    found["retention"] = {level.name: level.retention for level in levels}
    for name, settings in {"governed": governed, "fixed": {"level": dearest}}.items():
        with serving(options.bundle, {**OFF, **settings}) as process:
            load = Load(process.address, PATH, bodies, calls, kept=["x-rank-level"])
            found[name] = judge(calls, load.samples(), options.seconds, target_s)
        served = {level for step in found[name]["steps"].values() for level in step["levels"]} - {"none"}
        found[name]["lowest_retention"] = min(found["retention"][level] for level in served)
        print(name, json.dumps(found[name]), flush=True)
    return found


if __name__ == "__main__":
    main()
