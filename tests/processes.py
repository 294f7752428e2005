"""What Linux tells of other processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def command_line(pid: int) -> bytes:
    """Return a process's command line, its arguments ended by zero bytes; empty if it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def command_lines() -> Iterator[tuple[int, bytes]]:
    """Go through every process and its command line."""
    for path in Path("/proc").glob("[0-9]*"):
        yield int(path.name), command_line(int(path.name))
