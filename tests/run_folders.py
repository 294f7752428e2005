"""Folders of runs written by hand: what a comparison reads, and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

HOST = {"processor": "Some Xeon", "cores": 2, "system": "Linux x86_64", "flags": ["avx2"]}
HOSTILE = "</script><img src=x onerror=alert(1)> \"quoted\" 'single' & 中文 🚀 `${x}` {{ 7 * 7 }}"


def write_record(folder: Path, **fields) -> Path:
    folder.mkdir(parents=True)
    record = {"experiment": "speed", "status": "finished", "overrides": [], "started": "2026-01-02T03:04:05+00:00"}
    record |= {"seconds": 12.5, "stages": {}, "reused": []}
    (folder / "run.json").write_text(json.dumps(record | fields), encoding="utf-8")
    return folder


def write_run(
    folder: Path, values, cpu_ms=10.0, size_mb=16.0, *, overrides=(), verdict=None, experiment="speed", student=(),
    evaluation=(), **tradeoff,
) -> Path:  # fmt: skip
    """Write a finished run whose student has these nDCG@10, query by query; `tradeoff` replaces fields of the file."""
    write_record(folder, overrides=list(overrides), experiment=experiment)
    values = np.asarray(values, dtype=np.float64)
    score = float(values.mean())
    row = {
        "model": "student", "engine": "onnxruntime", "precision": "int8", "ndcg@10": score,
        "ndcg@10_ci": [score - 0.02, score + 0.03], "retention": score / 0.5, "retention_ci": [0.8, 1.1], "tau": 0.75,
        "p50_ms": cpu_ms / 2, "p95_ms": cpu_ms, "cpu_ms_per_query": cpu_ms, "speedup": 500 / cpu_ms,
        "speedup_ci": [400 / cpu_ms, 600 / cpu_ms], "size_mb": size_mb, "params": 15_000_000, "peak_rss_mb": 120.0,
    } | dict(student)  # fmt: skip
    teacher = {"model": "teacher", "engine": "pytorch", "precision": "fp32", "ndcg@10": 0.5}
    unquantized = row | {"precision": "fp32", "ndcg@10": 0.99}
    content = {
        "format": 1, "experiment": experiment, "dataset": "MovieLens-100K", "fingerprint": "data-1", "split": "test",
        "queries": len(values), "pairs": 50 * len(values), "confidence": 0.95, "rows": [teacher, unquantized, row],
        "latency": {"threads": 2, "queries": 30, "pairs": 1500}, "host": HOST, "stages": {"teacher": "teacher-1"},
        "config": {},
    } | tradeoff  # fmt: skip
    (folder / "tradeoff.json").write_text(json.dumps(content), encoding="utf-8")
    about = {
        "fingerprint": content["fingerprint"],
        "split": content["split"],
        "queries": list(map(str, range(len(values)))),
    }
    models = [
        {
            "model": "student",
            "engine": "onnxruntime",
            "precision": "fp32",
            "quality": {"ndcg@10": [0.99] * len(values)},
        },
        {"model": "student", "engine": "onnxruntime", "precision": "int8", "quality": {"ndcg@10": values.tolist()}},
    ]
    text = json.dumps({**about, "models": models} | dict(evaluation))
    (folder / "evaluation.json.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "report.html").write_text("<p>a report</p>")
    if verdict is not None:
        (folder / "gate.json").write_text(json.dumps({"verdict": verdict}))
    return folder


def write_sweep(folder: Path, jobs: int, *, failed=(), seed: int = 0, queries: int = 40) -> Path:
    """Write a sweep whose jobs vary in layers, learning rate and loss; deeper ones are better and dearer."""
    rng = np.random.default_rng(seed)
    easy = rng.uniform(0.2, 0.7, queries)
    for job in range(jobs):
        layers = int(rng.integers(1, 7))
        rate, loss = float(rng.choice([1e-4, 3e-4, 1e-3])), str(rng.choice(["kl", "margin_mse"]))
        overrides = [f"student.layers={layers}", f"student.fit.learning_rate={rate}", f"loss={loss}", "seed=1"]
        if job in failed:
            write_record(
                folder / str(job), status="failed", error=f"RuntimeError: job {job}\nmore", overrides=overrides
            )
            continue
        values = np.clip(easy + 0.03 * layers + rng.normal(0, 0.05, queries), 0, 1)
        cost = 4.0 * layers * rng.uniform(0.9, 1.1)
        write_run(
            folder / str(job), values, cost, 12.0 + layers, overrides=overrides, verdict="pass" if job % 2 else None
        )
    return folder
