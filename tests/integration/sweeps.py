"""Sweeps of small experiments, what they left, and a look at their processes."""

from __future__ import annotations

import csv
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.commands import distill, small
from tests.processes import command_lines

FAST = ["bundle=false", "quantize=none", "budget=none"]
BOTH = "student.layers=1,2"
BROKEN = "student.layers=1,9,2"  # the second job fails
PATIENCE = 240.0  # seconds until a sweep that hangs is given up
QUALITY = (
    "status error student.layers form split queries ndcg@10 ndcg@10_low ndcg@10_high retention retention_low "
    "retention_high mrr@10 map pair_accuracy tau rbo overlap@10 size_mb params"
).split()


def sweep(beir: Path, encoder: Path, *more: str) -> list[str]:
    """Return the arguments of a sweep of seconds."""
    return ["-m", *small(beir, encoder), *FAST, *more]


@functools.cache
def broken_grid(beir: Path, encoder: Path) -> tuple[Path, subprocess.CompletedProcess]:
    """Run a grid of three whose second job fails, once a session; its stages are what other tests begin with."""
    folder = beir.parents[1] / "grid"
    folder.mkdir()
    return folder, distill(*sweep(beir, encoder, BROKEN), cwd=folder)


def stages(folder: Path) -> dict[str, int]:
    """Return the finished stages with the time of their record."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/stages/*/stage.json")}


def kinds(folder: Path) -> dict[str, int]:
    """Return how many stages of each kind there are."""
    names = [json.loads(path.read_text())["stage"] for path in folder.glob("runs/stages/*/stage.json")]
    return {name: names.count(name) for name in names}


def newest(folder: Path, name: str = "small") -> Path:
    """Return the folder of the last sweep."""
    return max((folder / "runs" / "sweeps" / name).iterdir(), key=lambda path: path.name)


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep's sweep.csv."""
    with (folder / "sweep.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def quality(folder: Path) -> list[dict[str, str]]:
    """Return the finished rows of a sweep's table without what a clock or the memory says, in the order of layers."""
    found = [{name: row.get(name, "") for name in QUALITY} for row in rows(folder) if row["status"] == "finished"]
    return sorted(found, key=lambda row: row["student.layers"])


def record(run: Path) -> dict:
    """Return a run's run.json."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def student(grid: Path, layers: int) -> str:
    """Return the name of the stage of a student in the grid."""
    return Path(record(newest(grid) / str((layers - 1) * 2))["stages"]["student"]).name


@contextmanager
def started(arguments: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start `distill`; what it says is in the folder's file "said". It is killed at the end if it is not done."""
    command = [sys.executable, "-m", "rankdistill", *arguments]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until something is so while a sweep is at work; a sweep that ended before, or hangs, fails the test."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, (folder / "said").read_text()
        assert time.monotonic() < deadline, (folder / "said").read_text()
        time.sleep(0.002)


def job(folder: Path, number: int) -> int | None:
    """Return the process of a job of a sweep that was started in a folder, if it is there."""
    place = f"hydra.run.dir='{folder}/runs/sweeps/".encode()
    end = f"/{number}'".encode()
    for pid, line in command_lines():
        if any(each.startswith(place) and each.endswith(end) for each in line.split(b"\0")):
            return pid
    return None


def parent(process: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def watched(processes: Sequence[int]) -> Iterator[Callable[[], bool]]:
    """Give a function that waits for the end of processes, which need not be children; returns whether all ended."""
    files = [os.pidfd_open(number) for number in processes]

    def all_ended() -> bool:
        return all(select.select([file], [], [], PATIENCE)[0] for file in files)

    try:
        yield all_ended
    finally:
        for file in files:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(file, signal.SIGKILL)
            os.close(file)
