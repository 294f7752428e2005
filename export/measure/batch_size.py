"""How a graph is best served here: whether a pair's score depends on its batch, and if not, whether to share a call."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export import machine_lock
from rankdistill.export.graphs.variants import Offered
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.scorer import BatchScorer, Float32, PairScorer
from rankdistill.export.runtime.text.tokens import Int32, PairEncoder

FILE = "serving.json"
BATCHES = (1, 4, 8, 16)  # pairs of equal length that share a call
PADDED = 32
FASTER = 0.97  # a batch is taken if it needs at most this much of the time of scoring alone: less is noise
REPEATS = 7

Tokens = Sequence[tuple[Int32, list[Int32]]]


def write(
    lists: Sequence[tuple[str, Sequence[str]]],
    checkpoint: Path,
    graphs: Path,
    variants: Sequence[Offered],
    *,
    max_length: int,
    threads: int,
    out: Path,
) -> None:
    """Measure each variant on real lists and write serving.json.

    Args:
        lists: each query's text and its candidates' texts.
        checkpoint: folder with the tokenizer.
        graphs: folder with the variants' graphs.
        variants: those that this processor computes exactly.
        max_length: of the model.
        threads: that score at once.
        out: folder to write to.
    """
    encoder = PairEncoder.load(checkpoint, max_length)
    tokens = [(encoder.ids([query])[0], encoder.ids(items)) for query, items in lists]
    graph_files = list(dict.fromkeys(variant.graph for variant in variants))
    found = {}
    with Progress("batches", len(graph_files), "graphs") as bar:
        for name in graph_files:
            found[name] = _measure(graphs / name, encoder, tokens, threads)
            bar.update(1)
    result = {"threads": threads, "pairs": sum(len(items) for _, items in tokens), "graphs": found}
    (out / FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Mapping[str, Any]:
    """Return what `write` stored: threads, pairs, and by graph what was measured."""
    return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))


def _measure(graph: Path, encoder: PairEncoder, tokens: Tokens, threads: int) -> dict[str, Any]:
    scorers = {batch: PairScorer(graph, encoder, threads, batch) for batch in BATCHES}
    scores = {batch: _scores(scorer, tokens) for batch, scorer in scorers.items()}
    padded = BatchScorer(graph, encoder, threads, PADDED)
    apart = {f"equal lengths, {b}": float(np.abs(s - scores[1]).max()) for b, s in scores.items() if b > 1}
    apart[f"padded, {PADDED}"] = float(np.abs(_scores(padded, tokens) - scores[1]).max())
    padded.close()
    # two batches of equal bits may differ at a third size: all of them must be the same
    invariant = all(bool(np.array_equal(s, scores[1])) for s in scores.values())
    seconds = {}
    if invariant:
        with machine_lock.alone():
            seconds = _times(scorers, tokens)
    best = min(seconds, key=lambda b: seconds[b], default=1)
    for scorer in scorers.values():
        scorer.close()
    return {
        "batch": best if seconds and seconds[best] < FASTER * seconds[1] else 1,
        "batch_invariant": invariant,
        "difference": apart,
        "pairs_per_s": {str(b): round(len(scores[1]) / s, 1) for b, s in seconds.items()},
    }


def _times(scorers: Mapping[int, PairScorer], tokens: Tokens) -> dict[int, float]:
    """Return the median seconds of all lists by batch, interleaved."""
    samples: dict[int, list[float]] = {batch: [] for batch in scorers}
    for turn in range(REPEATS):
        order = list(scorers.items())
        for batch, scorer in order if turn % 2 else reversed(order):
            start = time.perf_counter()
            _scores(scorer, tokens)
            samples[batch].append(time.perf_counter() - start)
    return {batch: float(np.median(values)) for batch, values in samples.items()}


def _scores(scorer: PairScorer | BatchScorer, tokens: Tokens) -> Float32:
    return np.concatenate([scorer.score_tokens([query] * len(items), items) for query, items in tokens])
