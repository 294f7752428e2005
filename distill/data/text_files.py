"""Reading text files whose every error names the file and the line."""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankdistill.errors import DataError

MARK = codecs.BOM_UTF8
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32 LE begins as UTF-16 LE does
QUOTES = "\"'`\u201c\u201d"


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield a text file's lines that are not blank, with their numbers from 1.

    A mark of byte order is no text: it is left out, also where files with one were joined.

    Raises:
        DataError: if the file is missing, not in this encoding, or its lines end in a carriage return alone.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with path.open("rb") as file:
        for number_, bytes_ in enumerate(file, start=1):
            raw = bytes_.removeprefix(MARK)
            if b"\0" in raw or (number_ == 1 and raw.startswith(WIDE)):
                raise DataError(
                    f"{path}:{number_}: not {encoding} text but UTF-16 or binary; convert the file to UTF-8"
                )
            try:
                line = raw.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number_}: not {encoding} text ({error.reason}); convert the file") from error
            if "\r" in line:
                raise DataError(
                    f"{path}:{number_}: a carriage return inside the line; lines end in LF or CR LF: convert the file"
                )
            if line.strip():
                yield number_, line


def expanded(path: str, option: str) -> Path:
    """Return a path that a user gave, with his home for a `~`.

    Raises:
        DataError: naming the option, if there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{option}={path}: {error} give the whole path") from error


def cache_folder() -> Path:
    """Return where downloads are kept: $RANKDISTILL_CACHE, or rankdistill in the user's cache.

    Raises:
        DataError: if that is not told and the user has no home.
    """
    own, base = os.environ.get("RANKDISTILL_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(own or f"{base}/rankdistill", "RANKDISTILL_CACHE")


def is_number(text: str) -> bool:
    """Return whether a cell holds a number, finite or not: what does not is a name or a word."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(text: str, line: str, column: str) -> float:
    """Parse a finite number.

    Raises:
        DataError: naming the line and the column.
    """
    value = float(text) if is_number(text) else math.nan
    if not math.isfinite(value):
        raise DataError(f"{line}: {column} {text!r} is no number")
    return value


def column_name(cell: str) -> str:
    """Return a header's cell as names are compared: without quotes, spaces around, case and a type (`name:token`)."""
    return cell.strip().strip(QUOTES).strip().partition(":")[0].casefold().replace("_", "-").replace(" ", "-")


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
        if "_id" not in row:
            raise DataError(f"{where}: _id None is no text; the object has {', '.join(map(repr, row)) or 'nothing'}")
        if not isinstance(row["_id"], str) or not row["_id"].strip():
            raise DataError(f"{where}: _id {row['_id']!r} is no text")
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
