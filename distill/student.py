"""The student: some of the teacher's layers, trained on the teacher's scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, set_seed

from distill import losses
from distill.device import Device
from distill.pruning import Rivals
from distill.schema import Kl, Labels, MarginMse, Student, Term, Train
from distill.teacher import copy_tokenizer
from distill.tokens import PairTokens
from distill.train import Loss, encoder_parameters, train_ranker
from export.cls_only import load_ranker, save_ranker
from export.runtime.scorer import Float32


def choose_layers(layers: int | Sequence[int], teacher_layers: int) -> list[int]:
    """Return which of the teacher's layers a student takes: a list as it is, a number spread evenly, the first kept.

    One layer is the first; two are the first and the last; three add the middle one.
    """
    if not isinstance(layers, int):
        return list(layers)
    return [int(layer) for layer in np.linspace(0, teacher_layers - 1, layers).round()]


def build_student(teacher: Path, layers: Sequence[int], attention: str) -> BertForSequenceClassification:
    """Return a cross-encoder of these layers with the teacher's embeddings, pooler and classifier."""
    model = load_ranker(str(teacher), cls_only=True, attention=attention)
    model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[layer] for layer in layers)
    model.config.num_hidden_layers = len(layers)
    return model


def weighted_loss(terms: Mapping[str, Term]) -> Loss:
    """Return the weighted sum of loss terms; the batch holds `teacher` scores (raw logits), `grades` and `mask`."""
    kept = [term for term in terms.values() if term.weight > 0]

    def one(term: Term, scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        if isinstance(term, Kl):
            return losses.kl(scores, batch["teacher"], batch["mask"], term.temperature)
        if isinstance(term, MarginMse):
            return losses.margin_mse(scores, batch["teacher"], batch["mask"])
        assert isinstance(term, Labels)
        return losses.listwise_labels(scores, batch["grades"], batch["mask"])

    def total(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([term.weight * one(term, scores, batch) for term in kept]).sum()

    return total


def write(
    teacher: Path,
    pairs: PairTokens,
    dev: PairTokens,
    teacher_scores: Float32,
    *,
    layers: Sequence[int],
    student: Student,
    terms: Mapping[str, Term],
    train: Train,
    seed: int,
    rivals: Rivals | None,
    out: Path,
) -> None:
    """Distil a student and save it in `out`.

    Args:
        teacher: the teacher's folder.
        pairs: the training pairs.
        dev: the dev pairs that choose the best evaluation.
        teacher_scores: raw logits of the training pairs, float32 [pairs].
        layers: the teacher's layers that the student takes.
        student: its options.
        terms: the losses.
        train: how the machine is used.
        seed: of the training.
        rivals: what a search has found so far.
        out: the stage's working folder.

    Raises:
        Pruned: if the student is hopeless beside its rivals.
    """
    device = Device.resolve(train)
    set_seed(seed)
    model = build_student(teacher, layers, device.attention)
    known = {"teacher": teacher_scores, "grades": pairs.split.grade.astype("float32")}
    train_ranker(
        model,
        pairs,
        dev,
        known,
        weighted_loss(terms),
        fit=student.fit,
        train=train,
        device=device,
        seed=seed,
        out=out,
        what="student",
        watch=None if rivals is None else partial(rivals.check, encoder_parameters(model) * student.max_length),
    )
    save_ranker(model, str(out))
    copy_tokenizer(teacher, out)
    (out / "layers.json").write_text(json.dumps({"teacher_layers": list(layers)}) + "\n", encoding="utf-8")
