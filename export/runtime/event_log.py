"""An append-only log of events: JSON Lines in segments, one order over all its writers, whole after a kill -9."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.event_files import Marks, check, kept, mark, marks_from, visible

if sys.platform != "win32":
    import fcntl

ENDING = ".jsonl"
LOCK = ".lock"
NAME = re.compile(r"[0-9]{20}")  # of a segment: the nanosecond it was begun, so that no name comes again
SEGMENT_BYTES = 64 << 20
LONGEST = 1 << 20  # bytes of a line; a longer one is no event, and is read as its beginning


@dataclass(frozen=True, order=True)
class Cursor:
    """A place in a log: what stands before it has been read. Later places are greater.

    Attributes:
        segment: name of a segment, without a folder.
        offset: bytes of it (rows, where a segment is a table) that have been read.
        files: what the files before it, and what was read of its own, are known by; None if that is not known. It is
            no part of the place.
    """

    segment: str
    offset: int
    files: Marks | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        files = {} if self.files is None else {"files": {name: list(each) for name, each in self.files.items()}}
        return self.place() | files

    def place(self) -> dict[str, Any]:
        """Return the place alone as JSON can hold it."""
        return {"segment": self.segment, "offset": self.offset}

    @classmethod
    def from_dict(cls, values: Any) -> Cursor:
        """Return the cursor that `as_dict` gave.

        Raises:
            UserError: if it is none.
        """
        segment, offset = (values.get("segment"), values.get("offset")) if isinstance(values, dict) else (None, None)
        if not isinstance(segment, str) or type(offset) is not int or offset < 0:
            raise UserError(f"{values!r} is no cursor of an event log; one has a segment's name and an offset >= 0")
        try:
            return cls(segment, offset, marks_from(values.get("files")))
        except ValueError as error:
            raise UserError(
                f"the cursor of an event log after byte {offset} of {segment} is damaged: {error}"
            ) from error


class EventLog:
    """Appends events to a folder, for any number of writers in any number of processes.

    A writer holds a lock while it appends, so that events stand in one order and a reader needs but one cursor.
    Nothing is ever cut off: what a killed writer left of a line is closed off, to be read as one broken line.

    Args:
        folder: of the log, made if need be; it holds nothing else.
        segment_bytes: size from which the next events go to a new segment.

    Raises:
        UserError: if other files' names could hide the log's own from a reader, or the system has no file locks.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        if sys.platform == "win32":
            raise UserError(f"{folder}: an event log is written under file locks, which this system lacks")
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [path.name for path in segments(folder) if not NAME.fullmatch(path.stem)]
        if foreign:
            raise UserError(f"{folder}: {foreign[0]} is no segment of an event log; append to a folder of its own")
        self.folder, self.segment_bytes = folder, segment_bytes

    def append(self, events: Iterable[Mapping[str, Any]]) -> Cursor:
        """Append events, all or, where the disk fails, perhaps the first of them, and have them on disk on return.

        Args:
            events: objects that JSON can hold; `rankdistill.online.events.event` tells what a reader asks of one.

        Returns:
            The cursor after them.

        Raises:
            UserError: if one is no JSON object, has NaN or an infinity in it, or more than `LONGEST` bytes; then none
                is written.
            OSError: if they cannot be written; they may be there or not, so append them again: ids tell them apart.
        """
        lines = b"".join(_line(number, event) for number, event in enumerate(events, start=1))
        with self._locked():
            path = self._segment()
            with path.open("ab", buffering=0) as file:
                _write(file, lines)
                os.fsync(file.fileno())
                return Cursor(path.name, file.tell())

    def _segment(self) -> Path:
        """Return the segment to append to, its last line closed; only under the lock."""
        newest = max(segments(self.folder), default=None)
        if newest is not None:
            with newest.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size and not _ends_line(file, size):
                    _write(file, b"\n")
                    os.fsync(file.fileno())
                    size += 1
            if size < self.segment_bytes:
                return newest
        number = max(time.time_ns(), 0 if newest is None else int(newest.stem) + 1)
        path = self.folder / f"{number:020d}{ENDING}"
        path.touch(exist_ok=False)
        _fsync_folder(self.folder)
        return path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if sys.platform == "win32":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(self.folder))
        with (self.folder / LOCK).open("ab") as file:  # opened anew each time: threads exclude each other too
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def segments(path: Path) -> list[Path]:
    """Return the segments of a folder in the order of their names, which is that of reading; a file is its own."""
    if path.is_file():
        return [path]
    return [each for each in visible(path) if each.suffix == ENDING]


def read_lines(path: Path, after: Cursor | None = None) -> Iterator[tuple[Cursor, bytes]]:
    """Yield each complete line, without its end, and the cursor after it; a log may be written meanwhile.

    What stands after the last segment's last line end is not complete: somebody may still be writing it. Segments
    that were read to their ends may be deleted, the oldest first.

    Args:
        path: folder of a log, or one JSON Lines file. Files that others put into a folder must have rising names.
        after: where to go on; None reads from the beginning.

    Raises:
        UserError: if there is no such folder or file, the cursor is none of this log's, or a file before it came late
            or is not what was read.
    """
    if not path.exists():
        raise UserError(f"{path}: no such event log; give its folder, or a file")
    found = segments(path)
    if path.is_file() and after is not None and after.segment != path.name:
        raise UserError(f"{path}: the cursor is of another file, {after.segment}")
    files = files_before(path, found, after, growing=True)
    for number, segment in enumerate(found):
        if after is not None and segment.name < after.segment:
            continue
        start = offset = after.offset if after is not None and after.segment == segment.name else 0
        with segment.open("rb") as file:
            _seek(file, segment, start)
            for offset, line, complete in _lines(file, start):
                if complete or number + 1 < len(found):  # a log goes on in a new segment once the one before is whole
                    yield Cursor(segment.name, offset, files), line
        files = {**files, segment.name: mark(segment, offset)}


def files_before(path: Path, found: Iterable[Path], after: Cursor | None, *, growing: bool) -> Marks:
    """Return what the files before a cursor are known by, once they are found to be what was read.

    Args:
        path: folder, or the one file.
        found: its files.
        after: the cursor; None at the beginning.
        growing: whether the cursor's own file may have grown.

    Raises:
        UserError: if one came late, or is not what was read.
    """
    if after is None:
        return {}
    if after.files is not None:
        check(found, after.segment, after.offset if growing else None, after.files)
        return kept(found if path.is_file() else visible(path), after.files)
    return {each.name: mark(each, each.stat().st_size) for each in found if each.name < after.segment}


def marked(path: Path, found: Iterable[Path], cursor: Cursor | None, *, growing: bool) -> Cursor | None:
    """Return a cursor that knows what was read of its own file too.

    Args:
        path: folder, or the one file.
        found: its files.
        cursor: that reading ended with.
        growing: whether its file may grow, so that what is behind the cursor is to come.
    """
    file = path if cursor is None or path.is_file() else path / cursor.segment
    if cursor is None or not file.is_file():  # it was read and deleted
        return cursor
    size = cursor.offset if growing else file.stat().st_size
    before = files_before(path, found, cursor, growing=growing) if cursor.files is None else cursor.files
    return replace(cursor, files={**before, cursor.segment: mark(file, size)})


def unread_bytes(path: Path, after: Cursor | None) -> int:
    """Return the bytes after a cursor: of lines to come, or of a last one that has no end."""
    left = [each for each in segments(path) if after is None or each.name >= after.segment]
    size = sum(each.stat().st_size for each in left)
    return size - (after.offset if after is not None and left and left[0].name == after.segment else 0)


def _lines(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (offset after it, line, whether it has an end); no more than `LONGEST` bytes of a line are in memory."""
    while head := file.readline(LONGEST):
        offset += len(head)
        part = head
        while not part.endswith(b"\n") and (part := file.readline(LONGEST)):
            offset += len(part)
        yield offset, head.rstrip(b"\r\n"), part.endswith(b"\n")


def _seek(file: BinaryIO, segment: Path, offset: int) -> None:
    size = file.seek(0, os.SEEK_END)
    if offset > size or (0 < offset < size and not _ends_line(file, offset)):
        raise UserError(f"{segment}: the cursor is none of this log's: no line ends at byte {offset} of {size}")
    file.seek(offset)


def _ends_line(file: BinaryIO, offset: int) -> bool:
    file.seek(offset - 1)
    return file.read(1) == b"\n"


def _line(number: int, event: Mapping[str, Any]) -> bytes:
    try:
        line = json.dumps(dict(event), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # half a surrogate pair is a ValueError too
        raise UserError(f"event {number} cannot be written as JSON: {error}") from None
    if len(line) > LONGEST:
        raise UserError(f"event {number} has {len(line)} bytes; at most {LONGEST}")
    return line


def _write(file: Any, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
