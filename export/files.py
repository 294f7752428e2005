"""Files and folders that are whole or not there."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
HERE = -100  # AT_FDCWD of fcntl.h
ATTEMPTS = 100  # at a name that other processes replace too
LONG_NAME = 200  # bytes; file systems take 255
PART, OLD = ".part", ".old"  # ends of the names of what is being made, and of what it replaces


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written; a failure leaves the old one as it was.

    Args:
        path: of the file.
        content: text as UTF-8; what of a path in it is no UTF-8 is escaped as JSON does.
    """
    part = path.with_name(f".{_short(path.name)}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def relative_path(target: Path, start: Path) -> str:
    """Return a path from a folder that the system follows to a target: as they are named, unless links forbid it.

    `..` leads out of the folder that a link leads to, not out of the one that the link is in.
    """
    named = os.path.relpath(target, start)
    with suppress(OSError):
        if (start / named).samefile(target):
            return named
    return os.path.relpath(target.resolve(), start.resolve())


def _short(name: str) -> str:
    """Return a name, or if it is long a shorter one in its place, that leaves room for more letters."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= LONG_NAME else hashlib.sha256(encoded).hexdigest()


@contextmanager
def folder_beside(final: Path) -> Iterator[Path]:
    """Give an empty folder beside `final`, to be filled and published; what is left of it afterwards is deleted.

    Folders that killed processes left here for the same name are deleted too. A living one holds a lock on its own,
    which goes with the process, so that neither process numbers nor times have to be believed.
    """
    abandoned = re.compile(rf"\.{re.escape(_short(final.name))}\.\w{{8}}{re.escape(PART)}({re.escape(OLD)})?")
    for path in final.parent.iterdir():
        if abandoned.fullmatch(path.name):
            with suppress(OSError):  # another process's lock, or a file
                theirs = _lock(path)
                try:  # held to the end: unlocked, it could be taken by the one who is just making it
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(theirs)
    work, lock = _locked_folder(final)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(final: Path) -> tuple[Path, int | None]:
    """Make a folder that no other process takes for an abandoned one; no lock where the system has none."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{_short(final.name)}.", suffix=PART, dir=final.parent))
        try:
            work.chmod(0o755)
            lock = _lock(work)
        except (BlockingIOError, FileNotFoundError):  # taken for abandoned in the instant before the lock
            continue
        except OSError:
            return work, None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), work.stat()):
                return work, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder without waiting; closing the descriptor unlocks it.

    Raises:
        OSError: if another process has it, or the system cannot.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(folder))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


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
    old = work.with_name(work.name + OLD)
    try:
        for _ in range(ATTEMPTS):
            if _step(work, final, old):
                return
    finally:
        with suppress(OSError):
            if not final.exists():  # a failure between the two steps
                old.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(final))


def _step(work: Path, final: Path, old: Path) -> bool:
    """Try to put a folder in its place; False if another process was there between the look and the step."""
    try:
        if final.exists():
            if _exchange(work, final):
                shutil.rmtree(work, ignore_errors=True)
                return True
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        work.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


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
