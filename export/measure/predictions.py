"""Scores of a whole split by one system: what quality is computed from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rankdistill.export.measure.systems import System
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import Float32

FILE = "scores.npy"


def write(system: System, lists: Iterable[tuple[str, list[str]]], pairs: int, threads: int, out: Path) -> None:
    """Score candidate lists, each as one request, and store the raw logits.

    Args:
        system: what scores.
        lists: each query's text and its candidates' texts.
        pairs: how many pairs there are in all.
        threads: of the engine.
        out: folder to write `scores.npy` to, float32 [pairs] in the order of the lists.
    """
    scorer = system.open(threads)
    parts: list[Float32] = []
    with Progress(f"score with {system.name}", pairs, "pairs") as bar:
        for query, items in lists:
            parts.append(scorer.score(query, items))
            bar.update(len(items))
    scorer.close()
    np.save(out / FILE, np.concatenate(parts))


def read(folder: Path) -> Float32:
    """Return the scores that `write` stored, float32 [pairs]."""
    return np.asarray(np.load(folder / FILE), dtype=np.float32)
