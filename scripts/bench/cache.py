"""The score cache against cache libraries: hits, memory and time, on requests and single pairs that follow a Zipf law.

python scripts/bench/cache.py --out scripts/bench/results/cache.json

needs: pip install theine cachetools cachebox moka-py lru-dict s3fifo   (and redis-server, to time the shared cache)

Hit ratios are over the second half of a trace, and told as a share of the static optimum: of whoever keeps the head of
the law. `requests`: queries by Zipf 0.9, each with its 40 items, so all pairs of a query come together. `shifted`: the
same, but after a third of the time other queries are the frequent ones. `pairs`: single pairs by Zipf 0.9, any 40 of
which have one query. Libraries have an entry for each pair and get digests that were made before; the score cache makes
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cached_pairs import BY_PAIR, Candidate, Keys, Pages

from rankdistill.export.measure.host import describe_host
from rankdistill.export.serve.caching import score_cache
from rankdistill.export.serve.caching.redis_scores import SharedScores
from rankdistill.export.serve.caching.score_cache import PAGE_BYTES, PAGE_ITEMS, ScoreCache

ITEMS, QUERIES, ROOM = 40, 25_000, 10_000  # of a query; of the key space; pairs that the cache holds: 1%
REQUESTS, PAIRS = 100_000, 1_000_000  # in a trace
SEEDS = 3
EXPONENT = 0.9
FILLED = 200_000  # pairs by which memory is measured
CHARACTERS = 300  # of an item
SWAPS = 100
MANY_QUERIES = 100_000  # the score cache again, with four times the queries and the room

OURS = "score cache"


def _law(size: int) -> Any:
    weights = 1 / np.arange(1, size + 1) ** EXPONENT
    return weights / weights.sum()


def _draw(size: int, length: int, shifted: bool, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    drawn = rng.choice(size, length, p=_law(size))
    if shifted:
        drawn[length // 3 :] = size - 1 - drawn[length // 3 :]
    return list(rng.permutation(size)[drawn].tolist())


def _hit_ratio(candidate: Candidate, requests: Sequence[int], keys: Callable[[int], Keys]) -> float:
    hits = asked = 0
    for number, request in enumerate(requests):
        if number == len(requests) // 2:
            hits = asked = 0
        wanted = keys(request)
        known = candidate.get(wanted)
        missing = [key for key, there in zip(wanted, known, strict=True) if not there]
        asked, hits = asked + len(wanted), hits + len(wanted) - len(missing)
        if missing:
            candidate.put(missing)
    return hits / asked


def _hits(make: Callable[[int], Candidate], room: int, trace: str, texts: bool, queries: int = QUERIES) -> list[float]:
    """Return, for each seed, the hit ratio over the static optimum of 1% of the pairs."""
    size, length = (queries * ITEMS, PAIRS) if trace == "pairs" else (queries, REQUESTS * queries // QUERIES)
    optimum = _law(size)[: size // 100].sum()
    digests = [] if texts else [score_cache._digest(pair.to_bytes(8, "little")) for pair in range(queries * ITEMS)]

    def keys(request: int) -> Keys:
        first, count = (request, 1) if trace == "pairs" else (request * ITEMS, ITEMS)
        if texts:
            return [(str(first // ITEMS), str(pair % ITEMS)) for pair in range(first, first + count)]
        return digests[first : first + count]

    ratios = []
    for seed in range(SEEDS):
        requests = _draw(size, length, trace == "shifted", seed)
        ratios.append(round(_hit_ratio(make(room), requests, keys) / optimum, 4))
    return ratios


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cost(make: Callable[[int], Candidate], room: int, texts: bool) -> dict[str, float]:
    """Return bytes a pair of a full cache, and microseconds of 40 pairs: all found, and all new."""
    item_names = [str(number) for number in range(ITEMS)]

    def keys(query: int) -> Keys:
        if texts:
            return [(str(query), item) for item in item_names]
        return [score_cache._digest((query * ITEMS + item).to_bytes(8, "little")) for item in range(ITEMS)]

    make(1000).put(keys(0))  # what the library itself takes
    before, cache = _resident(), make(room)
    queries = FILLED // ITEMS
    for query in range(2 * queries):
        cache.put(keys(query))
    used = (_resident() - before) / FILLED
    wanted = [keys(query) for query in range(3 * queries)]
    new, last = wanted[2 * queries : 2 * queries + 1000], wanted[2 * queries + 999]
    start = time.process_time()
    for each in new:
        cache.put(each)
    put_us = (time.process_time() - start) / len(new) * 1e6
    cache.put(last)
    start = time.process_time()
    for _ in range(1000):
        cache.get(last)
    return {"bytes_a_pair": round(used, 1), "put_us": round(put_us, 1), "get_us": round(_since(start) / 1000 * 1e6, 1)}


def _since(start: float) -> float:
    return time.process_time() - start


def _texts_us() -> dict[str, float]:
    """Return microseconds of a request of 40 items of 300 characters, and how much of that digests take."""
    rng = np.random.default_rng(0)
    items = ["".join(map(chr, rng.integers(97, 123, CHARACTERS))) for _ in range(ITEMS)]
    cache, scores = ScoreCache(10_000_000), np.zeros(ITEMS, dtype=np.float32)
    times: dict[str, list[float]] = {"get": [], "put": [], "digests": []}
    for turn in range(2000):
        query = f"query {turn}"
        for name, work in (
            ("put", lambda query=query: cache.put("m", query, items, scores)),
            ("get", lambda query=query: cache.get("m", query, items)),
            ("digests", lambda query=query: score_cache._digests("m", query, items)),
        ):
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {f"{name}_us": round(float(np.median(samples)) * 1e6, 1) for name, samples in times.items()}


def _stale() -> dict[str, int]:
    """Let threads ask while models take turns; count scores that are not the model's own."""
    cache, current, wrong, asked = ScoreCache(2_000 * PAGE_BYTES), [0], [0], [0]
    end = threading.Event()

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not end.is_set():
            model, query = current[0], int(rng.zipf(1.3)) % 500
            numbers = rng.permutation(ITEMS)
            items, truth = [str(n) for n in numbers], (model * 1000 + query + numbers / 64).astype(np.float32)
            scores = cache.get(f"model {model}", str(query), items)
            known = ~np.isnan(scores)
            wrong[0] += int((scores[known] != truth[known]).sum())
            asked[0] += int(known.sum())
            cache.put(f"model {model}", str(query), items, truth)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for swap in range(SWAPS):
        time.sleep(0.05)
        current[0] = (swap + 1) % 3  # and back to models of before
    end.set()
    for thread in threads:
        thread.join()
    return {"swaps": SWAPS, "scores_found": asked[0], "stale": wrong[0]}


def _shared_us() -> dict[str, float]:
    """Return microseconds to look up 40 scores in a redis-server on this machine."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1.0)
            shared, keys = SharedScores(f"redis://127.0.0.1:{port}", 60, 1000), [os.urandom(32) for _ in range(ITEMS)]
            shared.put(keys, np.zeros(ITEMS, dtype=np.float32))
            time.sleep(0.5)
            times = []
            for _ in range(2000):
                start = time.perf_counter()
                found = shared.get(keys)
                times.append(time.perf_counter() - start)
            if np.isnan(found).any():
                raise SystemExit("the shared cache does not work here")
            shared.close()
        finally:
            server.kill()
            server.wait()
    return {f"get_us_p{level}": round(float(np.quantile(times, level / 100)) * 1e6, 1) for level in (50, 95)}


def _many_queries() -> dict[str, Any]:
    room = MANY_QUERIES * ITEMS // 100 // PAGE_ITEMS
    return {
        "queries": MANY_QUERIES,
        "of_optimum": {trace: _hits(Pages, room, trace, True, MANY_QUERIES) for trace in ("requests", "shifted")},
    }


def _measure(name: str) -> dict[str, Any]:
    """Measure one candidate, alone in its process."""
    if name not in (OURS, *BY_PAIR):
        raise SystemExit(f"--only {name}: one of {', '.join((OURS, *BY_PAIR))}")
    if name != OURS:
        make, room, texts, filled = BY_PAIR[name], ROOM, False, FILLED
    else:
        make, room, texts, filled = Pages, ROOM // PAGE_ITEMS, True, FILLED // PAGE_ITEMS
    row: dict[str, Any] = {"name": name, **_cost(make, filled, texts)}
    row["of_optimum"] = {trace: _hits(make, room, trace, texts) for trace in ("requests", "shifted", "pairs")}
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="measure this candidate alone, and print its row")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(_measure(options.only)))
        return
    rows = []
    for name in (OURS, *BY_PAIR):
        done = subprocess.run([sys.executable, __file__, "--only", name], check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
    # as much memory as an entry for each pair takes
    same_bytes = int(next(row["bytes_a_pair"] for row in rows if row["name"] == "theine-core") * ROOM) // PAGE_BYTES
    result = {
        "host": describe_host(),
        "trace": {"items": ITEMS, "queries": QUERIES, "requests": REQUESTS, "pairs": PAIRS, "exponent": EXPONENT},
        "rows": rows,
        "many_queries": _many_queries(),
        "in_the_same_memory": {trace: _hits(Pages, same_bytes, trace, True) for trace in ("requests", "pairs")},
        "request_of_40_texts": _texts_us(),
        "shared": _shared_us(),
        "swaps": _stale(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
