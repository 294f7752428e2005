"""A job of a sweep as a process of its own: its share of threads, its log, and a new start when it is killed."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rankdistill.export.files import write_atomic

CONSOLE, RECORD = "console.log", "run.json"
PARENT = "RANKDISTILL_PARENT"  # environment variable: the process that a job must not outlive
PR_SET_PDEATHSIG = 1
KILLED_BY_SHELL = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: in the sweep, from 0.
        folder: of the run, absolute.
        arguments: of the `distill` command.
        directory: that relative paths of the arguments start from.
    """

    number: int
    folder: Path
    arguments: Sequence[str]
    directory: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: finished, failed, pruned or killed.
        error: why it has no result; empty if it has one.
        starts: how often it was begun.
        place: machine (and node) that it ran on.
    """

    status: str
    error: str
    starts: int
    place: str


def run_job(job: Job, threads: int, tries: int) -> Outcome:
    """Run a job in a process of its own and wait for it; a killed one is begun again and goes on where it was.

    Args:
        job: what to run.
        threads: that it may keep busy, but for what is timed, alone, with all of them.
        tries: how often it is begun at most.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    _begin_again(job.folder / RECORD)
    environment = _environment(threads)
    for start in range(1, tries + 1):
        with (job.folder / CONSOLE).open("ab") as console:
            command = [sys.executable, "-m", "rankdistill", *job.arguments]
            done = subprocess.run(
                command, cwd=job.directory, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                check=False,
            )  # fmt: skip
        code = -signal.SIGKILL if done.returncode == KILLED_BY_SHELL else done.returncode
        if code >= 0:
            break
        with (job.folder / CONSOLE).open("a") as console:
            console.write(f"killed by signal {-code} (start {start} of {tries})\n")
    return outcome(job.folder, code, start)


def _begin_again(record: Path) -> None:
    """Let a record of an earlier sweep say no more how its run ended; its stages are still referred to."""
    try:
        content = json.loads(record.read_text(encoding="utf-8")) | {"status": "running"}
    except (OSError, ValueError, TypeError):
        record.unlink(missing_ok=True)
    else:
        write_atomic(record, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def outcome(folder: Path, code: int, starts: int) -> Outcome:
    """Read from a run's folder how it ended.

    Args:
        folder: of the run.
        code: that its process ended with, negative for a signal.
        starts: how often it was begun.
    """
    place = socket.gethostname()
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {"status": "running"}
    if record["status"] != "running":
        return Outcome(record["status"], record.get("error", ""), starts, place)
    if code < 0:
        return Outcome("killed", f"killed by signal {-code}, begun {starts} times", starts, place)
    return Outcome("failed", f"ended with code {code}: {_last_words(folder)}", starts, place)


def end_with_parent() -> None:
    """Let the kernel kill this process when the launcher that began it is killed: no job runs twice at once."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was killed before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _environment(threads: int) -> Mapping[str, str]:
    share = str(threads)
    own = {"OMP_NUM_THREADS": share, "RAYON_NUM_THREADS": share, "PYTHONSAFEPATH": "1"}  # no imports from the directory
    return os.environ | own | {PARENT: str(os.getpid())}


def _last_words(folder: Path) -> str:
    try:
        lines = (folder / CONSOLE).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "nothing was said"
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "nothing was said"
