"""Files and folders that are whole or not there."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
HERE = -100  # AT_FDCWD of fcntl.h
ATTEMPTS = 100  # at a name that other processes replace too


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) that is never seen half-written; a failure leaves the old one as it was."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def publish_folder(work: Path, final: Path, *, replace: bool = False) -> None:
    """Make a finished folder appear whole or not at all: fsync what is in it, rename it, fsync its parent.

    Args:
        work: the finished folder, on the same file system; gone afterwards.
        final: its name from now on.
        replace: whether a folder of that name is replaced, in one step where the system can exchange two names.
    """
    for path in [*work.rglob("*"), work]:
        if path.is_file() or path.is_dir():
            _fsync(path)
    if replace:
        _replace(work, final)
    else:
        work.rename(final)
    _fsync(final.parent)


def _replace(work: Path, final: Path) -> None:
    old = work.with_name(f"{work.name}.old")
    for _ in range(ATTEMPTS):
        try:
            if not final.exists():
                work.rename(final)
                return
            if _exchange(work, final):
                shutil.rmtree(work)
                return
            final.rename(old)
        except OSError as error:  # another process was there between the look and the step
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            shutil.rmtree(old)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(final))


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return int(rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE)) == 0


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
