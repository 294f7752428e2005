"""The weights that a BERT's configuration asks for, and what is wrong with those that a checkpoint has.

transformers draws a weight that a checkpoint lacks at random, and leaves out one whose name it does not know, with a
warning at most. So names, shapes and values are compared before anything is made of them, without torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from rankdistill.export.errors import ModelError

PREFIX = "bert."
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
HEAD = ("classifier.weight", "classifier.bias")
OLD = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
}  # TensorFlow's; transformers reads both
# constant buffers that older versions stored, and heads of pretraining and of reading: nothing of a ranker
HARMLESS = re.compile(r"(bert\.)?embeddings\.(position_ids|token_type_ids)|(cls|qa_outputs)\..+")
WRAPPERS = re.compile(r"^((?:module|model|auto_model|encoder|_orig_mod|0)\.)+(?=(bert\.)?embeddings\.)")
CONSTANT = ("bert.embeddings.token_type_embeddings.weight",)  # may be zero: some models tell no texts apart
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # of floats, and what numpy reads them as
NAMED = 3  # weights that an error names


@dataclass(frozen=True)
class Stored:
    """A weight in a file of safetensors: its type by that format's name, its shape, where its bytes begin."""

    kind: str
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> dict[str, Stored]:
    """Return what a file of safetensors holds by its names.

    Raises:
        ModelError: if it is damaged.
    """
    try:
        with safe_open(path, framework="np"):  # compares the header with the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return {
        name: Stored(str(entry["dtype"]), tuple(entry["shape"]), 8 + length + int(entry["data_offsets"][0]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def wanted_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a cross-encoder's weights: a BERT of this configuration, with one output."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    tables = {
        "word_embeddings": config["vocab_size"],
        "position_embeddings": config["max_position_embeddings"],
        "token_type_embeddings": config.get("type_vocab_size", 2),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"bert.embeddings.{name}.weight": (rows, width) for name, rows in tables.items()
    }
    linear = {"bert.pooler.dense": (width, width)}
    norms = ["bert.embeddings.LayerNorm"]
    for layer in (f"bert.encoder.layer.{number}" for number in range(config["num_hidden_layers"])):
        linear |= {f"{layer}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.intermediate.dense": (inner, width)}
        linear |= {f"{layer}.output.dense": (width, inner)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, (rows, columns) in (linear | {"classifier": (1, width)}).items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def read_names(names: Sequence[str]) -> dict[str, str]:
    """Return a checkpoint's names by those of a cross-encoder, as transformers reads them; harmless ones are left out.

    Args:
        names: in the file; an encoder's have no "bert." before them.
    """
    prefixed = any(name.startswith(PREFIX.rstrip(".")) for name in names)
    read: dict[str, str] = {}
    for name in names:
        if HARMLESS.fullmatch(name):
            continue
        other = name if prefixed else PREFIX + name
        for old, new in OLD.items():
            other = other.removesuffix(old) + new if other.endswith(old) else other
        read[name if other in read else other] = name
    return read


def lacks_pooler(names: Sequence[str]) -> bool:
    """Return whether a checkpoint has no pooler."""
    return not set(POOLER) & set(read_names(names))


def weights_problem(path: Path, config: Mapping[str, Any], *, head: bool) -> str | None:
    """Return what is wrong with a BERT's weights, if anything is.

    Args:
        path: of model.safetensors.
        config: of the BERT, its fields checked.
        head: whether it must have pooler and classifier; an encoder may lack the classifier, or both.

    Raises:
        ModelError: if the file is damaged.
    """
    stored = read_header(path)
    read = read_names([*stored])
    wanted = wanted_shapes(config)
    for group in () if head else (HEAD, POOLER):
        if set(group) & set(read):
            break
        wanted = {name: shape for name, shape in wanted.items() if name not in group}
    if told := names_problem([*wanted], read):
        return told
    for name, shape in wanted.items():
        found = stored[read[name]]
        if found.shape != shape:
            return f"{read[name]} is {[*found.shape]}, and config.json asks for {[*shape]}"
        if found.kind not in TYPES:
            return f"{read[name]} holds {found.kind}; allowed are {', '.join(TYPES)}: save it without quantization"
    return next(_bad_values(path, {name: stored[read[name]] for name in wanted}, read, head), None)


def names_problem(wanted: Sequence[str], read: Mapping[str, str]) -> str | None:
    """Return which weights a checkpoint lacks and which of it are unknown, if any are.

    Args:
        wanted: names of a cross-encoder's weights that must be there.
        read: names in the file by those that they are read as.
    """
    prefixed = any(name.startswith(PREFIX.rstrip(".")) for name in read.values())
    missing = [name if prefixed else name.removeprefix(PREFIX) for name in wanted if name not in read]
    unexpected = [read[name] for name in read if name not in set(wanted)]
    if not missing and not unexpected:
        return None
    parts = [f"{what}: {named(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
    wrapped = next((found[0] for found in map(WRAPPERS.match, unexpected) if found), None)
    hint = f'save it without "{wrapped}" before its names' if wrapped else "allowed are the weights of its config.json"
    return f"model.safetensors would be loaded in part; {'; '.join(parts)}; {hint}"


def named(names: Sequence[str]) -> str:
    """Return the first few names of a list, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _bad_values(path: Path, stored: Mapping[str, Stored], read: Mapping[str, str], head: bool) -> Iterator[str]:
    """Yield weights that are not finite, and matrices and scales that hold one value alone."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, entry in stored.items():
        values = _values(data, entry)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low) or not np.isfinite(high):
            yield f"{read[name]} holds values that are not finite; train or convert it anew"
        matrix = len(entry.shape) == 2 and name not in CONSTANT and (head or name not in HEAD)
        norm = name.endswith("LayerNorm.weight")
        if low == high and ((matrix and values.size > 1) or (norm and high == 0)):
            yield f"{read[name]} is {low:g} throughout; it was not loaded or not saved when the model was made"


def _values(data: npt.NDArray[np.uint8], entry: Stored) -> npt.NDArray[Any]:
    kind, count = np.dtype(TYPES[entry.kind]), int(np.prod(entry.shape))
    values = np.frombuffer(data, kind, count, entry.start)
    if entry.kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
