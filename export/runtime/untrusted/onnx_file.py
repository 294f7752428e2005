"""What an ONNX file reads besides itself, found from its bytes: neither onnx nor onnxruntime is asked."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from rankdistill.export.errors import BundleError

# Fields that lead to tensors, by message, as in onnx.proto: number -> message.
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
EXTERNAL_DATA, KEY, VALUE = 13, 1, 2
LOCATION = b"location"
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # protobuf's wire types
MOST_DEPTH = 64  # of messages inside messages
MOST_FIELDS = 4_000_000  # a 12-layer BERT has 20,000

Field = tuple[int, int, int]  # number, start, end of a field that holds bytes


def external_files(path: Path) -> list[str]:
    """Return the files that a graph keeps tensors in beside itself, sorted; "" for one that it does not name.

    Raises:
        BundleError: if the file cannot be read, or is no protobuf message of a graph's size.
    """
    try:
        if path.stat().st_size == 0:
            raise BundleError(f"{path}: empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return sorted(set(_Walk(content).locations(0, len(content), "Model", 0)))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{path}: no ONNX file ({error})") from error


class _Walk:
    """A way through a file's messages that counts its steps."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.left = MOST_FIELDS

    def locations(self, start: int, end: int, message: str, depth: int) -> Iterator[str]:
        """Yield the file of each tensor of a message that is kept elsewhere."""
        if depth > MOST_DEPTH:
            raise ValueError(f"messages nested deeper than {MOST_DEPTH}")
        inner = MESSAGES[message]
        named, elsewhere = False, False
        for number, first, last in self.fields(start, end):
            if message == "Tensor" and number == EXTERNAL_DATA:
                elsewhere = True
                entry = {n: self.content[f:t] for n, f, t in self.fields(first, last)}
                if entry.get(KEY) == LOCATION:
                    named = True
                    yield entry.get(VALUE, b"").decode("utf-8", "replace")
            elif number in inner:
                yield from self.locations(first, last, inner[number], depth + 1)
        if elsewhere and not named:
            yield ""

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of a message that hold bytes; the others are stepped over."""
        at = start
        while at < end:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"more than {MOST_FIELDS} fields")
            tag, at = _varint(self.content, at, end)
            kind = tag & 7
            if kind == LENGTH:
                length, at = _varint(self.content, at, end)
                if at + length > end:
                    raise ValueError("a field is longer than its message")
                yield tag >> 3, at, at + length
                at += length
            elif kind == VARINT:
                _, at = _varint(self.content, at, end)
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
