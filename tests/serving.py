"""`ranker serve` as a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import yaml

ROOT = Path(__file__).parents[1]
READY = re.compile(r"serving .* on (http://\S+),")


@dataclass
class Served:
    """A service that runs.

    Attributes:
        process: its parent process.
        url: without a slash at the end.
        lines: of standard error, so far.
    """

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    def post(self, path: str, **fields: object) -> httpx.Response:
        return httpx.post(self.url + path, json=fields, timeout=30)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(bundle: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankdistill.export.commands.main", "serve", str(bundle), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RANKER_TOKENS"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"} | (env or {})
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def serving(
    bundle: Path, *arguments: str, folder: Path | None = None, env: dict[str, str] | None = None, **settings: object
) -> Iterator[Served]:
    """Start a service and end it.

    Args:
        bundle: to serve.
        arguments: of the command.
        folder: where the settings are written, if there are any.
        env: of the process, besides this one's.
        settings: for a --config file.
    """
    if settings:
        path = folder / "serve.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        arguments = (*arguments, "--config", str(path))
    process = start(bundle, "--port", "0", *arguments, env=env)
    try:
        lines: list[str] = []
        served = Served(process, _url(process.stderr, lines), lines)
        threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
        yield served
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(stream: IO[str], lines: list[str]) -> str:
    for line in stream:
        lines.append(line)
        if match := READY.search(line):
            return match[1]
    raise AssertionError("".join(lines))
