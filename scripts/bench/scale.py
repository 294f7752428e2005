"""Time per pair and memory of the stages as a data set grows, and the look-up time of a store of 1,000 stages.

python scripts/bench/scale.py --pairs 10000 100000 1000000 --out scale.json

A generated BEIR set and a two-layer model with random weights: this measures how the stages grow, not a ranker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.measure.host import describe_host, versions
from rankdistill.store.stages import Stage, Store

CANDIDATES = 50
WORDS = 5000
HELD_OUT = 20  # queries of dev and of test
MEASURED = ("data", "tokens", "teacher scores")


def write_set(folder: Path, pairs: int, seed: int = 0) -> None:
    """Write a BEIR set of that many training pairs, twenty words an item."""
    rng = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    items, queries = max(CANDIDATES * 4, pairs // 10), pairs // CANDIDATES
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(items):
            text = " ".join(f"w{word}" for word in rng.integers(0, WORDS, 20))
            file.write(json.dumps({"_id": f"i{number}", "title": "", "text": text}) + "\n")
    splits = {"train": queries, "dev": HELD_OUT, "test": HELD_OUT}
    with (folder / "queries.jsonl").open("w") as file:
        for split, count in splits.items():
            with (folder / "qrels" / f"{split}.tsv").open("w") as qrels:
                for number in range(count):
                    text = " ".join(f"w{word}" for word in rng.integers(0, WORDS, 4))
                    file.write(json.dumps({"_id": f"{split}{number}", "text": text}) + "\n")
                    for place, item in enumerate(rng.choice(items, CANDIDATES, replace=False)):
                        qrels.write(f"{split}{number}\ti{item}\t{int(place < 5)}\n")


def write_model(folder: Path) -> None:
    """Write a two-layer BERT cross-encoder with random weights and a vocabulary of the set's words."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)


# Run in a process of its own, so that its peak memory is its own; prints seconds and peak MB after each stage.
CHILD = """
import json, sys, time
from pathlib import Path
from rankdistill import options
from rankdistill.pipeline import model_stages, teacher_stages
from rankdistill.store.stages import Store
def peak():
    line = next(l for l in open('/proc/self/status') if l.startswith('VmHWM'))
    return int(line.split()[1]) / 1e3
config = options.Config(name='scale', data=options.BeirData(path=sys.argv[1]),
    teacher=options.CrossEncoderTeacher(model=sys.argv[2], max_length=48),
    student=options.Student(layers=1, hidden_size=32, max_length=48), train=options.Train(score_batch=256))
store = Store(Path(sys.argv[3]))
import rankdistill.models.teacher, rankdistill.training.scoring, rankdistill.data.tokens
import torch
found = {'start': {'seconds': 0, 'peak_mb': peak()}}
source = teacher_stages.locate_teacher(config)
teacher = teacher_stages.teacher(store, config, None, None, source, None, {})
for name, make in (
    ('data', lambda: model_stages.data(store, config)),
    ('tokens', lambda: model_stages.tokens(store, config, made['data'], source)),
    ('teacher scores', lambda: model_stages.scores(store, config, made['data'], made['tokens'], teacher)),
):
    made = globals().setdefault('made', {})
    start = time.perf_counter()
    made[name] = make()
    found[name] = {'seconds': time.perf_counter() - start, 'peak_mb': peak()}
print(json.dumps(found))
"""


def measure(pairs: int, place: Path, model: Path) -> dict[str, Any]:
    """Make the stages for a set of that size and return seconds a pair and memory."""
    folder = place / f"set-{pairs}"
    write_set(folder, pairs)
    command = [sys.executable, "-c", CHILD, str(folder), str(model), str(place / f"stages-{pairs}")]
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=env, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    row: dict[str, Any] = {"pairs": pairs, "start_mb": round(found["start"]["peak_mb"])}
    for stage in MEASURED:
        row[f"{stage} us/pair"] = round(found[stage]["seconds"] / pairs * 1e6, 1)
    row["peak_mb"] = round(max(found[stage]["peak_mb"] for stage in MEASURED))
    return row


def look_up(place: Path, stages: int = 1000) -> float:
    """Return the milliseconds of finding a finished stage among many."""
    store = Store(place / "many")
    for number in range(stages):
        folder = store.root / f"data-{number:016x}"
        folder.mkdir()
        (folder / "stage.json").write_text(json.dumps({"seconds": 1.0}))
    stage = Stage("data", 1, {"a": 1})
    store.get(stage, lambda out: (out / "x").write_text("x") and None)
    start = time.perf_counter()
    for _ in range(100):
        store.find(stage.key)
    return (time.perf_counter() - start) * 10


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_model(place / "model")
        rows = []
        for pairs in options.pairs:
            rows.append(measure(pairs, place, place / "model"))
            print(rows[-1], flush=True)
        lookup = look_up(place)
    print(f"a stage is found among 1,000 in {lookup:.2f} ms")
    if options.out:
        content = {"host": describe_host(), "versions": versions(["rankdistill", "torch", "transformers", "pyarrow"])}
        content |= {"rows": rows, "lookup_ms": round(lookup, 3)}
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
