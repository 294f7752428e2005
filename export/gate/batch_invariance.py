"""Whether a bundle's scores depend on what else is scored: as the runtime does it, and padded in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankdistill.export.gate.decision import FAIL, PASS, Line
from rankdistill.export.measure.paired_timing import Request
from rankdistill.export.measure.quality import agreement, changed_top
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.scorer import BatchScorer
from rankdistill.export.runtime.text.shortener import Shortener
from rankdistill.export.runtime.text.tokens import PairEncoder

NAME = "batch_invariance"
PADDED = 32
REQUESTS = 20  # at most: the property is of the graph, not of many texts


@dataclass(frozen=True)
class Invariance:
    """How far scores were from those of the pairs alone.

    Attributes:
        runtime: largest difference when the runtime scores them in lists and shuffled.
        padded: largest difference when they are padded in batches of PADDED.
        tau: mean Kendall's tau-b of the lists' orders, padded against alone.
        changed_top10: share of lists whose first ten change.
    """

    runtime: float
    padded: float
    tau: float
    changed_top10: float

    def line(self, model: str) -> Line:
        """Return it as a line of the gate: what the runtime gives must not depend on company at all."""
        note = (
            f"padded in batches of {PADDED}, scores move by up to {self.padded:.2g}, tau {self.tau:.3f}, "
            f"{self.changed_top10:.0%} of the first tens change"
        )
        if self.padded > 0:
            note += ": only the runtime's way may be cached or compared with golden scores"
        verdict = PASS if self.runtime == 0 else FAIL
        return Line(NAME, model, f"{NAME} == 0", 0.0, verdict, self.runtime, self.runtime, self.runtime, note)


def measure_invariance(bundle: Path, variant: str, requests: Sequence[Request], seed: int = 0) -> Invariance:
    """Score requests alone, in lists, shuffled, and padded in batches.

    Args:
        bundle: its folder.
        variant: name of the graph.
        requests: queries with their items.
        seed: of the shuffling.
    """
    manifest = Manifest.read(bundle)
    asked = list(requests[:REQUESTS])
    pairs = [(query, item) for query, items in asked for item in items]
    offsets = np.r_[0, np.cumsum([len(items) for _, items in asked])].astype(np.int64)
    with Ranker.load(bundle, variant=variant) as ranker:
        alone = np.concatenate([ranker.score([pair]) for pair in pairs])
        lists = np.concatenate([ranker.score_items(query, items) for query, items in asked])
        order = np.random.default_rng(seed).permutation(len(pairs))
        shuffled = np.empty_like(alone)
        shuffled[order] = ranker.score([pairs[row] for row in order])
    encoder = PairEncoder.load(bundle, manifest.max_length)
    scorer, shortener = BatchScorer(bundle / manifest.variant(variant).file, encoder, 1, PADDED), Shortener.of(manifest)
    shorten = shortener.shorten if shortener is not None else str
    padded = np.concatenate([scorer.score(query, [shorten(item) for item in items]) for query, items in asked])
    return Invariance(
        runtime=float(max(np.abs(lists - alone).max(), np.abs(shuffled - alone).max())),
        padded=float(np.abs(padded - alone).max()),
        tau=float(np.nanmean(agreement(padded, alone, offsets)["tau"])),
        changed_top10=float(changed_top(padded, alone, offsets).mean()),
    )
