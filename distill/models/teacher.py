"""The teacher: a plain BERT encoder fine-tuned to rank, or a reranker taken as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import set_seed

from rankdistill.data.records import Float32
from rankdistill.data.tokens import PairTokens
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.export.torch_models.loading import load_whole
from rankdistill.losses import score_losses
from rankdistill.losses.score_losses import Loss
from rankdistill.models.model_files import FILES
from rankdistill.options import EncoderTeacher, Fit, Train
from rankdistill.training.device import Device
from rankdistill.training.monitor import Monitor
from rankdistill.training.trainer import train_ranker


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
    return score_losses.listwise_labels(scores, batch["grades"], batch["mask"])


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

    The other arguments are those of `rankdistill.training.trainer.train_ranker`.
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
