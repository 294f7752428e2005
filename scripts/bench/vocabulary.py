"""What a smaller vocabulary saves of a trained student, and what it costs its ranking.

python scripts/bench/vocabulary.py RUN [RUN ...] --min-count 1 2 3 --out vocabulary.json

RUN is a finished run with a bundle. Its student loses the tokens that its training queries and catalogue show fewer
than so many times: to the model they mean [UNK] from then on, and a graph stores their row once. Nothing is trained
again, so the difference is the vocabulary's alone; with a count of 1, training would have come to the same weights,
as no training text has a dropped token. Artifacts are the graph that this processor is served with, and the fp32 one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from rankdistill.data.records import RankingData
from rankdistill.data.tokens import PairTokens
from rankdistill.export.files import write_atomic
from rankdistill.export.graphs.variants import served_int8
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.measure.quality import difference_interval, ranking_metrics
from rankdistill.export.quantization.ranker_graphs import write_graphs
from rankdistill.export.runtime.manifest import TOKENIZER
from rankdistill.export.runtime.processor import abilities
from rankdistill.export.runtime.scorer import PairScorer
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.models import pruned_embedding
from rankdistill.models.model_files import RUN
from rankdistill.models.vocabulary import choose
from rankdistill.online.origin import Origin
from rankdistill.options import Vocabulary

METRIC = "ndcg@10"
HOW = {"confidence": 0.95, "resamples": 10000, "seed": 0}
FP32 = "model.onnx"


def measure(origin: Origin, checkpoint: Path, folder: Path) -> dict[str, tuple[float, np.ndarray]]:
    """Return the megabytes and each test query's nDCG@10 of a checkpoint's fp32 and int8 graphs."""
    assert origin.old is not None
    graphs, config, test = folder / "graphs", origin.config, origin.old.test
    graphs.mkdir()
    quantization = origin.quantization(checkpoint, [])
    write_graphs(
        checkpoint, graphs, cls_only=config.export.cls_only, opset=config.export.opset, quantization=quantization
    )
    found = {}
    for precision, name in (("fp32", FP32), ("int8", served_int8(abilities()))):
        scorer = PairScorer(graphs / name, origin.encoder, max(each["num_threads"] for each in threadpool_info()))
        queries = [test.table.queries[row] for row in test.query]
        scores = scorer.score_tokens(queries, [test.table.items[row] for row in test.split.item])
        scorer.close()
        values = ranking_metrics(scores, test.split.grade, test.split.offsets)[METRIC]
        found[precision] = ((graphs / name).stat().st_size / 1e6, values)
    return found


def prune(origin: Origin, min_count: int | None, out: Path) -> dict[str, Any]:
    """Save the run's student with the tokens that occur so often; returns how many those are, and what is lost."""
    assert origin.old is not None
    out.mkdir()
    model, told = load_ranker(str(origin.bundle), cls_only=True), {}
    if min_count is not None:
        assert origin.run is not None
        stages = json.loads((origin.run / RUN).read_text(encoding="utf-8"))["stages"]
        records = RankingData.open(origin.run / stages["data"])
        dev = PairTokens(records.splits["dev"], origin.old.train.table, origin.encoder)
        kept = choose(
            Vocabulary(min_count, max_unknown=1.0), origin.bundle, origin.old.train, dev,
            size=model.config.vocab_size, width=model.config.hidden_size,
        )  # fmt: skip
        pruned_embedding.cut(model, kept.ids, kept.unknown)
        pruned_embedding.expand(model)
        told = {"kept": kept.summary["kept"], "unknown": kept.summary["unknown"]}
    save_ranker(model, str(out))
    (out / TOKENIZER).write_bytes((origin.bundle / TOKENIZER).read_bytes())
    return {"kept": model.config.vocab_size} | told


def compare(run: Path, counts: list[int]) -> dict[str, Any]:
    """Return what each count saves and costs the student of a run."""
    origin = Origin.find(run)
    rows: list[dict[str, Any]] = []
    whole: dict[str, tuple[float, np.ndarray]] = {}
    for count in (None, *counts):
        with tempfile.TemporaryDirectory() as folder:
            told = prune(origin, count, Path(folder) / "checkpoint")
            found = measure(origin, Path(folder) / "checkpoint", Path(folder))
        whole = whole or found
        row: dict[str, Any] = {"min_count": count, **told}
        for precision, (size, values) in found.items():
            before, theirs = whole[precision]
            row[precision] = {
                "size_mb": round(size, 3), "times_smaller": before / size, METRIC: float(np.nanmean(values)),
                "difference": float(np.nanmean(values - theirs)),
                "interval": difference_interval(values, theirs, **HOW),
            }  # fmt: skip
        rows.append(row)
        print(json.dumps({"run": run.parent.name, **row}), flush=True)
    manifest = origin.manifest.content
    return {"data": manifest["data"], "student": manifest["config"]["student"], "rows": rows}


def main() -> None:
    """Prune the student of every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--min-count", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = [compare(run, options.min_count) for run in options.runs]
    if options.out:
        content = {
            "results": results, "host": describe_host(),
            "versions": versions(["rankdistill", "torch", "transformers", "onnxruntime"]),
        }  # fmt: skip
        write_atomic(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
