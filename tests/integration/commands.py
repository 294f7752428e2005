"""Running the commands as a user does, on the tiny BERT and the generated set."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SMALL = [
    "name=small", "seed=0", "warm=none", "teacher.sha256=null", "teacher.max_length=24", "teacher.fit.epochs=4",
    "teacher.fit.learning_rate=1e-3", "teacher.fit.head_rate=1", "student.hidden_size=32", "student.layers=1",
    "student.fit.epochs=4", "student.fit.learning_rate=1e-3", "train.freeze_embeddings=false",
    "measure.latency_queries=0", "measure.warmup_queries=1", "measure.rounds=1", "measure.parity_queries=3",
    "measure.resamples=200", "budget.allow=[not_recommended]",
]  # fmt: skip
TIMED = ["measure.latency_queries=3"]  # for tests that look at times, which take half of a small run


def distill(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `distill` in a process of its own."""
    command = [sys.executable, "-m", "rankdistill", *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | (env or {})
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def small(beir: Path, encoder: Path) -> list[str]:
    """Return the arguments of an experiment of seconds."""
    return ["data=beir", f"data.path={beir}", f"teacher.model={encoder}", *SMALL]


def begin_with(begun: Path, folder: Path, *, without: str = "nothing") -> Path:
    """Give a folder the stages of another but for a kind, so that only what differs is made; returns the folder."""
    skip = shutil.ignore_patterns(".locks", f"{without}-*")
    shutil.copytree(begun / "runs/stages", folder / "runs/stages", ignore=skip)
    return folder


def newest_run(cwd: Path, name: str = "small") -> Path:
    """Return the folder of the last run."""
    return max((cwd / "runs" / name).iterdir(), key=lambda path: path.name)


def table(run: Path) -> dict:
    """Return a run's tradeoff.json."""
    return json.loads((run / "tradeoff.json").read_text(encoding="utf-8"))


def quality(tradeoff: dict) -> list[dict]:
    """Return the table's rows without what a clock or the memory says."""
    timed = {"p50_ms", "p95_ms", "p99_ms", "pairs_per_s", "cpu_ms_per_query", "peak_rss_mb"}
    return [{k: v for k, v in row.items() if k not in timed and "speedup" not in k} for row in tradeoff["rows"]]
