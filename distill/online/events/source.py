"""Where events come from: a log of JSON Lines, Parquet segments, or a data set that `datasets` loads."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from rankdistill.errors import DataError
from rankdistill.export.runtime.event_files import DIGEST_LENGTH, Mark, mark, visible
from rankdistill.export.runtime.event_log import ENDING, Cursor, files_before, read_lines, segments, unread_bytes
from rankdistill.export.runtime.event_log import marked as marked_file

log = logging.getLogger(__name__)

PARQUET = ".parquet"
SAVED = ("dataset_info.json", "dataset_dict.json")  # of `Dataset.save_to_disk` and `DatasetDict.save_to_disk`
UNREAD = re.compile(
    r"(.*?\.(?:jsonl|ndjson|parquet))(?:$|[^0-9a-z].*)", re.IGNORECASE
)  # names of events in other forms
ROWS = 256  # of a table that are Python objects at once

Row = bytes | Mapping[str, Any]  # a line of JSON, or a table's row


def read_rows(source: str | Path, after: Cursor | None, split: str) -> Iterator[tuple[Cursor, Row]]:
    """Yield events as they stand in a source, each with the cursor after it.

    Args:
        source: a .jsonl file or a folder of them (a log); a .parquet file or a folder of them, which appear whole,
            under rising names; a folder that `datasets` saved or can load; or a data set's name on the hub.
        after: where to go on; None reads from the beginning.
        split: of a data set that `datasets` loads; rows are added at its end.

    Raises:
        DataError: if there is nothing such, or a table cannot be read.
        UserError: if the cursor is none of this source's.
    """
    path = Path(source)
    if is_log(path):
        _warn_of_names(path, segments(path), after)
        yield from read_lines(path, after)
    elif tables := _tables(path):
        _warn_of_names(path, tables, after)
        yield from _parquet_rows(path, tables, after)
    else:
        yield from _set_rows(str(source), path, after, split)


def marked(source: str | Path, cursor: Cursor | None) -> Cursor | None:
    """Return the cursor that a reading ended with, which knows what was read of its own file too."""
    path = Path(source)
    growing = is_log(path)
    found = segments(path) if growing else _tables(path)
    return marked_file(path, found, cursor, growing=growing) if found else cursor


def _warn_of_names(path: Path, found: list[Path], after: Cursor | None) -> None:
    """Warn of files that are read in another order than their numbers have, and of those that are not read."""
    if path.is_file():
        return
    for one, other in itertools.pairwise(found):
        if (after is None or one.name > after.segment) and _numbers_fall(one.name, other.name):
            log.warning(
                "%s: %s is read before %s, in the order of their names; give numbers leading zeros",
                path, one.name, other.name,
            )  # fmt: skip
            break
    known = set() if after is None or after.files is None else set(after.files)
    for each in visible(path):
        other_form = UNREAD.fullmatch(each.name)
        if each not in found and other_form and other_form[1] not in known:
            log.warning("%s is not read: files of events end in %s or %s", each, ENDING, PARQUET)


def _numbers_fall(one: str, other: str) -> bool:
    """Return whether the first part in which two names differ is a number that is lower in the second."""
    for left, right in zip(re.split(r"[^0-9A-Za-z]+", one), re.split(r"[^0-9A-Za-z]+", other), strict=False):
        if left != right:
            return left.isdecimal() and right.isdecimal() and int(left) > int(right)
    return False


def is_log(path: Path) -> bool:
    """Return whether this is a log of JSON Lines: a file of them, or a folder with some or with nothing in it yet.

    Raises:
        DataError: if a folder has both JSON Lines and Parquet files.
    """
    if path.is_file():
        return path.suffix == ENDING
    if not path.is_dir():
        return False
    visible = [each for each in path.iterdir() if not each.name.startswith(".")]
    lines = any(each.suffix == ENDING for each in visible)
    if lines and _tables(path):
        raise DataError(f"{path} has both {ENDING} and {PARQUET} files; events need one order, give them one form")
    return lines or not visible


def unread(source: str | Path, after: Cursor | None) -> int:
    """Return the bytes of a log after a cursor; 0 for tables, whose every row is complete."""
    return unread_bytes(Path(source), after) if is_log(Path(source)) else 0


def identity(source: str | Path) -> tuple[object, ...] | None:
    """Return what is otherwise when anything in a file or folder has changed; None for what is neither."""
    path = Path(source)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if not each.name.startswith("."))
    found = ((each.name, each.stat()) for each in files)  # a copy may keep size and mtime, but not ctime
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == PARQUET else []
    return [each for each in visible(path) if each.suffix == PARQUET] if path.is_dir() else []


def _parquet_rows(source: Path, tables: list[Path], after: Cursor | None) -> Iterator[tuple[Cursor, Row]]:
    files = files_before(source, tables, after, growing=False)
    for path in tables:
        if after is not None and path.name < after.segment:
            continue
        start = after.offset if after is not None and after.segment == path.name else 0
        try:
            with parquet.ParquetFile(path) as file:
                _check_rows(path, start, file.metadata.num_rows)
                for row, values in _rows_of(file, start):
                    yield Cursor(path.name, row, files), values
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path} is no whole Parquet file ({reason}); write it beside and rename it") from error
        files = {**files, path.name: mark(path, path.stat().st_size)}


def _rows_of(file: parquet.ParquetFile, start: int) -> Iterator[tuple[int, Row]]:
    """Yield the rows after `start`, each with its number from 1."""
    row = 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if row + size <= start:
            row += size
            continue
        for batch in file.iter_batches(ROWS, row_groups=[group]):
            for values in batch.to_pylist():
                row += 1
                if row > start:
                    yield row, values


def _set_rows(source: str, path: Path, after: Cursor | None, split: str) -> Iterator[tuple[Cursor, Row]]:
    if path.is_file():
        raise DataError(f"{source}: a file of events ends in {ENDING} or {PARQUET}")
    # of a local folder `datasets` would take what it read before where a file's time is the same: it reads anew
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as fresh:
        table = _load(source, path, split, fresh if path.exists() else None)
        if after is not None and after.segment != split:
            raise DataError(f"{source}: the cursor is of {after.segment}, not of its split {split!r}")
        start = after.offset if after is not None else 0
        _check_rows(f"{source}[{split}]", start, len(table))
        _check_last(f"{source}[{split}]", table, start, after, split)
        for row in range(start, len(table)):
            values = _row(source, split, table, row)
            yield Cursor(split, row + 1, {split: _row_mark(row + 1, values)}), values


def _row(source: str, split: str, table: Any, row: int) -> Mapping[str, Any]:
    try:
        values: Mapping[str, Any] = table[row]
    except UnicodeDecodeError as error:  # `datasets` reads JSON of any bytes, and decodes when it is asked
        raise DataError(f"{source}[{split}] row {row}: not utf-8 text ({error.reason})") from error
    return values


def _check_last(where: str, table: Any, start: int, after: Cursor | None, split: str) -> None:
    """Check that the last row that was read is still the same one."""
    known = None if after is None or after.files is None else after.files.get(split)
    if start and known is not None and _row_mark(start, table[start - 1]) != known:
        raise DataError(
            f"{where}: row {start} is not the one that was read: rows came before it, or were changed; add "
            "rows at the end, in files whose names come after those that were read"
        )


def _row_mark(row: int, values: Mapping[str, Any]) -> Mark:
    text = json.dumps(values, sort_keys=True, default=lambda value: type(value).__name__)
    return row, hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _load(source: str, path: Path, split: str, cache: str | None) -> Any:
    import datasets

    if not path.exists() and (path.is_absolute() or source.count("/") != 1 or source.startswith((".", "~"))):
        raise DataError(f"{source}: nothing is there; give a log of events: {ENDING} or {PARQUET}, a file or folder")
    try:
        if any((path / name).is_file() for name in SAVED):
            saved = datasets.load_from_disk(source)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        load: Callable[..., Any] = datasets.load_dataset
        return load(source, split=split, cache_dir=cache)
    except Exception as error:  # datasets raises its own, OS, value and network errors
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise DataError(
            f"{source}: its split {split!r} cannot be loaded ({reason}); give a folder with {ENDING} or {PARQUET} "
            "files, or a data set that datasets can load"
        ) from error


def _check_rows(where: Path | str, start: int, rows: int) -> None:
    if start > rows:
        raise DataError(f"{where} has {rows} rows; the cursor is after row {start}, so it is of another source")
