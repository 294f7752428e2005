"""The runtime against the tools that serve the same bundle: pairs per second and latency of a query, side by side.

python scripts/bench/runtime.py --bundle BUNDLE --data FOLDER [--data FOLDER] --cores 1 2 --out runtime.json

Run it with the Python that `scripts/bench/stack.py tools` makes: its rivals need optimum-onnx, which takes no
transformers 5. The data are in BEIR layout; the candidates of a test query are
its judged items. Tools take turns, forth and back, in one process of so many cores; in its turn a tool ranks all lists,
one query at a time. Before a turn a pause lets threads end that spin after their work, and some requests that are not
timed bring the cores up to speed. onnxruntime ignores affinity, so every tool is told its number of threads. Every tool
tokenises items anew; `rankdistill, kept` has seen them before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAUSE = 0.1  # seconds; longer than onnxruntime's threads spin
PLAIN_BATCH = 8
PIPELINE_BATCHES = (1, 8, 32)
TIMES_ROUNDS = 3
WAKE = 5  # requests of a turn that are not timed

Lists = list[tuple[str, list[str]]]
Rank = Callable[[str, list[str]], Any]


def read_lists(folder: Path, queries: int) -> Lists:
    """Read the candidate lists of the first test queries of a BEIR folder."""
    corpus = {}
    with (folder / "corpus.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            corpus[row["_id"]] = " ".join(part for part in (row.get("title"), row["text"]) if part)
    with (folder / "queries.jsonl").open(encoding="utf-8") as file:
        texts = {row["_id"]: row["text"] for row in map(json.loads, file)}
    lists: dict[str, list[str]] = {}
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8") as file:
        next(file)
        for line in file:
            query, item, _ = line.split("\t")
            lists.setdefault(query, []).append(corpus[item])
    return [(texts[query], items) for query, items in list(lists.items())[:queries]]


def sentence_transformers_export(bundle: Path, folder: Path) -> str:
    """Let sentence-transformers export and quantize the bundle's checkpoint its own way; returns the graph's name."""
    import shutil

    from sentence_transformers import CrossEncoder
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model

    for path in bundle.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    model = CrossEncoder(str(folder), backend="onnx", model_kwargs={"export": True})
    model.save_pretrained(str(folder))
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
    return "onnx/model_qint8_avx512_vnni.onnx"


def tools(bundle: Path, exported: Path, cores: int) -> dict[str, Rank]:
    """Return what ranks a query's items, by name; the first two are the runtime."""
    import onnxruntime as ort
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from sentence_transformers import CrossEncoder
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, pipeline

    from rankdistill import Ranker

    fresh, kept = Ranker.load(bundle, keep_mb=0), Ranker.load(bundle)
    name = fresh.variant.file
    found: dict[str, Rank] = {"rankdistill": fresh.score_items, "rankdistill, kept": kept.score_items}

    options = ort.SessionOptions()
    options.intra_op_num_threads = cores

    def cross_encoder(folder: Path, graph: str) -> Rank:
        given = {"file_name": graph, "session_options": options, "provider": "CPUExecutionProvider"}
        model = CrossEncoder(str(folder), backend="onnx", model_kwargs=given)
        return lambda query, items: model.predict([(query, item) for item in items], show_progress_bar=False)

    found["sentence-transformers, own int8"] = cross_encoder(exported, "onnx/model_qint8_avx512_vnni.onnx")
    found["sentence-transformers, same int8"] = cross_encoder(bundle, name)
    model = ORTModelForSequenceClassification.from_pretrained(
        bundle, subfolder="onnx", file_name=Path(name).name, session_options=options
    )
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    for batch in PIPELINE_BATCHES:
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=batch)

        def run(query: str, items: Sequence[str], classify: Any = classify) -> Any:
            pairs = [{"text": query, "text_pair": item} for item in items]
            return classify(pairs, truncation=True, max_length=fresh.manifest.max_length, function_to_apply="none")

        found[f"optimum pipeline, batch {batch}"] = run

    session = ort.InferenceSession(str(bundle / name), options, providers=["CPUExecutionProvider"])
    plain = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    plain.enable_truncation(fresh.manifest.max_length)
    plain.no_padding()

    def loop(query: str, items: Sequence[str]) -> Any:
        encoded = plain.encode_batch([(query, item) for item in items])
        order = sorted(range(len(items)), key=lambda row: -len(encoded[row].ids))
        scores = np.empty(len(items), np.float32)
        for start in range(0, len(order), PLAIN_BATCH):
            rows = order[start : start + PLAIN_BATCH]
            shape = (len(rows), len(encoded[rows[0]].ids))
            feed = {key: np.zeros(shape, np.int64) for key in ("input_ids", "attention_mask", "token_type_ids")}
            for at, row in enumerate(rows):
                length = len(encoded[row].ids)
                feed["input_ids"][at, :length] = encoded[row].ids
                feed["token_type_ids"][at, :length] = encoded[row].type_ids
                feed["attention_mask"][at, :length] = 1
            scores[rows] = session.run(None, feed)[0][:, 0]
        return scores

    found[f"onnxruntime loop, batch {PLAIN_BATCH}"] = loop
    return found


def time_tools(found: dict[str, Rank], lists: Lists, rounds: int) -> dict[str, Any]:
    """Time every tool on every query, forth and back; returns wall and CPU milliseconds [tools][samples][queries]."""
    for query, items in lists:
        found["rankdistill, kept"](query, items)
    wall, cpu = np.empty((2, len(found), 2 * rounds, len(lists)))
    ranks = list(found.values())
    order = [*range(len(ranks)), *reversed(range(len(ranks)))]
    for turn in range(rounds):
        for position, row in enumerate(order):
            time.sleep(PAUSE)
            for query, items in lists[:WAKE]:
                ranks[row](query, items)
            sample = 2 * turn + (position >= len(ranks))
            for number, (query, items) in enumerate(lists):
                start, start_cpu = time.perf_counter(), time.process_time()
                ranks[row](query, items)
                cpu[row, sample, number] = (time.process_time() - start_cpu) * 1e3
                wall[row, sample, number] = (time.perf_counter() - start) * 1e3
    return {"wall_ms": wall, "cpu_ms": cpu}


def overhead(bundle: Path, lists: Lists, rounds: int) -> dict[str, float]:
    """Return microseconds a pair of bare engine calls, scoring tokens and tokenising, on one thread, interleaved."""
    from rankdistill import Ranker
    from rankdistill.export.runtime.text.token_cache import KeptTokens

    ranker = Ranker.load(bundle, threads=1)
    scorer, encoder = ranker._scorer, ranker._encoder
    assert scorer is not None
    tokens = [(encoder.ids([query])[0], encoder.ids(items)) for query, items in lists]
    feeds = [scorer.encoder.equal([query], [item]) for query, items in tokens for item in items]
    # in the same order, so that both meet the same caches
    for query, items in lists:
        ranker.score_items(query, items)
    kept = KeptTokens(encoder.ids, 1 << 28)
    for query, items in lists:
        kept.ids([query, *items])
    ways: dict[str, Callable[[], Any]] = {
        "session.run": lambda: [scorer._session.run(["logits"], feed) for feed in feeds],
        "score tokens": lambda: [scorer.score_tokens([query] * len(items), items) for query, items in tokens],
        "tokenise": lambda: [encoder.ids([query, *items]) for query, items in lists],
        "tokenise, kept": lambda: [kept.ids([query, *items]) for query, items in lists],
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(2 * rounds + 1):
        for name, way in ways.items() if turn % 2 else reversed(ways.items()):
            start = time.process_time()
            way()
            samples[name].append((time.process_time() - start) / len(feeds) * 1e6)
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    return medians | {"overhead": medians["score tokens"] / medians["session.run"] - 1}


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure one bundle on one data set in this process, whose cores are set already."""
    bundle, lists = Path(spec["bundle"]), read_lists(Path(spec["data"]), spec["queries"])
    found = tools(bundle, Path(spec["exported"]), spec["cores"])
    times = time_tools(found, lists, spec["rounds"])
    pairs = np.array([len(items) for _, items in lists])
    rows = []
    for number, name in enumerate(found):
        wall, cpu = np.median(times["wall_ms"][number], axis=0), np.median(times["cpu_ms"][number], axis=0)
        p50, p95 = np.percentile(times["wall_ms"][number], (50, 95))
        rows.append({
            "tool": name, "pairs_per_s": pairs.sum() / wall.sum() * 1e3, "p50_ms": p50, "p95_ms": p95,
            "cpu_ms_per_pair": cpu.sum() / pairs.sum(),
        })  # fmt: skip
    return {"pairs": int(pairs.sum()), "rows": rows, "us_per_pair": overhead(bundle, lists, spec["rounds"])}


def report(result: dict[str, Any]) -> str:
    """Return a table of ratios: how many times the runtime's pairs per second, and which part of the p95."""
    first, kept = result["rows"][:2]
    lines = [f"{result['name']}, {result['data']}, {result['cores']} core(s), {result['pairs']} pairs"]
    for row in result["rows"]:
        lines.append(
            f"  {row['tool']:34} {row['pairs_per_s']:7.0f} pairs/s  "
            f"p50 {row['p50_ms']:6.1f}  p95 {row['p95_ms']:6.1f} ms  "
            f"{row['cpu_ms_per_pair']:6.3f} CPU-ms  x{first['pairs_per_s'] / row['pairs_per_s']:5.2f}  "
            f"kept x{kept['pairs_per_s'] / row['pairs_per_s']:5.2f}  p95 x{row['p95_ms'] / first['p95_ms']:5.2f}"
        )
    times = result["us_per_pair"]
    lines.append(
        "  us a pair: " + ", ".join(f"{name} {value:.1f}" for name, value in times.items() if name != "overhead")
    )
    lines.append(f"  overhead over session.run {times['overhead']:.1%}")
    return "\n".join(lines)


def main() -> None:
    """Measure every bundle on every data set and number of cores, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=TIMES_ROUNDS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    if "--spec" in sys.argv:
        spec = json.loads(Path(sys.argv[-1]).read_text())
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: spec["cores"]]))
        print(json.dumps(measure(spec)))
        return
    options = parser.parse_args()
    from rankdistill.export.measure.host import describe_host, versions

    results = []
    for bundle in options.bundle:
        with tempfile.TemporaryDirectory() as folder:
            exported, spec_file = Path(folder) / "exported", Path(folder) / "spec.json"
            exported.mkdir()
            sentence_transformers_export(bundle, exported)
            for data in options.data:
                for cores in options.cores:
                    spec = {"bundle": str(bundle), "data": str(data), "exported": str(exported), "cores": cores,
                            "queries": options.queries, "rounds": options.rounds}  # fmt: skip
                    spec_file.write_text(json.dumps(spec))
                    done = subprocess.run(
                        [sys.executable, __file__, "--spec", str(spec_file)], stdout=subprocess.PIPE, check=True,
                        text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
                    )  # fmt: skip
                    layers = json.loads((bundle / "config.json").read_text())["num_hidden_layers"]
                    result = {"name": f"{layers} layers", "data": data.name, "cores": cores}
                    result |= json.loads(done.stdout.splitlines()[-1])
                    results.append(result)
                    print(report(result), flush=True)
    if options.out:
        names = (
            "rankdistill",
            "onnxruntime",
            "tokenizers",
            "sentence-transformers",
            "optimum-onnx",
            "transformers",
            "torch",
        )
        content = {"command": sys.argv[1:], "host": describe_host(), "versions": versions(names), "results": results}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
