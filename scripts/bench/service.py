"""A `ranker serve` process to be measured: started on a free port, asked for its CPU time and memory, and ended."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PATIENCE_S = 30.0  # with a server that is to end
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A server's process.

    Attributes:
        address: host and port that it answers on.
        pid: of it.
    """

    def __init__(self, address: tuple[str, int], pid: int) -> None:
        self.address, self.pid = address, pid

    def cpu_s(self) -> float:
        """CPU seconds of the process and of those that it started, so far."""
        return sum(_cpu_s(pid) for pid in self._family())

    def memory_mb(self) -> float:
        """Resident memory of the same processes, in 10^6 bytes."""
        pages = 0
        for pid in self._family():
            with contextlib.suppress(OSError):  # it has just died
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def workers(self) -> set[int]:
        """Process ids of its workers; multiprocessing has another child, which tracks resources."""
        found = set()
        for pid in self._family()[1:]:
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
        return found

    def _family(self) -> list[int]:
        found, left = [], [self.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    left += map(int, path.read_text().split())
        return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


@contextlib.contextmanager
def serving(
    bundle: Path, settings: dict[str, Any], environment: dict[str, str] | None = None, errors: Path | None = None
) -> Iterator[Process]:
    """Serve a bundle until the block ends.

    Args:
        bundle: its folder.
        settings: those of --config.
        environment: variables beside this process's.
        errors: file that gets standard error; None for one of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "serve.yaml", errors or Path(folder) / "log"
        port = 0 if errors is None else free_port()  # what is written is not read then
        config.write_text(yaml.safe_dump({"port": port, **settings}), encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            "from rankdistill.export.commands.main import main; main()",
            "serve",
            str(bundle),
            "--config",
            config,
        ]
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stderr=file, env={**os.environ, **(environment or {})})
        try:
            yield Process(_ready(process, port) if port else _address(process, log), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> tuple[str, int]:
    while not (found := re.search(r"on http://([\w.]+):(\d+)", log.read_text(encoding="utf-8"))):
        if process.poll() is not None:
            sys.exit(f"ranker serve did not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.05)
    return found[1], int(found[2])


def _ready(process: subprocess.Popen[bytes], port: int) -> tuple[str, int]:
    while socket.socket().connect_ex(("127.0.0.1", port)):
        if process.poll() is not None:
            sys.exit("ranker serve did not start")
        time.sleep(0.05)
    return "127.0.0.1", port


def free_port() -> int:
    """Return a port of the loopback address that nobody has now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
