"""What options ask of each other, and of what is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.errors import ConfigError
from rankdistill.export.errors import UserError
from rankdistill.export.extras import require
from rankdistill.export.gate import budget
from rankdistill.export.graphs import node_groups
from rankdistill.options import (
    Config,
    DistilledEmbed,
    Draw,
    DrawnAugment,
    EncoderTeacher,
    FusedInt8,
    HubData,
    Input,
    Int8,
    Labels,
    LayeredCascade,
    MlflowTrack,
    NoQuantize,
    NoWarm,
    PcaEmbed,
    SimilarityWarm,
    SlateData,
    StateTerm,
    Vocabulary,
    Weight8,
)
from rankdistill.options.ranges import TRACKERS, broken_rules, problem
from rankdistill.options.tracker_uri import uri_problem, without_password
from rankdistill.pipeline.cascade_stages import BM25, EMBEDDING, locate_first
from rankdistill.training.median_stopping import Rivals


def validate(config: Config) -> None:
    """Check every option, before anything heavy is imported.

    Raises:
        ConfigError: with a line for each option that cannot be: its name, its value, what is allowed.
    """
    problems = [
        *broken_rules(config, ""),
        *_cross_checks(config),
        *_step_checks(config),
        *_vocabulary_checks(config),
        *_input_checks(config),
        *_draw_checks(config),
        *_state_checks(config),
        *_split_checks(config),
        *_rivals_checks(config),
        *_calibration_checks(config),
        *_exclude_checks(config),
        *_cascade_checks(config),
        *_embed_checks(config),
        *_engine_checks(config),
        *_budget_checks(config),
        *_track_checks(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _cross_checks(config: Config) -> Iterator[str]:
    data, student = config.data, config.student
    path = getattr(data, "path", None)
    if data.kind != "hub" and path is not None and not Path(path).expanduser().is_dir():
        yield problem("data.path", path, "an existing folder")
    if isinstance(data, SlateData) and data.max_positives >= data.candidates:
        yield problem("data.max_positives", data.max_positives, f"fewer than data.candidates={data.candidates}")
    if isinstance(data, HubData) and not _hub_columns(data):
        yield problem("data.columns", data.columns, "query with items and grades, or query with positive and negative")
    if isinstance(data, HubData) and not {"train", "test"} <= set(data.splits):
        yield problem("data.splits", data.splits, "the data set's names for train, test and, if it has one, dev")
    for tracker in config.train.report_to:
        if tracker not in TRACKERS:
            yield problem("train.report_to", tracker, f"any of {', '.join(TRACKERS)}")
        elif importlib.util.find_spec(tracker) is None:
            yield problem("train.report_to", tracker, f"an installed tracker; run: pip install {tracker}")
    if not _is_layers(student.layers):
        yield problem("student.layers", student.layers, "a number of layers >= 1, or a rising list of layers from 0")


def _step_checks(config: Config) -> Iterator[str]:
    for name, longest in (("teacher", "teacher"), ("warm", "teacher"), ("student", "student")):
        fit, tokens = getattr(getattr(config, name), "fit", None), getattr(config, longest).max_length
        if fit is not None and fit.batch_tokens is not None and fit.batch_tokens < fit.group_size * tokens:
            allowed = f"a number >= {fit.group_size * tokens}, {name}.fit.group_size * {longest}.max_length"
            yield problem(f"{name}.fit.batch_tokens", fit.batch_tokens, allowed)


def _vocabulary_checks(config: Config) -> Iterator[str]:
    asked, default = config.student.vocabulary, Vocabulary()
    safety = asked.safety
    if asked.max_unknown != default.max_unknown and asked.min_count is None:
        allowed = f"{default.max_unknown:g} with student.vocabulary.min_count=null: all are kept"
        yield problem("student.vocabulary.max_unknown", asked.max_unknown, allowed)
    if safety is not None and not Path(safety).expanduser().is_file():
        yield problem("student.vocabulary.safety", safety, "an existing file, one text a line")
    if safety is not None and config.student.vocabulary.min_count is None:
        yield problem("student.vocabulary.safety", safety, "null with student.vocabulary.min_count=null: all are kept")


def _input_checks(config: Config) -> Iterator[str]:
    """Tell of options of the student's input that would do nothing."""
    asked, default = config.student.input, Input()
    if asked.fields == "title" and isinstance(config.data, HubData):
        yield problem("student.input.fields", asked.fields, "all with data=hub, whose items have one field")
    if asked.keep != default.keep and asked.words is None:
        yield problem("student.input.keep", asked.keep, f"{default.keep} with student.input.words=null: all are kept")
    if asked.pairs != default.pairs and asked.keep != "gradient":
        yield problem("student.input.pairs", asked.pairs, f"{default.pairs} without student.input.keep=gradient")


def _draw_checks(config: Config) -> Iterator[str]:
    augment, warm, encoder = config.augment, config.warm, isinstance(config.teacher, EncoderTeacher)
    if isinstance(augment, DrawnAugment):
        yield from _empty_draw("augment", augment)
        if augment.embedding and not encoder:
            yield problem("augment.embedding", augment.embedding, "0 with a teacher that has no plain encoder")
        yield from _negative_checks(config, augment)
    if isinstance(warm, SimilarityWarm):
        yield from _empty_draw("warm.pairs", warm.pairs)
    if not isinstance(warm, NoWarm) and not encoder:
        yield problem("warm", warm.kind, "none with a teacher that is used as it is")


def _negative_checks(config: Config, augment: DrawnAugment) -> Iterator[str]:
    """Tell of hard negatives that no loss would read, and of drawn pairs that no loss would."""
    weighed = [term for term in config.loss.terms.values() if term.weight > 0]
    labels = [term for term in weighed if isinstance(term, Labels)]
    asked, margin = augment.hard_negatives, DrawnAugment().margin
    if len(labels) == len(weighed) and not asked:
        yield problem("augment.hard_negatives", 0, "a number >= 1 where the loss is labels alone, or augment=none")
    if asked and not labels:
        yield problem("augment.hard_negatives", asked, "0 without labels in the loss, which alone reads their grades")
    if augment.margin != margin and not asked:
        yield problem("augment.margin", augment.margin, f"{margin:g} with augment.hard_negatives=0")


def _state_checks(config: Config) -> Iterator[str]:
    """Tell of states that cannot be compared: token by token, both models must see the same ones."""
    student, teacher, asked = config.student.max_length, config.teacher.max_length, config.student.input
    for name, term in config.loss.terms.items():
        if not isinstance(term, StateTerm) or not term.weight > 0:
            continue
        if student != teacher:
            yield problem("student.max_length", student, f"teacher.max_length={teacher} with loss.terms.{name}")
        if asked.fields != "all":
            yield problem("student.input.fields", asked.fields, f"all with loss.terms.{name}")
        if asked.words is not None:
            yield problem("student.input.words", asked.words, f"null with loss.terms.{name}")


def _split_checks(config: Config) -> Iterator[str]:
    """Tell of what there is not of a split student."""
    asked, layers = config.student.split_layers, config.student.layers
    if not asked or not _is_layers(layers):
        return
    most = (len(layers) if isinstance(layers, list) else int(layers)) - 1
    if asked > most:
        yield problem("student.split_layers", asked, f"0 to {most}: the last of student.layers reads both")
    for name, term in config.loss.terms.items():
        if isinstance(term, StateTerm) and term.weight > 0:
            yield problem("student.split_layers", asked, f"0 with loss.terms.{name}, whose states are of whole pairs")
    if isinstance(config.quantize, FusedInt8):
        yield problem("student.split_layers", asked, f"0 with quantize={config.quantize.kind}")


def _empty_draw(option: str, draw: Draw) -> Iterator[str]:
    if not draw.bm25 + draw.embedding + draw.random:
        yield f"{option}: bm25, embedding and random are all 0; at least one must draw"


def _rivals_checks(config: Config) -> Iterator[str]:
    if config.rivals:
        try:
            Rivals.read(Path(config.rivals))
        except ConfigError as error:
            yield str(error)


def _calibration_checks(config: Config) -> Iterator[str]:
    quantize = config.quantize
    if isinstance(quantize, Int8) and quantize.smooth is None and not quantize.outliers:
        default = Int8().calibration
        if quantize.calibration != default:
            allowed = f"{default} with quantize.smooth=null quantize.outliers=0: nothing is fitted"
            yield problem("quantize.calibration", quantize.calibration, allowed)


def _exclude_checks(config: Config) -> Iterator[str]:
    quantize, layers = config.quantize, config.student.layers
    if not isinstance(quantize, Int8) or not quantize.exclude or not _is_layers(layers):
        return
    number = len(layers) if isinstance(layers, list) else int(layers)
    keyless = config.export.cls_only and node_groups.is_keyless(number, config.student.split_layers)
    nodes, groups = node_groups.node_names(number, keyless=keyless), ", ".join(node_groups.group_names(number))
    unknown = node_groups.unknown(quantize.exclude, nodes)
    for pattern in unknown:
        yield problem("quantize.exclude", pattern, f"{groups}, a node of these, or a glob")
    if not unknown and len(node_groups.excluded(quantize.exclude, nodes)) == len(nodes):
        yield problem("quantize.exclude", quantize.exclude, "fewer than all groups; in fp32 alone is quantize=none")


def _cascade_checks(config: Config) -> Iterator[str]:
    cascade, quantize = config.cascade, config.quantize
    if not isinstance(cascade, LayeredCascade):
        return
    eight_bits = "weight8" if isinstance(quantize, Weight8) else "int8"
    made = ["fp32"] if isinstance(quantize, NoQuantize) else ["fp32", eight_bits]
    if cascade.last not in made:
        yield problem("cascade.last", cascade.last, f"{' or '.join(made)} with quantize={quantize.kind}")
    if config.student.input.fields != "all":  # a shortener stands in the bundle, but what fields are it cannot know
        yield problem("student.input.fields", config.student.input.fields, f"all with cascade={cascade.kind}")
    if config.measure.latency_queries == 0:
        yield problem("measure.latency_queries", 0, f"a number >= 1 with cascade={cascade.kind}, which weighs times")
    if cascade.first == EMBEDDING and not isinstance(config.embed, PcaEmbed):
        allowed = (
            f"null, {BM25}, a bundle or a run with embed={config.embed.kind}; embed=distilled or embed=pca makes one"
        )
        yield problem("cascade.first", EMBEDDING, allowed)
    if cascade.first not in (None, BM25, EMBEDDING):
        try:
            locate_first(str(cascade.first))
        except UserError as error:
            yield str(error)


def _embed_checks(config: Config) -> Iterator[str]:
    embed = config.embed
    if not isinstance(embed, PcaEmbed):
        return
    if not isinstance(config.teacher, EncoderTeacher):
        yield problem("embed", embed.kind, "none with a teacher that has no plain encoder")
    if isinstance(config.quantize, FusedInt8):
        yield problem("embed", embed.kind, f"none with quantize={config.quantize.kind}, which is of rankers")
    if isinstance(embed, DistilledEmbed):
        if embed.layers is not None and not _is_layers(embed.layers):
            yield problem("embed.layers", embed.layers, "a number of layers >= 1, a rising list from 0, or null")
        if not embed.margin_mse + embed.in_batch + embed.similarity:
            yield "embed: margin_mse, in_batch and similarity are all 0; at least one must weigh"


def _engine_checks(config: Config) -> Iterator[str]:
    if "openvino" not in config.measure.engines:
        return
    try:
        require("openvino", "openvino")
    except UserError as error:
        yield f"measure.engines={','.join(config.measure.engines)}: {error}"


def _budget_checks(config: Config) -> Iterator[str]:
    if not config.budget.require:
        yield from (f"budget.{mistake}" for mistake in budget.allow_mistakes(config.budget.allow))
        return
    try:
        asked = budget.Budget.of(asdict(config.budget), "budget")
    except UserError as error:
        yield from str(error).splitlines()
        return
    for bound in asked.bounds:
        if bound.metric.needs == "baseline":
            name = bound.metric.name
            yield f"budget.require: {name} is against another bundle, which a run has not: ranker gate --baseline"


def _track_checks(config: Config) -> Iterator[str]:
    track = config.track
    if not isinstance(track, MlflowTrack):
        return
    try:
        require("track", "mlflow")
    except UserError as error:
        yield f"track=mlflow: {error}"
    if allowed := uri_problem(track.uri):
        yield problem("track.uri", without_password(track.uri), allowed)
    if track.model is not None and not track.bundle:
        yield problem("track.bundle", track.bundle, f"true with track.model={track.model}, which is made of bundles")


def _hub_columns(data: HubData) -> bool:
    return set(data.columns) in ({"query", "items", "grades"}, {"query", "positive", "negative"})


def _is_layers(layers: Any) -> bool:
    if isinstance(layers, bool):
        return False
    if isinstance(layers, int):
        return layers >= 1
    if not isinstance(layers, list) or not layers:
        return False
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in layers)
    return whole and layers == sorted(set(layers))
