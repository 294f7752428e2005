"""What int8 keeps of the ranking of the same student in fp32, and what a search left in fp32.

python scripts/bench/quantization.py RUN [RUN ...] --out quantization.json

RUN is a finished run, as of `distill ... quantize=search` or `quantize=int8`. Everything is of its test split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data.records import RankingData
from rankdistill.export.files import write_atomic
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.measure import predictions
from rankdistill.export.measure.host import versions
from rankdistill.export.measure.quality import agreement, mean_interval, ranking_metrics, ratio_interval
from rankdistill.export.runtime.processor import machine
from rankdistill.models.model_files import RUN

METRIC = "ndcg@10"
HOW = {"confidence": 0.95, "resamples": 10000, "seed": 0}


def judge(run: Path) -> dict[str, Any]:
    """Return how a run's int8 student ranks beside its fp32 one, on the run's split."""
    if not (run / "tradeoff.json").is_file():
        sys.exit(f"{run} is no finished run: it has no tradeoff.json")
    stages = json.loads((run / RUN).read_text(encoding="utf-8"))["stages"]
    if "predictions student onnxruntime int8" not in stages:
        sys.exit(f"{run}: its student has no int8 graph; allowed are runs with quantize=int8, search or int8_fused")
    told = json.loads((run / "tradeoff.json").read_text(encoding="utf-8"))
    split = RankingData.open(run / stages["data"]).splits[told["split"]]
    scores = {
        precision: predictions.read(run / stages[f"predictions student onnxruntime {precision}"])
        for precision in ("fp32", "int8")
    }
    values = {name: ranking_metrics(each, split.grade, split.offsets)[METRIC] for name, each in scores.items()}
    alike = agreement(scores["int8"], scores["fp32"], split.offsets)
    served = served_int8([machine(told["host"]["system"].split()[-1]), *told["host"]["flags"]])
    graph = next(each for each in told["graphs"] if each["model"] == "student" and each["file"] == served)
    cpu = {
        row["precision"]: row["cpu_ms_per_query"]
        for row in told["rows"]
        if row["model"] == "student" and row["engine"] == "onnxruntime"
    }
    return {
        "run": run.resolve().parent.name, "data": told["dataset"], "split": told["split"],
        "queries": len(values["fp32"]), "quantize": told["config"]["quantize"],
        **{f"{METRIC} {name}": float(np.nanmean(each)) for name, each in values.items()},
        "kept": float(np.nanmean(values["int8"]) / np.nanmean(values["fp32"])),
        "kept_ci": ratio_interval(values["int8"], values["fp32"], **HOW),
        **{name: float(np.nanmean(each)) for name, each in alike.items()},
        "overlap@10_ci": mean_interval(alike["overlap@10"], **HOW),
        "kept_fp32": graph.get("kept_fp32", []),
        **{name: graph[name] for name in ("nodes", "quantized", "left_fp32", "apart", "saturating", "wide_weights")},
        "times_faster": cpu["fp32"] / cpu["int8"],
        "host": told["host"],
    }  # fmt: skip


def main() -> None:
    """Judge every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = [judge(run) for run in options.runs]
    for each in results:
        groups = ", ".join(dict.fromkeys(node["group"] for node in each["kept_fp32"])) or "nothing"
        print(
            f"{each['run']}: {METRIC} {each['kept']:.4f} of fp32 "
            f"[{each['kept_ci'][0]:.4f}, {each['kept_ci'][1]:.4f}], overlap@10 {each['overlap@10']:.4f}, "
            f"tau {each['tau']:.4f}, {each['times_faster']:.2f} times as fast; in fp32: {groups}"
        )
    if options.out:
        content = {"results": results, "versions": versions(["rankdistill", "onnxruntime"])}
        write_atomic(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
