"""Requests a second at equal p99, beside infinity-emb with its optimum engine and the same graph on the same cores.

python scripts/bench/serve_infinity.py --bundle BUNDLE --infinity VENV/bin/infinity_emb --data FOLDER --out FILE

infinity-emb is installed in an environment of its own (extras server, optimum, torch). Both answer /rerank over
loopback; loads are open-loop and Poisson, the two take turns. A service's rate is the highest at which p99 kept the
limit, on a ladder of rates up to what it can take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import parts
from load import Call, Load, Mix, percentile, poisson
from service import Process, serving

from rankdistill.export.files import write_atomic
from rankdistill.export.machine_lock import alone
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.runtime.manifest import Manifest

TEXTS, SKEW, PATH = 40, 0.9, "/rerank"
LADDER = (0.3, 0.5, 0.7, 0.8, 0.9)
OURS, THEIRS = "rankdistill", "infinity-emb"


@contextlib.contextmanager
def infinity(binary: Path, bundle: Path) -> Iterator[Process]:
    """Serve the graph that the bundle runs here with infinity-emb, which wants a flat folder with a model.onnx."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        for path in bundle.iterdir():
            if path.suffix in (".json", ".txt"):
                shutil.copy(path, folder)
        manifest = Manifest.read(bundle)
        shutil.copy(manifest.checked(manifest.variant().file), Path(folder) / "model.onnx")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [binary, "v2", "--model-id", ".", "--engine", "optimum", "--device", "cpu", "--port", str(port)]
        quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        process = subprocess.Popen(
            [*command, "--no-bettertransformer", "--log-level", "error"], cwd=folder, env={**os.environ, **quiet},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(240):
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                time.sleep(0.5)
            yield Process(("127.0.0.1", port), process.pid)
        finally:
            process.terminate()
            process.wait(30)


def measure(
    process: Process, bodies: list[bytes], mix: Mix, seconds: float, seed: int, limit_s: float
) -> dict[str, Any]:
    """Return what a service can take, and its p99 along the ladder of rates."""
    rng = np.random.default_rng(seed)
    count = 120
    calls = [Call(0.0, int(row)) for row in rng.permutation(len(bodies))[:count]]
    Load(process.address, PATH, bodies, calls[:20]).samples()
    samples = Load(process.address, PATH, bodies, calls).samples()
    capacity = count / max(sample.seconds for sample in samples)
    rungs = []
    for share in LADDER:
        before = process.cpu_s()
        calls = poisson(share * capacity, seconds, mix, seed + int(100 * share))
        samples = Load(process.address, PATH, bodies, calls).samples()
        failed = sum(sample.status != 200 for sample in samples)
        p50, p99 = (1000 * percentile(samples, percent) for percent in (50, 99))
        cpu_ms = 1000 * (process.cpu_s() - before) / len(samples)
        rungs.append({"per_s": share * capacity, "p50_ms": p50, "p99_ms": p99, "failed": failed, "cpu_ms": cpu_ms})
    held = [rung["per_s"] for rung in rungs if rung["p99_ms"] <= 1000 * limit_s and not rung["failed"]]
    return {"capacity_per_s": capacity, "rungs": rungs, "held_per_s": max(held, default=0.0)}


def _theirs(binary: Path) -> dict[str, str]:
    """Return the versions in infinity-emb's own environment."""
    code = (
        "import importlib.metadata, json; names = ['infinity-emb', 'optimum', 'onnxruntime', 'torch', 'transformers'];"
        "print(json.dumps({name: importlib.metadata.version(name) for name in names}))"
    )
    told = subprocess.run([binary.parent / "python", "-c", code], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(told)
    return found


def main() -> None:
    """Let the two take turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--infinity", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    parser.add_argument("--limit-ms", type=float, default=500.0, help="p99 that is to be held")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    mix = Mix.of(options.data, TEXTS, SKEW)
    found: dict[str, list[dict[str, Any]]] = {OURS: [], THEIRS: []}
    ours, theirs = mix.bodies("texts"), mix.bodies("documents", ".")
    off = {"cache": {"mb": 0}, "limits": {"concurrency": 100_000}}
    with (
        tempfile.TemporaryDirectory() as folder,
        alone(),
        serving(bundle := parts.student(options.bundle, Path(folder) / "student"), off) as own,
        infinity(options.infinity, bundle) as other,
    ):
        for repeat in range(options.repeats):
            turns = [(OURS, own, ours), (THEIRS, other, theirs)]
            for name, process, bodies in turns if repeat % 2 == 0 else turns[::-1]:
                found[name].append(
                    measure(process, bodies, mix, options.seconds, 1000 * repeat, options.limit_ms / 1000)
                )
                print(name, json.dumps(found[name][-1]), flush=True)
    ratios = {
        field: [round(a[field] / b[field], 3) if b[field] else None for a, b in zip(*found.values(), strict=True)]
        for field in ("capacity_per_s", "held_per_s")
    }
    print(ratios)
    content = {
        "limit_ms": options.limit_ms, "ratios": ratios, **found, "host": describe_host(),
        "versions": versions(["rankdistill", "onnxruntime"]), "versions_of_infinity": _theirs(options.infinity),
    }  # fmt: skip
    write_atomic(options.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
