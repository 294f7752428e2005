"""A `ranker serve` process to be measured: started on a free port, asked for its CPU time and memory, and ended."""

from __future__ import annotations

import contextlib
import os
import re
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
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._family()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

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
def serving(bundle: Path, settings: dict[str, Any], environment: dict[str, str] | None = None) -> Iterator[Process]:
    """Serve a bundle with settings (those of --config) until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "serve.yaml", Path(folder) / "log"
        config.write_text(yaml.safe_dump({"port": 0, **settings}), encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            "from export.cli import main; main()",
            "serve",
            str(bundle),
            "--config",
            config,
        ]
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stderr=file, env={**os.environ, **(environment or {})})
        try:
            yield Process(_address(process, log), process.pid)
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
