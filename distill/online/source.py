"""Where events come from: a log of JSON Lines, Parquet segments, or a data set that `datasets` loads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from distill.errors import DataError
from export.runtime.event_log import ENDING, Cursor, read_lines, unread_bytes

PARQUET = ".parquet"
SAVED = ("dataset_info.json", "dataset_dict.json")  # of `Dataset.save_to_disk` and `DatasetDict.save_to_disk`
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
        yield from read_lines(path, after)
    elif _tables(path):
        yield from _parquet_rows(_tables(path), after)
    else:
        yield from _set_rows(str(source), path, after, split)


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
    return sorted(path.glob(f"*{PARQUET}")) if path.is_dir() else []


def _parquet_rows(tables: list[Path], after: Cursor | None) -> Iterator[tuple[Cursor, Row]]:
    for path in tables:
        if after is not None and path.name < after.segment:
            continue
        start = after.offset if after is not None and after.segment == path.name else 0
        try:
            with parquet.ParquetFile(path) as file:
                _check_rows(path, start, file.metadata.num_rows)
                yield from _rows_of(file, path.name, start)
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path} is no whole Parquet file ({reason}); write it beside and rename it") from error


def _rows_of(file: parquet.ParquetFile, name: str, start: int) -> Iterator[tuple[Cursor, Row]]:
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
                    yield Cursor(name, row), values


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
        for row in range(start, len(table)):
            try:
                values = table[row]
            except UnicodeDecodeError as error:  # `datasets` reads JSON of any bytes, and decodes when it is asked
                raise DataError(f"{source}[{split}] row {row}: not utf-8 text ({error.reason})") from error
            yield Cursor(split, row + 1), values


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
