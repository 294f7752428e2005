"""One machine, shared by those who work (train, score, export) and those who measure time, who must be alone.

Whoever works holds the work lock together with all others who work. Whoever measures takes the turn, which keeps
others from beginning, and waits until every worker has given way at its next step; then it is alone. The locks are the
kernel's (flock), so they go with a killed process. Where there are none (Windows), everybody just goes on.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

ASK_EVERY = 0.1  # seconds between looks at whether somebody wants to measure
PATIENCE = 1.0  # seconds of waiting that are not worth a line
LOCKS = Path("/proc/locks")
TELL_EVERY = 60.0  # seconds of waiting for the same processes


class _Lock:
    """A lock file of the machine that many may share or one have alone."""

    def __init__(self, name: str) -> None:
        self._file: int | None = None
        try:
            self._file = _open(Path(tempfile.gettempdir()) / f"rankdistill-{name}.lock")
        except OSError as error:  # a read-only system has nowhere to meet others
            log.warning("no lock %s (%s): others on this machine are not waited for", name, error.strerror)

    def acquire(self, *, shared: bool, wait: bool = True) -> bool:
        """Take the lock; returns whether it was had."""
        if fcntl is None or self._file is None:
            return True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def take_alone(self) -> None:
        """Wait until nobody else holds the lock but processes that are stopped, which use no processor."""
        start = time.monotonic()
        looked, told = start, -TELL_EVERY
        while not self.acquire(shared=False, wait=False):
            time.sleep(ASK_EVERY)
            if time.monotonic() - looked < PATIENCE:
                continue
            looked, holders = time.monotonic(), self._holders()
            if holders and all(_is_stopped(holder) for holder in holders):
                log.warning("not waiting for %s: stopped (kill -CONT lets it go on)", _processes(holders))
                return
            if looked - told >= TELL_EVERY:
                log.info("waiting for %s to pause its work on this machine", _processes(holders))
                told = looked
        if time.monotonic() - start > PATIENCE:
            log.info("waited %.0f s for other work on this machine to pause", time.monotonic() - start)

    def _holders(self) -> list[int]:
        """Return the processes that hold the lock, as far as the system says so (Linux)."""
        assert self._file is not None
        file = os.fstat(self._file)
        name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        try:
            rows = [row.split() for row in LOCKS.read_text(encoding="ascii").splitlines()]
        except OSError:
            return []
        found = {int(row[4]) for row in rows if len(row) == 8 and row[1] == "FLOCK" and row[5] == name}
        return sorted(number for number in found if number > 0)  # others are of a container that this one can't see

    def release(self) -> None:
        """Let the lock go, keeping the file open."""
        if fcntl is not None and self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the lock go."""
        if self._file is not None:
            os.close(self._file)


def _is_stopped(process: int) -> bool:
    """Return whether a process was stopped by a signal (kill -STOP, Ctrl-Z)."""
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] == b"T"


def _processes(numbers: list[int]) -> str:
    return f"process {', '.join(map(str, numbers))}" if numbers else "another process"


def _open(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's file: reading is enough to lock it
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(PermissionError):
        path.chmod(0o666)
    return file


class _Worker:
    """This process as one of those who work."""

    def __init__(self) -> None:
        self._work, self._turn = _Lock("work"), _Lock("turn")
        self._asked = time.monotonic()
        self.begin()

    def begin(self) -> None:
        """Wait for those who want to measure, then work."""
        if not self._turn.acquire(shared=True, wait=False):
            log.info("waiting: another process measures latency on this machine")
            self._turn.acquire(shared=True)
        self._turn.release()
        self._work.acquire(shared=True)

    def give_way(self) -> None:
        """Stop working until those who want to measure have done so."""
        if time.monotonic() - self._asked < ASK_EVERY:
            return
        if self._turn.acquire(shared=True, wait=False):
            self._turn.release()
        else:
            self._work.release()
            self.begin()
        self._asked = time.monotonic()

    def rest(self) -> None:
        """Work no more, until `begin`."""
        self._work.release()

    def end(self) -> None:
        """Work no more."""
        self._work.close()
        self._turn.close()


_workers: list[_Worker] = []  # of this process: none or one


@contextmanager
def working() -> Iterator[None]:
    """Hold the machine as one of those who work; `give_way` is to be called often inside."""
    if _workers:
        yield
        return
    _workers.append(_Worker())
    try:
        yield
    finally:
        _workers.pop().end()


def give_way() -> None:
    """Pause here while somebody measures; free where nobody works or a moment ago was asked."""
    for worker in _workers:
        worker.give_way()


@contextmanager
def alone() -> Iterator[None]:
    """Hold the machine alone: to measure time. Others who work or measure wait meanwhile."""
    for worker in _workers:
        worker.rest()
    turn, work = _Lock("turn"), _Lock("work")
    try:
        for lock in (turn, work):
            lock.take_alone()
        yield
    finally:
        work.close()
        turn.close()
        for worker in _workers:
            worker.begin()
