"""Reading files that may come from anywhere: bounded in size and depth, refused with the file's name."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from export.errors import BundleError

MOST_BYTES = 64 << 20  # of a JSON file; a tokenizer.json of a large vocabulary has 20 MB
MOST_DEPTH = 64
STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
BRACKETS = re.compile(r"[\[\]{}]")


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a JSON file.

    Raises:
        BundleError: if it is missing, larger than `most_bytes`, nested deeper than `MOST_DEPTH`, or no JSON.
    """
    return parse_json(read_bytes(path, most_bytes), str(path))


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a file of at most `most_bytes`.

    Raises:
        BundleError: if it is missing, no file or larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    if len(content) > most_bytes:
        raise BundleError(f"{path}: larger than {most_bytes} bytes; refused unread")
    return content


def parse_json(content: bytes, name: str) -> Any:
    """Return what a JSON text says; NaN and Infinity, which JSON does not have, are refused.

    Raises:
        BundleError: naming `name`, if it is no UTF-8, no JSON, or nested deeper than `MOST_DEPTH`.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON value")

    try:
        text = content.decode("utf-8")
        if _depth(text) > MOST_DEPTH:
            raise BundleError(f"{name}: nested deeper than {MOST_DEPTH} levels; refused")
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: no JSON: {error}") from error


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets outside strings."""
    depth = deepest = 0
    for bracket in BRACKETS.findall(STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
