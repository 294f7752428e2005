"""Warming a teacher up on what is free: its logits imitate the similarity of its encoder's embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from distill import losses
from distill.monitor import Monitor
from distill.records import Float32
from distill.schema import SimilarityWarm, Train
from distill.teacher import write_trained
from distill.tokens import PairTokens


def write(
    encoder: Path,
    pairs: PairTokens,
    similarity: Float32,
    dev: PairTokens,
    warm: SimilarityWarm,
    train: Train,
    seed: int,
    out: Path,
    monitor: Monitor | None = None,
) -> None:
    """Train a cross-encoder whose margins are those of `warm.scale` times the similarity; save it in `out`.

    Args:
        encoder: folder of the encoder, or of a cross-encoder that is to begin with.
        pairs: unlabelled pairs.
        similarity: cosine of the pairs' embeddings, float32 [pairs].
        dev: labelled pairs that show how far it has come.
        warm: scale and fit.
        train: how the machine is used.
        seed: of the training.
        out: the stage's working folder.
        monitor: looks whether anything is learned.
    """
    known = {"similarity": similarity * np.float32(warm.scale)}
    write_trained(
        encoder, pairs, dev, known, _by_similarity,
        fit=warm.fit, train=train, seed=seed, out=out, what="warm-up", monitor=monitor,
    )  # fmt: skip


def _by_similarity(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return losses.margin_mse(scores, batch["similarity"], batch["mask"])
