"""What a last layer for [CLS] alone costs with its tokens' keys and values, and without: graphs of random weights.

python scripts/bench/last_layer.py --out last_layer.json [--students l1_h384 l2_h384 ...] [--tokens 40 65]

CPU time of a call with one pair on one thread, onnxruntime, all graphs of a student in turns; medians. Scores of both
graphs in fp32 are compared beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions

STUDENTS = ("l1_h384", "l1_h256", "l1_h128", "l2_h384", "l2_h256", "l2_h128", "l3_h384", "l6_h384")
CALLS, ROUNDS = 5, 60
VOCABULARY = 30_522


def write_checkpoint(student: str, out: Path) -> None:
    """Save a ranker of a named student's shape with random weights."""
    import torch
    from hydra import compose, initialize_config_module
    from transformers import BertConfig

    from rankdistill import options as options_
    from rankdistill.export.torch_models.checkpoint import save_ranker
    from rankdistill.export.torch_models.cls_only import ClsOnlyBert
    from rankdistill.sweep import plugins

    options_.register()
    plugins.register()
    with initialize_config_module("rankdistill.conf", version_base="1.3"):
        options = compose("config", [f"student={student}"]).student
    heads = options.heads or options.hidden_size // 32
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=VOCABULARY, num_hidden_layers=options.layers, hidden_size=options.hidden_size, num_labels=1,
        intermediate_size=options.intermediate_size or 4 * options.hidden_size, num_attention_heads=heads,
    )  # fmt: skip
    save_ranker(ClsOnlyBert(shape).eval(), str(out))


def write_graphs(checkpoint: Path, out: Path) -> dict[str, Path]:
    """Write the graphs that are compared, by name."""
    import onnx
    from safetensors.numpy import load_file

    from rankdistill.export.graphs.bert_graph import WEIGHTS, GraphBuilder, buildable
    from rankdistill.export.quantization.dynamic import quantize_graph
    from rankdistill.export.runtime.scorer import OUTPUT

    found = {}
    for name, keyless in (("with keys", False), ("without", True)):
        builder = GraphBuilder(buildable(checkpoint), load_file(checkpoint / WEIGHTS))
        builder._is_keyless = keyless
        builder.build(True)
        for precision in ("fp32", "int8"):
            found[f"{precision} {name}"] = out / f"{precision} {name}.onnx"
        onnx.save(builder.model(17, OUTPUT, 1), str(found[f"fp32 {name}"]))
        quantize_graph(found[f"fp32 {name}"], found[f"int8 {name}"], per_channel=True, reduce_range=False)
    return found


def measure(graphs: dict[str, Path], tokens: int) -> dict[str, Any]:
    """Return each graph's CPU milliseconds a pair, and how far the fp32 scores are apart."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (1, tokens))
    feed = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": (ids * 0 + (np.arange(tokens) > 8)),
    }
    scores = {name: float(session.run(None, feed)[0][0, 0]) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            begun = time.process_time()
            for _ in range(CALLS):
                session.run(None, feed)
            times[name].append((time.process_time() - begun) / CALLS * 1000)
    medians = {name: round(float(np.median(each)), 4) for name, each in times.items()}
    ratios = {
        precision: round(float(np.median(np.divide(times[f"{precision} without"], times[f"{precision} with keys"]))), 3)
        for precision in ("fp32", "int8")
    }
    difference = abs(scores["fp32 with keys"] - scores["fp32 without"])
    return {"tokens": tokens, "cpu_ms": medians, "ratio": ratios, "fp32_score_difference": difference}


def main() -> None:
    """Measure every student at every length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--students", nargs="+", default=STUDENTS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[40, 65])
    options = parser.parse_args()
    rows = []
    for student in options.students:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoint"
            checkpoint.mkdir()
            write_checkpoint(student, checkpoint)
            graphs = write_graphs(checkpoint, Path(folder))
            megabytes = {name: round(graph.stat().st_size / 1e6, 2) for name, graph in graphs.items()}
            for tokens in options.tokens:
                rows.append({"student": student, "mb": megabytes} | measure(graphs, tokens))
                ratio = rows[-1]["ratio"]
                print(f"{student}, {tokens} tokens: fp32 {ratio['fp32']:.2f}, int8 {ratio['int8']:.2f} of the time")
    content = {
        "host": describe_host(),
        "versions": versions(["rankdistill", "onnxruntime"]),
        "calls": CALLS,
        "rounds": ROUNDS,
        "rows": rows,
    }
    write_atomic(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
