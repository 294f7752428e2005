"""Texts out of files, a few at a time: plain lines, JSON Lines, CSV, Parquet, Arrow."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rankdistill.export.errors import UserError

PLAIN, JSON = (".txt",), (".jsonl", ".ndjson")
SUFFIXES = (*PLAIN, *JSON, ".csv", ".tsv", ".parquet", ".arrow", ".feather")
LINE = "text"  # the one column of a file of plain lines
ROWS = 1024  # of Parquet read at a time
BLOCK = 1 << 20  # bytes read at a time while lines are counted

Row = tuple[str, str]  # id, text


def read_rows(path: Path, text_fields: Sequence[str], id_field: str | None) -> Iterator[Row]:
    """Yield each row's id and text.

    Args:
        path: file, whose suffix (`SUFFIXES`) says what it is.
        text_fields: columns whose texts are joined by a space, as a data set's title and text are; empty ones left
            out. A file of plain lines has one, `text`; each line is one, empty ones too.
        id_field: column of the id; None for the row's number, from 0.

    Raises:
        UserError: if the file cannot be read, is something else, or a row lacks a field.
    """
    try:
        for number, (where, row) in enumerate(_rows(path)):
            parts = [_text(row, field, f"{path}:{where}") for field in text_fields]
            key = str(number) if id_field is None else _id(row, id_field, f"{path}:{where}")
            yield key, " ".join(part for part in parts if part)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); convert it") from error


def count_rows(path: Path) -> int | None:
    """Return about how many rows a file has (empty lines counted), None where only parsing all of it would tell."""
    if not path.is_file():
        return None
    if path.suffix in (*PLAIN, *JSON):
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))
    if path.suffix != ".parquet":
        return None
    from rankdistill.export.extras import require

    require("parquet", "pyarrow")
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no Parquet file: {error}") from error


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each row with the number, from 1, that an error names it by: of its line, or of itself."""
    if path.suffix in PLAIN:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # a lone carriage return ends no line
            for number, line in enumerate(file, 1):
                yield number, {LINE: line.rstrip("\r\n")}
    elif path.suffix in JSON:
        yield from _json_lines(path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".tsv":  # whose quotes are ordinary characters
                reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                reader = csv.DictReader(file, strict=True)
            try:
                for row in reader:
                    yield reader.line_num, row
            except csv.Error as error:
                raise UserError(f"{path}:{reader.line_num}: {error}") from error
    elif path.suffix in SUFFIXES:
        yield from _columns(path)
    else:
        raise UserError(f"{path}: read are {', '.join(SUFFIXES)}")


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: no JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: no JSON object")
            yield number, row


def _columns(path: Path) -> Iterator[tuple[int, Any]]:
    from rankdistill.export.extras import require

    require("parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        if path.suffix == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(ROWS)
        else:
            source = pa.memory_map(str(path))
            try:
                opened = pa.ipc.open_file(source)
                batches = (opened.get_batch(place) for place in range(opened.num_record_batches))
            except pa.ArrowInvalid:
                batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} is no {path.suffix} file: {error}") from error


def _text(row: Any, field: str, where: str) -> str:
    if field not in row:
        raise UserError(f"{where}: no field {field!r}; there are {', '.join(map(str, row))}; choose with --text-field")
    if not isinstance(row[field], str):
        raise UserError(f"{where}: {field} is {row[field]!r:.40}, no text")
    return str(row[field])


def _id(row: Any, field: str, where: str) -> str:
    if field not in row:
        raise UserError(f"{where}: no field {field!r}; there are {', '.join(map(str, row))}; choose with --id-field")
    if not isinstance(row[field], str | int) or isinstance(row[field], bool):
        raise UserError(f"{where}: {field} is {row[field]!r:.40}, neither text nor whole number")
    key = str(row[field])
    if any("\ud800" <= letter <= "\udfff" for letter in key):
        raise UserError(f"{where}: {field} is {key!r:.40}, with half a surrogate pair, which no file can hold")
    return key
