"""What a BERT's config.json must say, told before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rankdistill.errors import ConfigError
from rankdistill.export.bundle.known_fields import CONFIG, code_problems

POINTER = "version https://git-lfs.github.com/spec/"
LEAST = {  # whole numbers that must be there, and the least that each can be
    "hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1, "vocab_size": 1,
    "max_position_embeddings": 1,
}  # fmt: skip
TEXTS = 2  # kinds of tokens: of a query and of an item
SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
ABOVE_ZERO = ("layer_norm_eps", "initializer_range")
FIXED = {"is_decoder": False, "add_cross_attention": False, "torchscript": False, "return_dict": True}
ABSENT = ("quantization_config", "transformers_weights", "pruned_heads")  # read by transformers, and nowhere else


def read_object(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a model holds.

    Raises:
        ConfigError: if it is no object in JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a decoding error is a ValueError
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}; allowed is an object of JSON")
    return content


def is_pointer(path: Path) -> bool:
    """Return whether a file is what Git LFS leaves in place of a large one that was not fetched.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER.encode()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the fields of a BERT's configuration."""
    others = {name: value for name, value in config.items() if name not in ABSENT}  # those are told of by their names
    yield from (f"{CONFIG} {told}" for told in code_problems(CONFIG, others))
    for name, least in LEAST.items():
        yield from _told(config, name, _is_whole(config.get(name), least), f"a whole number >= {least}")
    if "hidden_act" not in config:
        yield "config.json has no hidden_act; allowed is the name of one"
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if _is_whole(width, 1) and _is_whole(heads, 1) and int(width or 0) % int(heads or 1):
        yield f"its hidden_size is {width}; allowed is a multiple of num_attention_heads, {heads}"
    kinds = config.get("type_vocab_size", TEXTS)
    if not _is_whole(kinds, TEXTS):
        yield f"its type_vocab_size is {json.dumps(kinds)}; allowed is 2 or more: a pair has tokens of two texts"
    yield from _optional_problems(config)


def _optional_problems(config: Mapping[str, Any]) -> Iterator[str]:
    rows, padding = config.get("vocab_size"), config.get("pad_token_id")
    if padding is not None and not (_is_whole(padding, 0) and _is_whole(rows, 1) and padding < rows):
        yield f"its pad_token_id is {json.dumps(padding)}; allowed is a whole number below vocab_size, {rows}"
    labels = config.get("id2label")
    if labels is not None and not (isinstance(labels, dict) and all(each.isdecimal() for each in labels)):
        yield f"its id2label is {json.dumps(labels)}; allowed is an object, a label for each output"
    for name in ABSENT:
        if config.get(name):
            yield f"its config.json has {name}; allowed is a model without: save its weights whole and in floats"
    for name, value in FIXED.items():
        if name in config and config[name] is not value:
            yield f"its {name} is {json.dumps(config[name])}; allowed is {json.dumps(value)}"
    yield from _number_problems(config)


def _number_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name in SHARES:
        share = config.get(name)
        if share is not None and not (_is_number(share) and 0 <= share < 1):
            yield f"its {name} is {json.dumps(share)}; allowed is a number from 0 to below 1"
    for name in ABOVE_ZERO:
        if name in config and not (_is_number(config[name]) and config[name] > 0):
            yield f"its {name} is {json.dumps(config[name])}; allowed is a number above 0"


def label_count(config: Mapping[str, Any]) -> Any:
    """Return how many outputs a configuration has as transformers reads it."""
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)


def _told(config: Mapping[str, Any], name: str, right: bool, allowed: str) -> Iterator[str]:
    if name not in config:
        yield f"config.json has no {name}; allowed is {allowed}"
    elif not right:
        yield f"its {name} is {json.dumps(config[name])}; allowed is {allowed}"


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
