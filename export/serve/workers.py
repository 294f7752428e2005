"""Several processes on one port: one that dies is replaced, and all go down together."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from rankdistill.export.errors import UserError
from rankdistill.export.serve.http.metrics import FOLDER
from rankdistill.export.serve.http.request_log import write_line
from rankdistill.export.serve.settings import Settings

RunFunction = Callable[[Path, Settings, socket.socket, Callable[[], None]], None]
GRACE_S = 5.0  # beyond the time for draining, before a process is killed
RESTART_S = 1.0  # between two restarts, so that a fault that repeats does not eat the machine
_spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold


class Workers:
    """Keeps `settings.workers` processes running until SIGTERM or SIGINT.

    Args:
        bundle: its folder.
        settings: of the service.
        listener: bound socket that all of them accept from: a connection waits for whichever is free.
        run: serves in a process until a signal (`server.run`).
    """

    def __init__(self, bundle: Path, settings: Settings, listener: socket.socket, run: RunFunction) -> None:
        self._arguments = (bundle, settings, listener, run)
        self._settings = settings
        self._going_down = False
        self._alive: list[_Worker] = []

    def run(self, ready: Callable[[], None]) -> None:
        """Run them.

        Args:
            ready: is called when all are up.

        Raises:
            UserError: if one could not begin.
        """
        folder = tempfile.mkdtemp(prefix="ranker-metrics-")
        os.environ[FOLDER] = folder
        before = {sig: signal.signal(sig, self._stop) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._alive = [_Worker(*self._arguments) for _ in range(self._settings.workers)]
            if all(worker.began() for worker in self._alive):
                ready()
                self._watch()
            elif not self._going_down:
                raise UserError("a worker could not begin; its message is above")
        finally:
            self._end()
            for sig, handler in before.items():
                signal.signal(sig, handler)
            shutil.rmtree(folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self._going_down:
            wait([worker.process.sentinel for worker in self._alive], timeout=0.2)
            for place, worker in enumerate(self._alive):
                if not worker.process.is_alive() and not self._going_down:
                    _forget(worker.process.pid)
                    time.sleep(RESTART_S)
                    self._alive[place] = _Worker(*self._arguments)

    def _stop(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._going_down = True

    def _end(self) -> None:
        for worker in self._alive:
            worker.process.terminate()
        last = time.monotonic() + self._settings.drain_s + GRACE_S
        for worker in self._alive:
            worker.process.join(max(0.0, last - time.monotonic()))
            worker.process.kill()
            worker.process.join()


class _Worker:
    """One process. The pipe to it says that it is up, and to it that its parent is gone."""

    def __init__(self, bundle: Path, settings: Settings, listener: socket.socket, run: RunFunction) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_work, args=(bundle, settings, listener, run, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def began(self) -> bool:
        """Wait until it is up; False if it died instead."""
        wait([self._pipe, self.process.sentinel])
        try:
            return self._pipe.poll() and bool(self._pipe.recv())
        except EOFError:
            return False


def _work(bundle: Path, settings: Settings, listener: socket.socket, run: RunFunction, parent: Connection) -> None:
    def follow() -> None:
        with contextlib.suppress(EOFError, OSError):
            parent.recv()  # nothing is ever sent: it returns when the parent is gone
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="parent", daemon=True).start()
    try:
        run(bundle, settings, listener, lambda: parent.send(True))
    except UserError as error:
        write_line(f"ranker: {error}")
        raise SystemExit(2) from error


def _forget(pid: int | None) -> None:
    """Take a dead process's queue out of the figures; what it counted stays."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
