"""Reading text files whose every error names the file and the line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.errors import DataError


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield a text file's lines that are not blank, with their numbers from 1.

    Raises:
        DataError: if the file is missing or not in this encoding.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with path.open("rb") as file:
        for number_, raw in enumerate(file, start=1):
            try:
                line = raw.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number_}: not {encoding} text ({error.reason}); convert the file") from error
            if line.strip():
                yield number_, line


def number(text: str, line: str, column: str) -> float:
    """Parse a finite number.

    Raises:
        DataError: naming the line and the column.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{line}: {column} {text!r} is no number")
    return value


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object) of a JSON Lines file.

    Raises:
        DataError: if the file is missing, not UTF-8, or a line is no JSON object with a text `_id`.
    """
    for number, line in lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: broken JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a {type(row).__name__}; an object with _id and text is needed")
        if not isinstance(row.get("_id"), str) or not row["_id"]:
            raise DataError(f"{where}: _id {row.get('_id')!r} is no text")
        yield where, row


def text_of(row: dict[str, Any], key: str, where: str) -> str:
    """Return a text of an object, stripped; empty when the key is missing.

    Raises:
        DataError: if the value is no text.
    """
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} {value!r} is no text")
    return value.strip()
