"""Folders in use: held by a shared lock that goes with the process, so that nobody removes them meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_held: dict[tuple[int, int], int] = {}  # descriptors by (device, number) of their folders, open to the end


def use(folder: Path) -> bool:
    """Keep a folder from being removed while this process lives; False if somebody is removing it."""
    if sys.platform == "win32":
        return folder.is_dir()
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError:  # a file system that has no such thing
        return True
    stat = os.fstat(descriptor)
    place = stat.st_dev, stat.st_ino
    kept = False
    try:
        if place in _held:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        kept = os.path.samestat(stat, folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # a file system without locks
        return True
    finally:
        if kept:
            _held[place] = descriptor
        else:
            os.close(descriptor)
    return kept


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Tell whether nobody uses a folder; nobody begins to until the end of the block."""
    if sys.platform == "win32":
        yield True
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield folder.exists()
        return
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            pass
        yield free
    finally:
        os.close(descriptor)
