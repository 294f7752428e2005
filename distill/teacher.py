"""The teacher: a plain BERT encoder fine-tuned to rank, or a reranker taken as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import set_seed

from distill import losses
from distill.device import Device
from distill.losses import Loss
from distill.models import FILES
from distill.monitor import Monitor
from distill.records import Float32
from distill.schema import EncoderTeacher, Fit, Train
from distill.tokens import PairTokens
from distill.train import train_ranker
from export.checkpoint import load_ranker, save_ranker
from export.cls_only import ClsOnlyBert
from export.loading import load_whole


def write_tuned(
    encoder: Path,
    pairs: PairTokens,
    dev: PairTokens,
    teacher: EncoderTeacher,
    train: Train,
    seed: int,
    out: Path,
    monitor: Monitor | None = None,
) -> None:
    """Fine-tune an encoder with a listwise loss on the graded labels and save the cross-encoder in `out`."""
    known = {"grades": pairs.split.grade.astype("float32")}
    write_trained(
        encoder, pairs, dev, known, _by_labels,
        fit=teacher.fit, train=train, seed=seed, out=out, what="teacher", monitor=monitor,
    )  # fmt: skip


def _by_labels(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return losses.listwise_labels(scores, batch["grades"], batch["mask"])


def write_trained(
    begin: Path,
    pairs: PairTokens,
    dev: PairTokens,
    known: Mapping[str, Float32],
    loss: Loss,
    *,
    fit: Fit,
    train: Train,
    seed: int,
    out: Path,
    what: str,
    monitor: Monitor | None,
) -> None:
    """Train a cross-encoder that begins as an encoder, or as another cross-encoder, and save it in `out`.

    The other arguments are those of `distill.train.train_ranker`.
    """
    device = Device.resolve(train)
    set_seed(seed)  # of a new classifier
    model: ClsOnlyBert = load_whole(
        ClsOnlyBert, begin, may_lack=("classifier.", "bert.pooler."), num_labels=1, attn_implementation=device.attention
    )
    train_ranker(
        model, pairs, dev, known, loss,
        fit=fit, train=train, device=device, seed=seed, out=out, what=what, monitor=monitor,
    )  # fmt: skip
    save_ranker(model, str(out))
    copy_tokenizer(begin, out)


def write_as_is(model: Path, out: Path) -> None:
    """Save a tuned reranker in `out` as it is.

    Raises:
        ModelError: if it is no BERT cross-encoder with one output.
    """
    save_ranker(load_ranker(str(model), cls_only=False), str(out))
    copy_tokenizer(model, out)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer's files of one model's folder into another's."""
    for name in FILES:
        if name not in ("config.json", "model.safetensors") and (source / name).is_file():
            shutil.copyfile(source / name, out / name)
