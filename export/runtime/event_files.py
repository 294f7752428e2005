"""Files of events that were read: what tells later that one came late, grew, shrank or is another one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rankdistill.export.errors import UserError

ENDS = 4096  # bytes at either end of what was read that are looked at again
DIGEST_LENGTH = 16  # hex digits

Mark = tuple[int, str]  # bytes (rows, of a data set) that were read, and a hash of their ends
Marks = Mapping[str, Mark]  # by the files' names


def mark(path: Path, size: int) -> Mark:
    """Return what the first `size` bytes of a file are known by."""
    with path.open("rb") as file:
        head = file.read(min(size, ENDS))
        file.seek(max(0, size - ENDS))
        tail = file.read(min(size, ENDS))
    return size, hashlib.sha256(head + tail).hexdigest()[:DIGEST_LENGTH]


def check(found: Iterable[Path], last: str, offset: int | None, marks: Marks) -> None:
    """Look whether the files that were read are still the same, and whether others came before where reading goes on.

    Args:
        found: the files that are there now.
        last: name of the file that reading goes on in.
        offset: bytes of it that were read; None if it does not grow either, as a table does not.
        marks: of the files that were there when they were read; those that are gone now may be.

    Raises:
        UserError: naming the file, what is wrong, and what to do: nothing of it would ever be read.
    """
    to_do = f"put what is new into a file whose name comes after {last}"
    for path in found:
        known = marks.get(path.name)
        if path.name > last or (known is None and path.name == last):
            continue
        if known is None:
            raise UserError(
                f"{path} came after {last} was read, and files are read in the order of their names: rename it to one "
                f"that comes after {last}, such as {Path(last).stem}_{path.name}"
            )
        size, read = path.stat().st_size, known[0]
        if size < read:
            raise UserError(
                f"{path} has {size} bytes, of which {read} were read: cut, rotated or written anew; {to_do}"
            )
        if mark(path, read) != known:
            raise UserError(f"{path} is another file than the one that was read: rotated or written anew; {to_do}")
        if size > read and (path.name < last or offset is None):
            raise UserError(f"{path} has {size} bytes, {read} when it was read: it grew since; {to_do}")


def kept(found: Iterable[Path], marks: Marks) -> dict[str, Mark]:
    """Return the marks of files that are still there, under their names or, compressed or rotated, with an ending."""
    names = [path.name for path in found]
    return {name: each for name, each in marks.items() if any(there.startswith(name) for there in names)}


def visible(folder: Path) -> list[Path]:
    """Return the files in a folder by name, without hidden ones, which are still being written or nobody's."""
    return sorted(each for each in folder.iterdir() if not each.name.startswith(".") and each.is_file())


def marks_from(values: object) -> Marks | None:
    """Return marks that JSON held; None for none.

    Raises:
        ValueError: if they are none.
    """
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ValueError("files is no object")  # noqa: TRY004 - of a file, not of a caller
    found = {}
    for name, pair in values.items():
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], str)):
            raise ValueError(f"files has {pair!r} for {os.fspath(name)}")
        found[name] = (pair[0], pair[1])
    return found
