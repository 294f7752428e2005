"""What an option may be by itself: ranges and words, which stand beside each option."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any

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

Rule = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and what is
ALLOWED = "allowed"  # of a field's metadata


def option(default: Any, *rules: Rule) -> Any:
    """Return a dataclass's field with its default and what its value may be."""
    metadata = {ALLOWED: rules}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def at_least(least: float) -> Rule:
    """Allow finite numbers from `least` on, and None."""
    return lambda value: value is None or (math.isfinite(value) and value >= least), f"a number >= {least:g}"


def within(least: int, most: int) -> Rule:
    """Allow whole numbers from one to another, and None."""
    return lambda value: value is None or least <= value <= most, f"a number from {least} to {most}"


def between(low: float, high: float) -> Rule:
    """Allow numbers strictly between two."""
    return lambda value: low < value < high, f"a number between {low:g} and {high:g}"


def one_of(*allowed: str) -> Rule:
    """Allow these words."""
    return lambda value: value in allowed, "one of " + ", ".join(allowed)


def _positive(value: Any) -> bool:
    return bool(math.isfinite(value) and value > 0)


def _is_layer_map(layer_map: Any) -> bool:
    if isinstance(layer_map, list):
        return bool(layer_map) and all(type(layer) is int and layer >= 0 for layer in layer_map)
    return bool(layer_map == "uniform")


def are_shares(values: list[float]) -> bool:
    """Return whether all are strictly between 0 and 1."""
    return all(0 < value < 1 for value in values)


def _is_engines(engines: list[str]) -> bool:
    return ENGINES[0] in engines and set(engines) <= set(ENGINES) and len(set(engines)) == len(engines)


def _are_grades(grades: dict[str, int]) -> bool:
    return bool(grades) and all(type(grade) is int and 0 <= grade <= MOST_GRADE for grade in grades.values())


def are_rising(values: list[float]) -> bool:
    """Return whether there are no more than grades, each larger than the one before."""
    return len(values) <= MOST_GRADE and all(map(math.isfinite, values)) and values == sorted(set(values))


def are_dimensions(values: list[int]) -> bool:
    """Return whether all are different whole numbers from 8 on."""
    return all(type(value) is int and value >= 8 for value in values) and len(set(values)) == len(values)


LAYER_MAP = (_is_layer_map, "uniform, or a list with one of the teacher's layers, from 0, for each of the student's")
POSITIVE = (_positive, "a number > 0")
ENGINE_LIST = (_is_engines, f"[{ENGINES[0]}], which the bundle is served with, or [{', '.join(ENGINES)}]")
SHARE = (lambda value: 0 <= value < 1, "a number from 0, below 1")
GRADES = (_are_grades, f"a whole number from 0 to {MOST_GRADE} for each of at least one outcome")
FROM_0_TO_1 = (lambda value: 0 <= value <= 1, "a number from 0 to 1")


def problem(option: str, value: Any, allowed: str) -> str:
    """Return the line that tells of a wrong option."""
    return f"{option}={value}: allowed is {allowed}"


def broken_rules(node: Any, prefix: str) -> Iterator[str]:
    """Yield a line for each option of a dataclass, and of those in it, that is out of its range."""
    for each in fields(node):
        value = getattr(node, each.name)
        for allows, allowed in each.metadata.get(ALLOWED, ()):
            if not allows(value):
                yield problem(prefix + each.name, value, allowed)
    for each in fields(node):
        value = getattr(node, each.name)
        children = value.items() if isinstance(value, dict) else [("", value)]
        for name, child in children:
            if is_dataclass(child):
                yield from broken_rules(child, f"{prefix}{each.name}.{name + '.' if name else ''}")
