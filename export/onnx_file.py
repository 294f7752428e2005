"""What an ONNX file reads besides itself, found from its bytes: neither onnx nor onnxruntime is asked."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from export.errors import BundleError

# Fields that lead to tensors, by message, as in onnx.proto: number -> message.
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
EXTERNAL_DATA, KEY, VALUE = 13, 1, 2
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # protobuf's wire types
MOST_DEPTH = 64  # of messages inside messages

Field = tuple[int, int, int]  # number, start, end of a field that holds bytes


def external_files(path: Path) -> list[str]:
    """Return the files that a graph keeps tensors in beside itself, sorted.

    Raises:
        BundleError: if the file is no protobuf message.
    """
    if path.stat().st_size == 0:
        raise BundleError(f"{path}: empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return sorted(set(_locations(content, 0, len(content), "Model", 0)))
        except (IndexError, ValueError) as error:
            raise BundleError(f"{path}: no ONNX file ({error})") from error


def _locations(content: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > MOST_DEPTH:
        raise ValueError(f"messages nested deeper than {MOST_DEPTH}")
    inner = MESSAGES[message]
    for number, first, last in _fields(content, start, end):
        if message == "Tensor" and number == EXTERNAL_DATA:
            entry = {n: content[f:t] for n, f, t in _fields(content, first, last)}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"").decode("utf-8", "replace")
        elif number in inner:
            yield from _locations(content, first, last, inner[number], depth + 1)


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message that hold bytes; the others are stepped over."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        kind = tag & 7
        if kind == LENGTH:
            length, at = _varint(content, at, end)
            if at + length > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, at, at + length
            at += length
        elif kind == VARINT:
            _, at = _varint(content, at, end)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind}")
    if at != end:
        raise ValueError("a field is longer than its message")


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
