"""Wall and CPU time of ranking one query's candidates, systems interleaved; and each one's peak memory.

Measured in processes of their own: `python -m rankdistill.export.measure.latency SPEC OUT` times all systems against
each other, `... SPEC OUT INDEX` only loads and runs one, for its peak memory. Raw samples are kept; percentiles are
derived.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rankdistill.export import machine_lock
from rankdistill.export.errors import UserError
from rankdistill.export.measure.systems import System
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.split_scorer import SplitScorer
from rankdistill.export.runtime.threads import available_cores

FILE = "latency.json"
NOTE = (
    "one query with its own candidate list at a time, items shortened before, tokenisation included, of words that "
    "onnxruntime's has met before from memory; systems interleaved A B B A"
)
MEMORY_QUERIES = 5
# torch's OpenMP threads would spin for milliseconds after an operation, charged to whatever runs next
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

Float64 = npt.NDArray[np.float64]
Lists = Sequence[tuple[str, list[str]]]


@dataclass(frozen=True)
class Latency:
    """Samples of one system.

    Attributes:
        wall_ms: float64 [samples, queries].
        cpu_ms: float64 [samples, queries], of all threads of the process.
        pairs: int64 [queries], candidates of each query.
        peak_rss_mb: most memory that a process with this system alone held, in 10^6 bytes.
    """

    wall_ms: Float64
    cpu_ms: Float64
    pairs: npt.NDArray[np.int64]
    peak_rss_mb: float


def write(
    systems: Sequence[System],
    lists: Mapping[str, Lists],
    *,
    threads: int,
    rounds: int,
    warmup: int,
    out: Path,
) -> None:
    """Time systems on candidate lists and write raw samples to `out`.

    Args:
        systems: what is compared.
        lists: by model, each query's text and its candidates' texts: the same for each model, as it reads them.
        threads: of every engine.
        rounds: how often every query is timed forth and back, so that a system has 2 * rounds samples of a query.
        warmup: queries that each system ranks before timing; one that keeps items' states ranks all.
        out: folder for latency.json.

    Raises:
        UserError: if a measuring process fails; the message ends with what one that measures memory said last.
    """
    spec = {
        "systems": [system.as_json() for system in systems],
        "lists": [[[query, items] for query, items in lists[system.model]] for system in systems],
        "threads": threads,
        "rounds": rounds,
        "warmup": warmup,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec), encoding="utf-8")
        with machine_lock.alone():
            samples = _run(path, Path(folder) / "samples.json")
        with ThreadPoolExecutor(available_cores()) as pool:  # who runs beside a process does not change what it holds
            peaks = list(pool.map(lambda index: _peak(path, Path(folder), index), range(len(systems))))
    result = {
        "systems": [system.name for system in systems],
        "pairs": [len(items) for _, items in lists[systems[0].model]],
        "threads": threads,
        "rounds": rounds,
        "note": NOTE,
        "wall_ms": samples["wall_ms"],
        "cpu_ms": samples["cpu_ms"],
        "peak_rss_mb": peaks,
    }
    (out / FILE).write_text(json.dumps(result) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Latency]:
    """Return the samples that `write` stored, by the systems' names."""
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return {
        name: Latency(
            np.array(content["wall_ms"][row]),
            np.array(content["cpu_ms"][row]),
            np.array(content["pairs"]),
            content["peak_rss_mb"][row],
        )
        for row, name in enumerate(content["systems"])
    }


def conditions(folder: Path) -> dict[str, Any]:
    """Return what the samples are of: threads of every engine, queries, samples of each, pairs."""
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    samples, queries = np.array(content["wall_ms"][0]).shape
    return {
        "threads": content["threads"],
        "queries": queries,
        "samples_per_query": samples,
        "pairs": sum(content["pairs"]),
        "note": content["note"],
    }


def _peak(spec: Path, folder: Path, index: int) -> float:
    return float(_run(spec, folder / f"peak-{index}.json", index)["peak_rss_mb"])


def _run(spec: Path, out: Path, index: int | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "rankdistill.export.measure.latency", str(spec), str(out)]
    command += [] if index is None else [str(index)]
    shown = None if index is None else subprocess.PIPE  # timing shows its progress as it goes
    done = subprocess.run(command, env=os.environ | QUIET, stderr=shown, text=True, check=False)
    if done.returncode:
        said = (done.stderr or "").strip().splitlines()[-1:]
        raise UserError(": ".join([f"the process that measures latency ended with code {done.returncode}", *said]))
    return dict(json.loads(out.read_text(encoding="utf-8")))


def time_systems(spec: dict[str, Any]) -> dict[str, Any]:
    """Time every system on every query, forth and back.

    Returns:
        wall_ms and cpu_ms, each [systems][samples][queries] in milliseconds.
    """
    scorers = [System.from_json(fields).open(spec["threads"]) for fields in spec["systems"]]
    queries = len(spec["lists"][0])
    for scorer, lists in zip(scorers, spec["lists"], strict=True):
        met = lists if isinstance(scorer, SplitScorer) else lists[: spec["warmup"]]  # its items' states are kept then
        for query, items in met:
            scorer.score(query, items)
    shape = (len(scorers), 2 * spec["rounds"], queries)
    wall, cpu = np.empty(shape), np.empty(shape)
    order = [*range(len(scorers)), *reversed(range(len(scorers)))]
    with Progress("time", spec["rounds"] * queries, "queries") as bar:
        for turn in range(spec["rounds"]):
            for number in range(queries):
                for position, row in enumerate(order):
                    query, items = spec["lists"][row][number]
                    sample = 2 * turn + (position >= len(scorers))
                    start_wall, start_cpu = time.perf_counter(), time.process_time()
                    scorers[row].score(query, items)
                    cpu[row, sample, number] = (time.process_time() - start_cpu) * 1e3
                    wall[row, sample, number] = (time.perf_counter() - start_wall) * 1e3
                bar.update(1)
    return {"wall_ms": wall.round(4).tolist(), "cpu_ms": cpu.round(4).tolist()}


def peak_memory(spec: dict[str, Any], index: int) -> dict[str, Any]:
    """Load one system in this process, rank a few queries, and return the process's peak resident memory."""
    scorer = System.from_json(spec["systems"][index]).open(spec["threads"])
    for query, items in spec["lists"][index][:MEMORY_QUERIES]:
        scorer.score(query, items)
    return {"peak_rss_mb": round(_peak_bytes() / 1e6, 1)}


def _peak_bytes() -> int:
    """Return the peak resident memory of this process alone; getrusage's also counts its parent's, across exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure what the command line says: SPEC OUT [INDEX]."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)  # progress where there is no bar
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = peak_memory(spec, int(sys.argv[3])) if len(sys.argv) > 3 else time_systems(spec)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
