"""How fast a bundle ranks on this machine: its graphs against each other, interleaved, in named phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export.errors import UserError
from rankdistill.export.measure.paired_timing import time_request
from rankdistill.export.runtime.manifest import GOLDEN
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.untrusted.bounded_files import parse_json, read_bytes

MOST_TEXT = 1 << 30  # bytes of a file with requests
REAL = ("random", "short", "long", "truncated")  # kinds of golden pairs that are the data set's own
WARM_UP = 3  # requests of each graph before timing
PERCENTILES = (50, 95, 99)

Request = tuple[str, list[str]]


@dataclass(frozen=True)
class Phases:
    """What was measured of one graph; times in milliseconds, wall unless they say CPU.

    Attributes:
        variant: name of the graph.
        threads: pairs scored at once.
        load_ms: reading and checking the bundle, opening the graph.
        first_ms: the first request, which plans memory.
        requests: timed in the steady state.
        pairs: in them.
        p50_ms, p95_ms, p99_ms: of a request.
        pairs_per_s: pairs over wall time.
        cpu_ms: of a request, over all threads.
    """

    variant: str
    threads: int
    load_ms: float
    first_ms: float
    requests: int
    pairs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    pairs_per_s: float
    cpu_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def golden_requests(bundle: Path, items: int) -> list[Request]:
    """Return requests made of a bundle's real golden pairs: each query with `items` of the items, again and again.

    Raises:
        UserError: if there are none.
    """
    lines = read_bytes(bundle / GOLDEN).split(b"\n")
    rows = [parse_json(line, f"{bundle / GOLDEN}:{number}") for number, line in enumerate(lines, 1) if line]
    real = [row for row in rows if row["kind"] in REAL]
    if not real:
        raise UserError(f"{bundle / GOLDEN} has no real pairs; give requests of your own: --requests FILE")
    texts = [row.get("whole", row["item"]) for row in real]  # whole ones: a ranker shortens them itself
    queries = list(dict.fromkeys(row["query"] for row in real))
    return [(query, [texts[(at + n) % len(texts)] for n in range(items)]) for at, query in enumerate(queries)]


def read_requests(path: Path) -> list[Request]:
    """Read requests from JSON Lines: {"query": text, "items": [text, ...]}.

    Raises:
        UserError: naming the file and line that is no request.
    """
    requests = []
    for number, line in enumerate(read_bytes(path, MOST_TEXT).split(b"\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}:{number}")
        items = row.get("items") if isinstance(row, dict) else None
        texts = [row.get("query"), *items] if isinstance(items, list) and items else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f'{path}:{number}: no request; a line is {{"query": "text", "items": ["text", ...]}}')
        requests.append((str(texts[0]), [str(text) for text in texts[1:]]))
    if not requests:
        raise UserError(f"{path}: no requests")
    return requests


def bench(
    bundle: Path,
    requests: Sequence[Request],
    *,
    variants: Sequence[str | None],
    threads: int | None,
    seconds: float,
    least: int,
    progress: Callable[[float], None],
) -> list[Phases]:
    """Time graphs of a bundle on requests, tokenisation included, until both a time and a count are reached.

    Args:
        bundle: its folder.
        requests: queries with their items; taken in turn.
        variants: names of graphs; None is the one for this processor.
        threads: pairs scored at once; None for every core.
        seconds: of timing, at least, for all graphs together.
        least: requests of each graph, at least.
        progress: is told which share is done.

    Raises:
        BundleError: if the bundle or a variant cannot be had.
    """
    rankers, loads, firsts = [], [], []
    for variant in variants:
        start = time.perf_counter()
        ranker = Ranker.load(bundle, variant=variant, threads=threads, keep_mb=0)
        loads.append((time.perf_counter() - start) * 1e3)
        firsts.append(time_request(ranker, requests[0])[0])
        rankers.append(ranker)
    for ranker in rankers:
        for number in range(WARM_UP):
            ranker.score_items(*requests[number % len(requests)])
    samples: list[list[tuple[float, float]]] = [[] for _ in rankers]
    pairs = done = 0
    start = time.perf_counter()
    while (share := min((time.perf_counter() - start) / seconds, done / least)) < 1:
        request = requests[done % len(requests)]
        order = range(len(rankers)) if done % 2 else reversed(range(len(rankers)))
        for row in order:
            samples[row].append(time_request(rankers[row], request))
        pairs += len(request[1])
        done += 1
        progress(share)
    progress(1.0)
    found = []
    for ranker, load, first, values in zip(rankers, loads, firsts, samples, strict=True):
        wall, cpu = np.array(values).T
        p50, p95, p99 = (float(value) for value in np.percentile(wall, PERCENTILES))
        speed = pairs / float(wall.sum()) * 1e3
        name = ranker.variant.name
        found.append(
            Phases(name, ranker.threads, load, first, done, pairs, p50, p95, p99, speed, float(np.median(cpu)))
        )
        ranker.close()
    return found
