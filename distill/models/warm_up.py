"""Warming a teacher up on what is free: its margins imitate the encoder's similarity, or what all baselines know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from rankdistill.data.records import Float32
from rankdistill.data.tokens import PairTokens
from rankdistill.losses import score_losses
from rankdistill.models.teacher import write_trained
from rankdistill.options import Fit, Train
from rankdistill.training.monitor import Monitor


def write(
    encoder: Path,
    pairs: PairTokens,
    margins: Float32,
    dev: PairTokens,
    fit: Fit,
    train: Train,
    seed: int,
    out: Path,
    monitor: Monitor | None = None,
) -> None:
    """Train a cross-encoder whose margins between a query's candidates are those of scores; save it in `out`.

    Args:
        encoder: folder of the encoder, or of a cross-encoder that is to begin with.
        pairs: whose labels are not looked at.
        margins: scores of the pairs, float32 [pairs].
        dev: labelled pairs that show how far it has come.
        fit: how long and how fast.
        train: how the machine is used.
        seed: of the training.
        out: the stage's working folder.
        monitor: looks whether anything is learned.
    """
    write_trained(
        encoder, pairs, dev, {"margins": margins}, _by_margins,
        fit=fit, train=train, seed=seed, out=out, what="warm-up", monitor=monitor,
    )  # fmt: skip


def _by_margins(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return score_losses.margin_mse(scores, batch["margins"], batch["mask"])
