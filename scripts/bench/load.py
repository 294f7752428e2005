"""Open-loop load on an HTTP service: requests leave when they are due, whether the ones before were answered or not.

Runs in a process of its own. A latency counts from when a request was due, so that a service that stalls cannot hide
it. The client is as thin as it can be, since it shares the machine with the service: HTTP/1.1 over kept connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT_S = 60.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Call:
    """A request to be made: when (seconds from the start), its place among the bodies, and headers of its own."""

    at: float
    body: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Sample:
    """What became of a call: its status (0: no answer), seconds since it was due, and named headers of the answer."""

    call: int
    status: int
    seconds: float
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Mix:
    """Requests to choose from: texts of queries and of their items, and how often each query is asked."""

    queries: list[str]
    items: list[list[str]]
    shares: np.ndarray

    @classmethod
    def of(cls, folders: Sequence[Path], texts: int, skew: float, seed: int = 0) -> Mix:
        """Read BEIR folders; every query gets `texts` items, its judged ones first, then some at random.

        Args:
            folders: of the data sets; their queries are mixed.
            texts: items a request.
            skew: of the Zipf law over queries, in random order.
            seed: of both.
        """
        rng = np.random.default_rng(seed)
        pairs = [pair for folder in folders for pair in _lists(folder, texts, rng)]
        pairs = [pairs[row] for row in rng.permutation(len(pairs))]
        shares = np.arange(1, len(pairs) + 1) ** -skew
        return cls([query for query, _ in pairs], [items for _, items in pairs], shares / shares.sum())

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw queries by their shares, int64 [count]."""
        return rng.choice(len(self.queries), count, p=self.shares)

    def bodies(self, name: str = "texts", model: str = "m") -> list[bytes]:
        """Return each query's request body; `name` is what an API calls the items: texts, or documents."""
        return [
            json.dumps({"query": query, name: items, "model": model}).encode()
            for query, items in zip(self.queries, self.items, strict=True)
        ]


def _lists(folder: Path, texts: int, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
    def rows(name: str) -> list[dict[str, str]]:
        with (folder / name).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    corpus = {
        row["_id"]: " ".join(part for part in (row.get("title"), row["text"]) if part) for row in rows("corpus.jsonl")
    }
    asked = {row["_id"]: row["text"] for row in rows("queries.jsonl")}
    judged: dict[str, list[str]] = {}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            query, item, _ = line.split("\t")
            judged.setdefault(query, []).append(item)
    names = list(corpus)
    found = []
    for query, own in judged.items():
        others = (names[row] for row in rng.integers(len(names), size=4 * texts))
        chosen = list(dict.fromkeys([*own, *others]))[:texts]
        found.append((asked[query], [corpus[item] for item in chosen]))
    return found


def poisson(rate: float, seconds: float, mix: Mix, seed: int, classes: dict[str, float] | None = None) -> list[Call]:
    """Return calls that come by chance.

    Args:
        rate: calls a second.
        seconds: for which they come.
        mix: which queries they are for.
        seed: of all chance.
        classes: share of each `X-Priority`; None sends none.
    """
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.5) + 50))
    times = times[times < seconds]
    queries = mix.draw(len(times), rng)
    names = [None] * len(times)
    if classes:
        names = rng.choice(list(classes), len(times), p=list(classes.values())).tolist()
    return [
        Call(float(at), int(query), (("x-priority", name),) if name else ())
        for at, query, name in zip(times, queries, names, strict=True)
    ]


class _Client:
    """Kept connections to one address."""

    def __init__(self, host: str, port: int, path: str, kept: Sequence[str]) -> None:
        self.host, self.port, self.path, self.kept = host, port, path, kept
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes, headers: Sequence[tuple[str, str]]) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return status, named headers and body of the answer."""
        pair = self._free.pop() if self._free else await asyncio.open_connection(self.host, self.port)
        reader, writer = pair
        try:
            own = "".join(f"{name}: {value}\r\n" for name, value in headers)
            writer.write(
                f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n{own}"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            found = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            content = await reader.readexactly(int(found.get("content-length", 0)))
        except BaseException:
            writer.close()
            raise
        if found.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._free.append(pair)
        return int(head[0].split()[1]), {name: found[name] for name in self.kept if name in found}, content


async def _run(
    address: tuple[str, int], path: str, bodies: list[bytes], calls: list[Call], kept: Sequence[str], keep_bodies: bool
) -> list[Sample]:
    client = _Client(*address, path, kept)
    start = time.perf_counter() + 0.05

    async def one(place: int, call: Call) -> Sample:
        status, headers, content = 0, {}, b""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            status, headers, content = await asyncio.wait_for(client.ask(bodies[call.body], call.headers), TIMEOUT_S)
        seconds = time.perf_counter() - start - call.at
        return Sample(place, status, seconds, headers, content if keep_bodies else b"")

    tasks = []
    for place, call in enumerate(calls):
        wait = start + call.at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(place, call)))
    return list(await asyncio.gather(*tasks))


def _child(pipe: Any, *arguments: Any) -> None:
    pipe.send(asyncio.run(_run(*arguments)))


class Load:
    """Calls that are being made by another process."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        bodies: list[bytes],
        calls: list[Call],
        kept: Sequence[str] = (),
        keep_bodies: bool = False,
    ) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_child, args=(theirs, address, path, bodies, calls, kept, keep_bodies))
        self._process.start()
        theirs.close()

    def samples(self) -> list[Sample]:
        """Wait for the last answer and return all."""
        samples: list[Sample] = self._pipe.recv()
        self._process.join()
        return samples


def percentile(samples: Sequence[Sample], percent: float) -> float:
    """Return a percentile of the seconds of answered calls."""
    seconds = [sample.seconds for sample in samples if sample.status == 200]
    return float(np.percentile(seconds, percent)) if seconds else float("nan")
