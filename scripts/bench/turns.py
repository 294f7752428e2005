"""Trainings that take turns on one machine: each works for a slice of time while the others wait."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

SLICE = 15.0  # seconds


class Turns:
    """Lets a training work for a slice at a time; counts pairs and, of its own turns alone, seconds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begun = False

    def count(self, pairs: int) -> None:
        """Count pairs just trained, and wait for the next turn if this one is over."""
        self._pairs += pairs
        if time.perf_counter() - self._start >= SLICE:
            self.end()
            self.begin()

    def begin(self) -> None:
        """Wait for a turn."""
        self._connection.recv()
        self._pairs, self._start, self._start_cpu = 0, time.perf_counter(), time.process_time()

    def end(self) -> None:
        """Hand a turn's counts over."""
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._start_cpu
        self._connection.send({"pairs": self._pairs, "seconds": seconds, "cpu_seconds": cpu})


Work = Callable[[Any, Turns], dict[str, Any]]


def take_turns(works: dict[str, tuple[Work, Any]], slices: int | None) -> dict[str, dict[str, Any]]:
    """Let processes take turns, until all are done or each has had so many slices.

    Args:
        works: what each process calls, with this argument and its `Turns`.
        slices: at most; None lets all come to their end.

    Returns:
        For each its `slices`, and what it returned at its end.
    """
    context = multiprocessing.get_context("spawn")
    told: dict[str, dict[str, Any]] = {name: {"slices": []} for name in works}
    ends, processes = {}, {}
    for name, (work, argument) in works.items():
        ends[name], theirs = context.Pipe()
        processes[name] = context.Process(target=_take_part, args=(work, argument, theirs), daemon=True)
        processes[name].start()
        theirs.close()
    left = list(works)
    while left:
        for name in list(left):
            ends[name].send("go")
            message = ends[name].recv()
            if "pairs" in message:
                told[name]["slices"].append(message)
            else:
                told[name] |= message
            if "pairs" not in message or len(told[name]["slices"]) == slices:
                left.remove(name)
    for process in processes.values():
        process.terminate()
        process.join()
    return told


def _take_part(work: Work, argument: Any, connection: Connection) -> None:
    sys.stdout = sys.stderr
    told = work(argument, Turns(connection))
    connection.recv()
    connection.send(told)


def speed(slices: list[dict[str, float]]) -> dict[str, float]:
    """Return pairs per second and CPU-milliseconds a pair: medians of the slices but the first and the last."""
    whole = slices[1:-1] if len(slices) > 2 else slices
    rates = [each["pairs"] / each["seconds"] for each in whole]
    cpu = [each["cpu_seconds"] / max(each["pairs"], 1) * 1e3 for each in whole]
    low, middle, high = (float(value) for value in np.percentile(rates, (10, 50, 90)))
    return {"pairs_per_s": middle, "p10": low, "p90": high, "cpu_ms_per_pair": float(np.median(cpu))}
