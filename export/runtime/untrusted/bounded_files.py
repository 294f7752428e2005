"""Reading files that may come from anywhere: bounded in size and depth, refused with the file's name."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankdistill.export.errors import BundleError

MOST_BYTES = 64 << 20  # of a JSON file; a tokenizer.json of a large vocabulary has 20 MB
MOST_DEPTH = 64
MOST_MARKS = 8_000_000  # a vocabulary of 250,000 has 2 million; Python needs up to 70 bytes for the value of each
MOST_DIGITS = 18  # of a whole number: it fits into 64 bits
STRUCTURE = ',[{"\\'  # characters that begin a value, or that a reader has to stop at
MARKS = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be half of a surrogate pair


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a JSON file.

    Raises:
        BundleError: if it is missing, larger than `most_bytes`, or what `parse_json` refuses.
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
    """Return what a JSON text says, if every reader of JSON would understand the same.

    Refused are NaN, Infinity, numbers beyond 64 bits, a name that stands twice in an object and half a surrogate pair.

    Raises:
        BundleError: naming `name`, if it is no UTF-8, no such JSON, nested deeper than `MOST_DEPTH`, or has more than
            `MOST_MARKS` values.
    """
    try:
        text = content.decode("utf-8")
        if sum(text.count(mark) for mark in STRUCTURE) > MOST_MARKS:
            raise BundleError(f"{name}: more than {MOST_MARKS} values; refused")
        if nests_deeper(text, MOST_DEPTH):
            raise BundleError(f"{name}: nested deeper than {MOST_DEPTH} levels; refused")
        value = json.loads(
            text, parse_constant=_refuse, parse_float=_float, parse_int=_whole, object_pairs_hook=_object
        )
        if HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BundleError(f"{name}: no JSON text: half a surrogate pair") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: no JSON: {error}") from error
    return value


def nests_deeper(text: str, most: int) -> bool:
    """Return whether brackets outside strings nest deeper than `most`, in one pass and constant memory."""
    depth, quoted = 0, False
    for mark in MARKS.finditer(text):
        character = mark.group()
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "[{":
            depth += 1
            if depth > most:
                return True
        elif not quoted and character in "]}":
            depth -= 1
    return False


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON value")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.40} is too large a number")
    return value


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"{digits:.40} is too large a number")
    return int(digits)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r:.40} stands twice in an object")
    return made


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
