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
    BeirData,
    Config,
    Data,
    Export,
    Fit,
    HubData,
    Kl,
    Loss,
    Measure,
    MlflowTrack,
    SlateData,
    Student,
    Teacher,
    Term,
    Train,
)
from distill.tracker_uri import uri_problem, without_password
from export.errors import UserError
from export.extras import require
from export.measure import budget
from export.runtime.tokens import SPECIAL

PRECISIONS = ("auto", "fp32", "bf16")
ATTENTIONS = ("auto", "eager", "sdpa")
SPLITS = ("dev", "test")
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


POSITIVE = (_positive, "a number > 0")
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
        ("batch_groups", *at_least(1)), ("evaluations", *at_least(1)), ("keep", *one_of("best", "last")),
        ("dev_queries", *at_least(1)),
    ],
    Teacher: [("max_length", *at_least(SPECIAL + 2))],
    Student: [("max_length", *at_least(SPECIAL + 2)), ("hidden_size", *at_least(1))],
    Term: [("weight", *at_least(0))],
    Kl: [("temperature", *POSITIVE)],
    Loss: [("terms", _any_weight, "at least one with weight > 0")],
    Train: [
        ("precision", *one_of(*PRECISIONS)), ("attention", *one_of(*ATTENTIONS)), ("dropout", *SHARE),
        ("accumulate", *at_least(1)), ("score_batch", *at_least(1)),
    ],
    Export: [("opset", lambda v: 17 <= v <= 18, "17 or 18")],
    Measure: [
        ("split", *one_of(*SPLITS)), ("threads", *at_least(1)), ("latency_queries", *at_least(1)),
        ("warmup_queries", *at_least(1)), ("rounds", *at_least(1)), ("parity_queries", *at_least(1)),
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
    problems = [*_broken_rules(config, ""), *_cross_checks(config), *_budget_checks(config), *_track_checks(config)]
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


def validate_student(student: Student, teacher_layers: int, teacher_hidden: int) -> None:
    """Check the student against the teacher it is taken from.

    Raises:
        ConfigError: if it asks for layers or a width that the teacher does not have.
    """
    problems = []
    layers = student.layers
    if isinstance(layers, int) and layers > teacher_layers:
        problems.append(problem("student.layers", layers, f"1 to {teacher_layers}, the teacher's layers"))
    if isinstance(layers, list) and layers[-1] >= teacher_layers:
        problems.append(problem("student.layers", layers, f"layers from 0 to {teacher_layers - 1}, the teacher's"))
    if student.hidden_size != teacher_hidden:
        problems.append(problem("student.hidden_size", student.hidden_size, f"{teacher_hidden}, the teacher's"))
    if problems:
        raise ConfigError("\n".join(problems))
