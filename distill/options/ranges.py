"""What each option may be by itself: ranges and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from rankdistill.export.measure.cut_offs import RULES as CUT_RULES
from rankdistill.export.runtime.text.shortener import MOST_WORDS
from rankdistill.export.runtime.text.tokens import SPECIAL
from rankdistill.options import (
    AdrMse,
    Attention,
    BeirData,
    Config,
    Data,
    DistilledEmbed,
    Draw,
    DrawnAugment,
    DriftSignal,
    Events,
    Export,
    Fit,
    Follow,
    Hidden,
    HubData,
    Input,
    Int8,
    Kl,
    LambdaLoss,
    LayeredCascade,
    LoraUpdate,
    Loss,
    Measure,
    MlflowTrack,
    PcaEmbed,
    RankNet,
    Relations,
    SearchedInt8,
    SimilarityWarm,
    SlateData,
    Student,
    Teacher,
    Term,
    TopLayersUpdate,
    Train,
    Update,
    Updating,
    Vocabulary,
)

PRECISIONS = ("auto", "fp32", "bf16")
ATTENTIONS = ("auto", "eager", "sdpa")
SPLITS = ("dev", "test")
ENGINES = ("onnxruntime", "openvino")  # of graphs; what is handed over is measured in the first
CRITERIA = ("fisher", "taylor", "magnitude")
FIELDS, KEEPS = ("all", "title"), ("first", "idf", "gradient")
FLOORS = ("stop", "warn", "none")
POOLINGS = ("mean", "cls", "pooler")
EIGHT_BITS = ("int8", "weight8")
LATE, PROPENSITIES, DRIFT_MEASURES = ("drop", "keep"), ("none", "power", "estimated"), ("ndcg@10", "brier")
MOST_SEED = (1 << 32) - 1  # NumPy's own generator, which transformers seeds too, takes no larger one
MOST_GRADE = 30  # 2^30 - 1 is still exact as a gain
MOST_OUTLIERS = 32  # with more, the fp32 products beside the int8 ones cost what int8 saves
# trackers of transformers' Trainer, each named like the module it needs
TRACKERS = ("clearml", "comet_ml", "mlflow", "neptune", "tensorboard", "trackio", "wandb")

Rule = tuple[str, Callable[[Any], bool], str]  # option, whether a value is allowed, what is allowed


def at_least(least: float) -> tuple[Callable[[Any], bool], str]:
    """Allow finite numbers from `least` on, and None."""
    return lambda value: value is None or (math.isfinite(value) and value >= least), f"a number >= {least:g}"


def within(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    """Allow whole numbers from one to another, and None."""
    return lambda value: value is None or least <= value <= most, f"a number from {least} to {most}"


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


def _all_shares(values: list[float]) -> bool:
    return all(0 < value < 1 for value in values)


def _is_engines(engines: list[str]) -> bool:
    return ENGINES[0] in engines and set(engines) <= set(ENGINES) and len(set(engines)) == len(engines)


def _is_grades(grades: dict[str, int]) -> bool:
    return bool(grades) and all(type(grade) is int and 0 <= grade <= MOST_GRADE for grade in grades.values())


def _is_rising(values: list[float]) -> bool:
    return len(values) <= MOST_GRADE and all(map(math.isfinite, values)) and values == sorted(set(values))


LAYER_MAP = (_is_layer_map, "uniform, or a list with one of the teacher's layers, from 0, for each of the student's")
POSITIVE = (_positive, "a number > 0")
ENGINE_LIST = (_is_engines, f"[{ENGINES[0]}], which the bundle is served with, or [{', '.join(ENGINES)}]")
SHARE = (lambda value: 0 <= value < 1, "a number from 0, below 1")
FROM_0_TO_1 = (lambda value: 0 <= value <= 1, "a number from 0 to 1")

RULES: dict[type, Sequence[Rule]] = {
    Config: [("name", lambda v: bool(v) and "/" not in v and v not in (".", ".."), "a folder's name"),
             ("name", lambda v: v != "stages", "another name: runs/stages is the store"),
             ("seed", *within(0, MOST_SEED))],
    Data: [("seed", *at_least(0)), ("max_left_out", *FROM_0_TO_1)],
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
    Teacher: [("max_length", *at_least(SPECIAL + 2)), ("floor", *one_of(*FLOORS))],
    Student: [
        ("max_length", *at_least(SPECIAL + 2)), ("split_layers", *at_least(0)), ("hidden_size", *at_least(1)),
        ("heads", *at_least(1)), ("intermediate_size", *at_least(1)), ("importance", *one_of(*CRITERIA)),
        ("importance_pairs", *at_least(2)), ("refit_pairs", lambda v: v == 0 or v >= 2, "0, or a number >= 2"),
    ],
    Input: [
        ("fields", *one_of(*FIELDS)), ("words", *within(1, MOST_WORDS)), ("keep", *one_of(*KEEPS)),
        ("pairs", *at_least(1)),
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
    LayeredCascade: [
        ("last", *one_of(*EIGHT_BITS, "fp32")), ("rule", *one_of(*CUT_RULES)), ("depth", *at_least(1)),
        ("tolerance", *between(0, 1)), ("confidence", *between(0, 1)),
        ("ladder", _all_shares, "numbers between 0 and 1"),
    ],
    PcaEmbed: [
        ("max_length", *at_least(SPECIAL + 2)), ("pooling", *one_of(*POOLINGS)), ("texts", *at_least(2)),
        ("dimensions", lambda v: all(type(d) is int and d >= 8 for d in v) and len(set(v)) == len(v),
         "different whole numbers >= 8"),
    ],
    DistilledEmbed: [
        ("margin_mse", *at_least(0)), ("in_batch", *at_least(0)), ("similarity", *at_least(0)),
        ("temperature", *POSITIVE), ("teacher_temperature", *POSITIVE), ("steps", *at_least(1)),
        ("batch_queries", *at_least(2)), ("group_size", *at_least(2)), ("learning_rate", *POSITIVE), ("warmup", *SHARE),
    ],
    Export: [("opset", lambda v: 17 <= v <= 18, "17 or 18")],
    Measure: [
        ("split", *one_of(*SPLITS)), ("engines", *ENGINE_LIST), ("threads", *at_least(1)),
        ("latency_queries", *at_least(0)), ("warmup_queries", *at_least(1)), ("rounds", *at_least(1)),
        ("parity_queries", *at_least(1)),
        ("confidence", *between(0, 1)), ("resamples", *at_least(100)),
    ],
    Events: [
        ("grades", _is_grades, f"a whole number from 0 to {MOST_GRADE} for each of at least one outcome"),
        ("ratings", _is_rising, "rising numbers"), ("max_age_s", *at_least(0)), ("late", *one_of(*LATE)),
        ("remembered", *at_least(1)), ("propensity", *one_of(*PROPENSITIES)), ("eta", *at_least(0)),
        ("max_weight", *at_least(1)), ("split", bool, "a split's name"),
    ],
    DriftSignal: [
        ("measure", *one_of(*DRIFT_MEASURES)), ("delta", *between(0, 1)), ("grace", *at_least(1)),
    ],
    Update: [
        ("optimizer", *one_of("keep", "new")), ("epochs", *POSITIVE), ("learning_rate", *POSITIVE), ("warmup", *SHARE),
        ("weight_decay", *at_least(0)), ("group_size", *at_least(2)), ("batch_groups", *at_least(1)),
        ("labels", *at_least(0)), ("replay", *at_least(0)), ("anchor", *at_least(0)), ("replay_lists", *at_least(0)),
        ("memory", *at_least(0)), ("workers", *at_least(1)), ("min_events", *at_least(2)), ("holdout", *between(0, 1)),
        ("max_user_share", *FROM_0_TO_1), ("min_agreement", *FROM_0_TO_1), ("max_broken", *FROM_0_TO_1),
        ("max_forgetting", *at_least(0)), ("max_int8_drop", *at_least(0)), ("confidence", *between(0, 1)),
        ("resamples", *at_least(100)), ("max_refused", *at_least(1)),
    ],
    TopLayersUpdate: [("k", *at_least(1))],
    LoraUpdate: [("rank", *at_least(1)), ("alpha", *POSITIVE)],
    Follow: [
        ("count", *at_least(1)), ("every_s", *at_least(0)), ("poll_s", *POSITIVE),
        ("nice", lambda v: 0 <= v <= 19, "0 to 19"), ("threads", *at_least(1)),
    ],
    Updating: [("seed", *within(0, MOST_SEED)), ("keep", *at_least(1))],
    MlflowTrack: [
        ("experiment", lambda v: v.strip() and len(v) <= 500, "a name of at most 500 characters"),
        ("model", lambda v: v is None or (v.strip() and not {"/", ":"} & set(v)), "a name without / and :"),
    ],
}  # fmt: skip


def problem(option: str, value: Any, allowed: str) -> str:
    """Return the line that tells of a wrong option."""
    return f"{option}={value}: allowed is {allowed}"


def broken_rules(node: Any, prefix: str) -> Iterator[str]:
    """Yield a line for each option of a dataclass, and of those in it, that is out of its range."""
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
                yield from broken_rules(child, f"{prefix}{each.name}.{name + '.' if name else ''}")
