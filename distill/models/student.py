"""The student: some of the teacher's layers, what is most important in them, trained on the teacher's scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, set_seed

from rankdistill.data.scored_pairs import Lessons
from rankdistill.data.tokens import PairTokens
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.export.torch_models.split_bert import split
from rankdistill.losses.score_terms import weighted_loss
from rankdistill.losses.state_terms import score_terms, state_terms
from rankdistill.models import pruned_embedding
from rankdistill.models.importance import measure
from rankdistill.models.model_files import read_config
from rankdistill.models.narrowing import Parts, choose_parts, cut
from rankdistill.models.refit import refit
from rankdistill.models.teacher import copy_tokenizer
from rankdistill.models.vocabulary import choose
from rankdistill.options import Student, Term, Train
from rankdistill.options.student_width import Width, freezes, student_width
from rankdistill.training.cost import scoring_cost
from rankdistill.training.device import Device
from rankdistill.training.median_stopping import Rivals
from rankdistill.training.monitor import Monitor
from rankdistill.training.recorded_states import every_token
from rankdistill.training.teacher_states import imitating, unscored
from rankdistill.training.trainer import train_ranker

log = logging.getLogger(__name__)


def choose_layers(layers: int | Sequence[int], teacher_layers: int) -> list[int]:
    """Return which of the teacher's layers a student takes: a list as it is, a number spread evenly, the last kept.

    One layer is the last, which wrote what the pooler reads: it ended nearer to the teacher than the
    first (docs/students.md). Two are the first and the last; three add the middle one.
    """
    if not isinstance(layers, int):
        return list(layers)
    return [int(layer) for layer in np.linspace(teacher_layers - 1, 0, layers).round()[::-1]]


def build_student(teacher: Path, layers: Sequence[int], attention: str) -> BertForSequenceClassification:
    """Return a cross-encoder of these layers with the teacher's embeddings, pooler and classifier."""
    model = load_ranker(str(teacher), cls_only=True, attention=attention)
    model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[layer] for layer in layers)
    model.config.num_hidden_layers = len(layers)
    return model


def item_position(pairs: PairTokens, config: BertConfig) -> int:
    """Return where a split student's items begin: where most of its teacher's do, as far as there are positions."""
    queries = int(np.median(pairs.table.queries.lengths_of(pairs.query)))  # [CLS] and [SEP] around them
    return min(queries + 2, int(config.max_position_embeddings) - pairs.encoder.max_length)


def initial_student(
    teacher: Path,
    layers: Sequence[int],
    pairs: PairTokens,
    teacher_scores: Float32,
    student: Student,
    attention: str,
    seed: int,
) -> BertForSequenceClassification:
    """Return a student as its training begins: cut out of the teacher, split, fitted to the teacher's states.

    Args:
        teacher: its folder.
        layers: the teacher's layers that the student takes.
        pairs: the training pairs, some of which tell what is important and what to fit to.
        teacher_scores: the teacher's logits of them, float32 [pairs].
        student: its options.
        attention: transformers' name of its implementation.
        seed: of which pairs.
    """
    model = build_student(teacher, layers, attention)
    whole = Width.of(model.config.to_dict())
    width = student_width(student, whole)
    parts = Parts.all(whole, len(layers))
    if width != whole:
        log.info("student: keeping of its width what is most important by %s", student.importance)
        importance = measure(
            model, pairs, teacher_scores, criterion=student.importance, count=student.importance_pairs, seed=seed
        )
        parts = choose_parts(importance, width)
        model = cut(model, parts, width)
    changed = width != whole or len(layers) < read_config(teacher)["num_hidden_layers"]
    if student.split_layers:
        model, changed = split(model, student.split_layers, item_position(pairs, model.config)), True
    if student.refit_pairs and changed:
        log.info("student: fitting its weights to the teacher's states")
        original = load_ranker(str(teacher), cls_only=False, attention=attention)
        count = min(student.refit_pairs, len(pairs))
        rows = np.random.default_rng(seed).choice(len(pairs), count, replace=False)
        refit(model, original, layers, parts, pairs, rows[np.argsort(pairs.lengths[rows], kind="stable")])
    return model


def write(
    teacher: Path,
    lessons: Lessons,
    dev: PairTokens,
    *,
    layers: Sequence[int],
    student: Student,
    terms: Mapping[str, Term],
    train: Train,
    seed: int,
    rivals: Rivals | None,
    monitor: Monitor | None = None,
    out: Path,
) -> None:
    """Distil a student and save it in `out`.

    Args:
        teacher: the teacher's folder.
        lessons: the training pairs with the teacher's scores.
        dev: the dev pairs that choose the best evaluation.
        layers: the teacher's layers that the student takes.
        student: its options.
        terms: the losses.
        train: how the machine is used.
        seed: of the training.
        rivals: what a search has found so far.
        monitor: looks whether anything is learned.
        out: the stage's working folder.

    Raises:
        ConfigError: if a loss asks for teacher scores of another scale, or the vocabulary would lose too much.
        Pruned: if the student is hopeless beside its rivals.
    """
    device, pairs = Device.resolve(train), lessons.pairs
    set_seed(seed)
    model = initial_student(teacher, layers, pairs, lessons.scores, student, device.attention, seed)
    theirs = read_config(teacher)["hidden_size"]
    train = replace(train, freeze_embeddings=freezes(train.freeze_embeddings, model.config.hidden_size, theirs))
    if student.vocabulary.min_count is not None:
        config = model.config
        kept = choose(student.vocabulary, teacher, pairs, dev, size=config.vocab_size, width=config.hidden_size)
        (out / "vocabulary.json").write_text(json.dumps(kept.summary, indent=2) + "\n", encoding="utf-8")
        pruned_embedding.cut(model, kept.ids, kept.unknown)
    known = {"teacher": lessons.scores, "grades": pairs.split.grade.astype("float32")}
    scored, compared = score_terms(terms), state_terms(terms)
    if compared:
        model = every_token(model)
    with imitating(model, compared, teacher, device) as imitation:
        train_ranker(
            model,
            pairs,
            dev,
            known,
            weighted_loss(scored, lessons.scale) if scored else unscored,
            imitation=imitation,
            fit=student.fit,
            train=train,
            device=device,
            seed=seed,
            out=out,
            what="student",
            watch=None if rivals is None else partial(rivals.check, scoring_cost(model, pairs)),
            monitor=monitor,
        )
    pruned_embedding.expand(model)
    save_ranker(model, str(out))
    copy_tokenizer(teacher, out)
    (out / "layers.json").write_text(json.dumps({"teacher_layers": list(layers)}) + "\n", encoding="utf-8")
