"""A disk that is full or cannot be written: what libraries raise then, each in its own words, told in one line."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rankdistill.export.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# Rust's, Arrow's and SQLite's words for the same, where no number comes with them
WORDS = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full|\b(?:os error|errno) (?:28|122)\b",
    re.IGNORECASE,
)
# of writers that only say that something was not written: torch, NumPy, C++ streams
HALF_WRITTEN = re.compile(
    r"inline_container|PytorchStreamWriter|\d+ requested and \d+ written|failed to write", re.IGNORECASE
)
LEAST_ROOM = 1 << 16  # bytes; a disk that has not even these is full


def write_problem(error: BaseException, folders: Iterable[Path]) -> str | None:
    """Return in one line that something could not be written, None if an error tells of something else.

    Args:
        error: any, with those that led to it.
        folders: where it may have been written to, there or not.
    """
    places = list(dict.fromkeys(map(_there, [*folders, Path(tempfile.gettempdir())])))
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else None
        if number == errno.EFBIG:
            return f"{_named(each, places)}: a file is larger than is allowed here (ulimit -f, or the file system)"
        if number in FULL or WORDS.search(str(each)):
            return f"no space left on {_named(each, places)}; make room and give the same command again"
        told_of = each is error or each is error.__cause__  # not of what was merely tried before
        if number in CLOSED and told_of and isinstance(each, OSError) and each.filename is not None:
            return f"{os.fsdecode(each.filename)}: {each.strerror}; give another folder, or the right to write there"
    if isinstance(error, UserError):
        return None
    told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    for place in places:
        if not _has_room(place):
            return f"no space left on {place}; make room and give the same command again ({told})"
    if HALF_WRITTEN.search(str(error)):
        return f"what was written to {places[0]} was cut off, as on a full disk or by a quota ({told})"
    return None


def paths_among(words: Sequence[str]) -> list[Path]:
    """Return what of a command line may be a path: each word, or what is behind its `=`."""
    values = [word.partition("=")[2] or word for word in words]
    return [Path(value.strip("'\"")).expanduser() for value in values if not value.startswith(("-", "~"))] or [Path()]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _named(error: BaseException, places: Sequence[Path]) -> str:
    """Return the path that an error names, else the place with the least room."""
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes) else str(min(places, key=_free))


def _there(folder: Path) -> Path:
    """Return a folder, or the first above it that is there."""
    here = folder.absolute()
    with suppress(OSError, ValueError):
        return next(each for each in (here, *here.parents) if each.is_dir())
    return Path()


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 1 << 62


def _has_room(folder: Path) -> bool:
    """Try to write a little: quotas are not seen in what is free."""
    if _free(folder) < LEAST_ROOM:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(LEAST_ROOM))
    except OSError as error:
        return error.errno not in FULL
    return True
