"""What every option may be: ranges, and what options ask of each other."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from distill.errors import ConfigError
from distill.schema import (
    AdrMse,
    Attention,
    BeirData,
    Config,
    Data,
    Draw,
    DrawnAugment,
    EncoderTeacher,
    Export,
    Fit,
    Hidden,
    HubData,
    Input,
    Int8,
    Kl,
    Labels,
    LambdaLoss,
    Loss,
    Measure,
    MlflowTrack,
    RankNet,
    Relations,
    SearchedInt8,
    SimilarityWarm,
    SlateData,
    StateTerm,
    Student,
    Teacher,
    Term,
    Train,
    Vocabulary,
)
from distill.tracker_uri import uri_problem, without_password
from export import node_groups
from export.errors import UserError
from export.extras import require
from export.measure import budget
from export.runtime.tokens import SPECIAL

PRECISIONS = ("auto", "fp32", "bf16")
ATTENTIONS = ("auto", "eager", "sdpa")
SPLITS = ("dev", "test")
ENGINES = ("onnxruntime", "openvino")  # of graphs; what is handed over is measured in the first
CRITERIA = ("fisher", "taylor", "magnitude")
FIELDS, KEEPS = ("all", "title"), ("first", "idf", "gradient")
MOST_OUTLIERS = 32  # with more, the fp32 products beside the int8 ones cost what int8 saves
# trackers of transformers' Trainer, each named like the module it needs
TRACKERS = ("clearml", "comet_ml", "mlflow", "neptune", "tensorboard", "trackio", "wandb")

Rule = tuple[str, Callable[[Any], bool], str]  # option, whether a value is allowed, what is allowed


def at_least(least: float) -> tuple[Callable[[Any], bool], str]:
    """Allow finite numbers from `least` on, and None."""
    return lambda value: value is None or (math.isfinite(value) and value >= least), f"a number >= {least:g}"


def between(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    """Allow numbers strictly between two."""
    return lambda value: low < value < high, f"a number between {low:g} and {high:g}"


def one_of(*allowed: str) -> tuple[Callable[[Any], bool], str]:
    """Allow these words."""
    return lambda value: value in allowed, "one of " + ", ".join(allowed)


def _positive(value: Any) -> bool:
    return bool(math.isfinite(value) and value > 0)


def _any_weight(terms: dict[str, Term]) -> bool:
    return any(term is not None and term.weight > 0 for term in terms.values())


def _is_layer_map(layer_map: Any) -> bool:
    if isinstance(layer_map, list):
        return bool(layer_map) and all(type(layer) is int and layer >= 0 for layer in layer_map)
    return bool(layer_map == "uniform")


def _is_engines(engines: list[str]) -> bool:
    return ENGINES[0] in engines and set(engines) <= set(ENGINES) and len(set(engines)) == len(engines)


LAYER_MAP = (_is_layer_map, "uniform, or a list with one of the teacher's layers, from 0, for each of the student's")
POSITIVE = (_positive, "a number > 0")
ENGINE_LIST = (_is_engines, f"[{ENGINES[0]}], which the bundle is served with, or [{', '.join(ENGINES)}]")
SHARE = (lambda value: 0 <= value < 1, "a number from 0, below 1")

RULES: dict[type, Sequence[Rule]] = {
    Config: [("name", lambda v: bool(v) and "/" not in v and v not in (".", ".."), "a folder's name"),
             ("seed", *at_least(0))],
    Data: [("seed", *at_least(0))],
    SlateData: [
        ("history", *between(0, 1)), ("liked_titles", *at_least(1)), ("max_positives", *at_least(1)),
        ("max_disliked", *at_least(0)), ("candidates", *at_least(2)), ("dev_users", *at_least(1)),
        ("test_users", *at_least(1)),
    ],
    BeirData: [("relevant", *at_least(1)), ("candidates", *at_least(2)), ("dev_fraction", *between(0, 1))],
    HubData: [("relevant", *at_least(1)), ("dev_fraction", *between(0, 1)), ("max_queries", *at_least(1))],
    Fit: [
        ("epochs", *POSITIVE), ("max_pairs", *at_least(1)), ("learning_rate", *POSITIVE), ("head_rate", *POSITIVE),
        ("warmup", *SHARE), ("weight_decay", *at_least(0)), ("group_size", *at_least(2)),
        ("batch_groups", *at_least(1)), ("batch_tokens", *at_least(1)), ("evaluations", *at_least(1)),
        ("keep", *one_of("best", "last")), ("dev_queries", *at_least(1)),
    ],
    Teacher: [("max_length", *at_least(SPECIAL + 2))],
    Student: [
        ("max_length", *at_least(SPECIAL + 2)), ("hidden_size", *at_least(1)), ("heads", *at_least(1)),
        ("intermediate_size", *at_least(1)), ("importance", *one_of(*CRITERIA)), ("importance_pairs", *at_least(2)),
        ("refit_pairs", *at_least(0)),
    ],
    Input: [
        ("fields", *one_of(*FIELDS)), ("words", *at_least(1)), ("keep", *one_of(*KEEPS)), ("pairs", *at_least(1)),
    ],
    Draw: [
        ("bm25", *at_least(0)), ("embedding", *at_least(0)), ("random", *at_least(0)), ("item_queries", *at_least(0)),
        ("crossed_queries", *at_least(0)), ("seed", *at_least(0)),
    ],
    DrawnAugment: [("hard_negatives", *at_least(0)), ("margin", *at_least(0))],
    SimilarityWarm: [("scale", *POSITIVE)],
    Vocabulary: [("min_count", *at_least(1)), ("max_unknown", *SHARE)],
    Term: [("weight", *at_least(0))],
    Kl: [("temperature", *POSITIVE)],
    RankNet: [("sigma", *POSITIVE)],
    LambdaLoss: [("sigma", *POSITIVE), ("mu", *at_least(0))],
    AdrMse: [("temperature", *POSITIVE)],
    Hidden: [("layer_map", *LAYER_MAP)],
    Attention: [("layer_map", *LAYER_MAP)],
    Relations: [("heads", *at_least(1)), ("teacher_layer", *at_least(0))],
    Loss: [("terms", _any_weight, "at least one with weight > 0")],
    Train: [
        ("precision", *one_of(*PRECISIONS)), ("attention", *one_of(*ATTENTIONS)), ("dropout", *SHARE),
        ("accumulate", *at_least(1)), ("score_batch", *at_least(1)),
    ],
    Int8: [
        ("smooth", lambda v: v is None or 0 <= v <= 1, "a number from 0 to 1, or null"),
        ("outliers", lambda v: 0 <= v <= MOST_OUTLIERS, f"0 to {MOST_OUTLIERS}"), ("calibration", *at_least(1)),
    ],
    SearchedInt8: [
        ("queries", *at_least(1)), ("max_drop", *SHARE), ("min_overlap", lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    ],
    Export: [("opset", lambda v: 17 <= v <= 18, "17 or 18")],
    Measure: [
        ("split", *one_of(*SPLITS)), ("engines", *ENGINE_LIST), ("threads", *at_least(1)),
        ("latency_queries", *at_least(1)), ("warmup_queries", *at_least(1)), ("rounds", *at_least(1)),
        ("parity_queries", *at_least(1)),
        ("confidence", *between(0, 1)), ("resamples", *at_least(100)),
    ],
    MlflowTrack: [
        ("experiment", lambda v: v.strip() and len(v) <= 500, "a name of at most 500 characters"),
        ("model", lambda v: v is None or (v.strip() and not {"/", ":"} & set(v)), "a name without / and :"),
    ],
}  # fmt: skip


def validate(config: Config) -> None:
    """Check every option, before anything heavy is imported.

    Raises:
        ConfigError: with a line for each option that cannot be: its name, its value, what is allowed.
    """
    problems = [
        *_broken_rules(config, ""),
        *_cross_checks(config),
        *_step_checks(config),
        *_vocabulary_checks(config),
        *_input_checks(config),
        *_draw_checks(config),
        *_state_checks(config),
        *_exclude_checks(config),
        *_engine_checks(config),
        *_budget_checks(config),
        *_track_checks(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def problem(option: str, value: Any, allowed: str) -> str:
    """Return the line that tells of a wrong option."""
    return f"{option}={value}: allowed is {allowed}"


def _broken_rules(node: Any, prefix: str) -> Iterator[str]:
    for kind in type(node).__mro__:
        for option, allows, allowed in RULES.get(kind, ()):
            value = getattr(node, option)
            if not allows(value):
                yield problem(prefix + option, value, allowed)
    for each in fields(node):
        value = getattr(node, each.name)
        children = value.items() if isinstance(value, dict) else [("", value)]
        for name, child in children:
            if is_dataclass(child):
                yield from _broken_rules(child, f"{prefix}{each.name}.{name + '.' if name else ''}")


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
    safety = config.student.vocabulary.safety
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
        unlabelled = [
            name for name, term in config.loss.terms.items() if term.weight > 0 and not isinstance(term, Labels)
        ]
        if not unlabelled and not augment.hard_negatives:
            yield problem("augment.hard_negatives", 0, "a number >= 1 where the loss is labels alone, or augment=none")
    if isinstance(warm, SimilarityWarm):
        yield from _empty_draw("warm.pairs", warm.pairs)
        if not encoder:
            yield problem("warm", warm.kind, "none with a teacher that is used as it is")


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


def _empty_draw(option: str, draw: Draw) -> Iterator[str]:
    if not draw.bm25 + draw.embedding + draw.random:
        yield f"{option}: bm25, embedding and random are all 0; at least one must draw"


def _exclude_checks(config: Config) -> Iterator[str]:
    quantize, layers = config.quantize, config.student.layers
    if not isinstance(quantize, Int8) or not quantize.exclude or not _is_layers(layers):
        return
    number = len(layers) if isinstance(layers, list) else int(layers)
    nodes, groups = node_groups.node_names(number), ", ".join(node_groups.group_names(number))
    unknown = node_groups.unknown(quantize.exclude, nodes)
    for pattern in unknown:
        yield problem("quantize.exclude", pattern, f"{groups}, a node of these, or a glob")
    if not unknown and len(node_groups.excluded(quantize.exclude, nodes)) == len(nodes):
        yield problem("quantize.exclude", quantize.exclude, "fewer than all groups; in fp32 alone is quantize=none")


def _engine_checks(config: Config) -> Iterator[str]:
    if "openvino" not in config.measure.engines:
        return
    try:
        require("openvino", "openvino")
    except UserError as error:
        yield f"measure.engines={','.join(config.measure.engines)}: {error}"


def _budget_checks(config: Config) -> Iterator[str]:
    if not config.budget.require:
        return
    try:
        budget.Budget.of(asdict(config.budget), "budget")
    except UserError as error:
        yield from str(error).splitlines()


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
