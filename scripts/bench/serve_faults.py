"""A service that is mistreated while it answers: what is lost, how long the longest answer takes, what memory it takes.

python scripts/bench/serve_faults.py --bundle BUNDLE --data AMAZON_GAMES --data CROWDFLOWER --out serve_faults.json

1,000 clients that send half a request or nothing; a worker killed with signal 9; a Redis killed and started again; a
log on a full disk; and a soak of ten minutes. Each is done while open-loop Poisson load comes from another process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from load import Call, Load, Mix, Sample, percentile, poisson
from service import Process, free_port, serving

from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions

TEXTS, SKEW, PATH = 20, 0.9, "/rerank"
CLASSES = {"high": 0.2, "normal": 0.3, "low": 0.5}
SLOW_CLIENTS = 1000
# what they send: nothing, a part of the headers, headers and a part of the body, no HTTP, an empty line
BEGINNINGS = (
    b"", b"POST /rerank HTTP/1.1\r\nHos", b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b"content-length: 5000\r\n\r\n{\"query\":", b"\x00\x01nonsense\r\n", b"\r\n",
)  # fmt: skip
WARM_S = 120.0  # of a soak, in which caches and counters fill


def told(calls: Sequence[Call], samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what became of a load."""
    return {
        "requests": len(calls),
        "statuses": dict(Counter(str(sample.status) for sample in samples)),  # 0: the connection broke
        "p50_ms": round(1000 * percentile(samples, 50), 1),
        "p99_ms": round(1000 * percentile(samples, 99), 1),
        "longest_ms": round(1000 * percentile(samples, 100), 1),
    }


def under(process: Process, mix: Mix, rate: float, seconds: float, fault: Callable[[], Any]) -> dict[str, Any]:
    """Do something while a load comes; return what became of both."""
    calls = poisson(rate, seconds, mix, 7, CLASSES)
    load = Load(process.address, PATH, mix.bodies(), calls)
    time.sleep(min(2.0, seconds / 5))
    outcome = fault()
    return told(calls, load.samples()) | {"fault": outcome}


class SlowClients:
    """Connections that hold on: each is begun anew when the service has closed it, until they are told to stop."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self.address, self.opened, self.closed = address, 0, 0
        self._stop = threading.Event()
        self._open: list[socket.socket] = []
        for number in range(count):
            self._open.append(self._begin(number))

    def hold(self, seconds: float) -> None:
        """Drip a byte into each from time to time, and begin again those that were closed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for place, client in enumerate(self._open):
                try:
                    if place % 3 == 0:
                        client.send(b"x")
                    if client.recv(4096) == b"":
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except OSError:
                    client.close()
                    self.closed += 1
                    self._open[place] = self._begin(place)
            time.sleep(0.5)

    def close(self) -> None:
        """Hang up."""
        for client in self._open:
            client.close()

    def _begin(self, number: int) -> socket.socket:
        client = socket.create_connection(self.address, timeout=10)
        client.sendall(BEGINNINGS[number % len(BEGINNINGS)])
        client.setblocking(False)
        self.opened += 1
        return client


def slow_clients(bundle: Path, mix: Mix, rate: float, seconds: float) -> dict[str, Any]:
    """Answer a load by itself, then beside a thousand clients that hold on."""
    with serving(bundle, {"cache": {"mb": 0}, "limits": {"receive_s": 5.0}}) as process:
        under(process, mix, rate, seconds / 4, lambda: None)
        alone = under(process, mix, rate, seconds, lambda: None)
        before = process.memory_mb()

        def hold() -> dict[str, Any]:
            clients = SlowClients(process.address, SLOW_CLIENTS)
            try:
                clients.hold(seconds)
                return {"opened": clients.opened, "closed_by_service": clients.closed}
            finally:
                clients.close()

        beside = under(process, mix, rate, seconds, hold)
        return {"without": alone, "with": beside, "memory_mb": [round(before, 1), round(process.memory_mb(), 1)]}


def worker_killed(bundle: Path, mix: Mix, rate: float, seconds: float) -> dict[str, Any]:
    """Kill one of two workers three times."""
    with serving(bundle, {"cache": {"mb": 0}, "workers": 2}) as process:
        under(process, mix, rate, seconds / 4, lambda: None)

        def kill() -> dict[str, Any]:
            back = []
            for _ in range(3):
                before = process.workers()
                os.kill(min(before), signal.SIGKILL)
                began = time.monotonic()
                while len(process.workers() - before) < 1:
                    time.sleep(0.05)
                back.append(round(time.monotonic() - began, 2))
                time.sleep(seconds / 5)
            return {"killed": 3, "begun_again_after_s": back}

        return under(process, mix, rate, seconds, kill)


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Yield a URL, and what starts and kills a redis-server there."""
    port, started = free_port(), []
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    def start() -> None:
        started.append(subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL))
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.02)

    def kill() -> None:
        started[-1].kill()
        started[-1].wait()

    try:
        yield f"redis://127.0.0.1:{port}/0", start, kill
    finally:
        for process in started:
            process.kill()
            process.wait()


def redis_killed(bundle: Path, mix: Mix, rate: float, seconds: float) -> dict[str, Any]:
    """Kill the shared cache's server and start it again, three times."""
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as (url, start, kill):
        start()
        with serving(bundle, {"cache": {"mb": 0.1, "redis": url, "timeout_ms": 50}}) as process:

            def restart() -> dict[str, Any]:
                for _ in range(3):
                    kill()
                    time.sleep(seconds / 10)
                    start()
                    time.sleep(seconds / 10)
                return {"killed": 3}

            found = under(process, mix, rate, seconds, restart)
            page = httpx.get(f"http://{process.address[0]}:{process.address[1]}/metrics").text
            found["figures"] = {
                line.split()[0]: float(line.split()[1])
                for line in page.splitlines() if line.startswith("ranker_shared_cache")
            }  # fmt: skip
            return found


def log_disk_full(bundle: Path, mix: Mix, rate: float, seconds: float) -> dict[str, Any]:
    """Answer while every line of the log fails to be written: standard error is /dev/full."""
    settings = {"cache": {"mb": 0}, "log": {"requests": True, "texts": True}}
    with serving(bundle, settings, errors=Path("/dev/full")) as process:
        before = process.memory_mb()
        found = under(process, mix, rate, seconds, lambda: None)
        return found | {"memory_mb": [round(before, 1), round(process.memory_mb(), 1)]}


def soak(bundle: Path, mix: Mix, rate: float, seconds: float) -> dict[str, Any]:
    """Answer with everything on, beside clients that hang up and nonsense; tell of the resident memory meanwhile."""
    settings = {"cache": {"mb": 2}, "log": {"requests": True}}
    samples: list[tuple[float, float]] = []
    statuses: Counter[str] = Counter()
    with serving(bundle, settings) as process:
        began = time.monotonic()
        for seed in itertools.count():
            if time.monotonic() - began > seconds:
                break
            calls = poisson(rate, 15.0, mix, 1000 + seed, CLASSES)
            load = Load(process.address, PATH, mix.bodies(), calls)
            _annoy(process.address, mix, 10.0)
            statuses.update(str(sample.status) for sample in load.samples())
            samples.append((time.monotonic() - began, process.memory_mb()))
    at, memory = np.array(samples).T
    warm = min(WARM_S, seconds / 4)
    first, last = (float(np.median(memory[rows])) for rows in (
        (at > warm) & (at <= warm + seconds / 6), at > at[-1] - seconds / 6
    ))  # fmt: skip
    return {
        "seconds": float(at[-1]), "statuses": dict(statuses), "after_warm_up_mb": round(first, 1),
        "end_mb": round(last, 1), "growth": round(last / first - 1, 4),
        "memory_mb": [[round(second), round(mb, 1)] for second, mb in samples],
    }  # fmt: skip


def _annoy(address: tuple[str, int], mix: Mix, seconds: float) -> None:
    """Hang up in the midst of requests, and send nonsense, for a while."""
    rng, end = np.random.default_rng(0), time.monotonic() + seconds
    url = f"http://{address[0]}:{address[1]}{PATH}"
    while time.monotonic() < end:
        row = int(rng.integers(len(mix.queries)))
        body = json.dumps({"query": f"{mix.queries[row]} {rng.integers(1 << 30)}", "texts": mix.items[row]})
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=0.005)
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(url, content=body[: int(rng.integers(len(body)))], headers={"content-type": "application/json"})
        time.sleep(0.2)


FAULTS = {
    each.__name__: each for each in (slow_clients, worker_killed, redis_killed, log_disk_full, soak)
}  # fmt: skip


def main() -> None:
    """Do what is asked for; what a result file holds of others stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each fault")
    parser.add_argument("--soak-seconds", type=float, default=600.0)
    options = parser.parse_args()
    if "redis_killed" in options.only and shutil.which("redis-server") is None:
        sys.exit("redis-server is not installed (Debian: apt install redis-server)")
    mix = Mix.of(options.data, TEXTS, SKEW)
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in options.only:
        seconds = options.soak_seconds if name == "soak" else options.seconds
        found = FAULTS[name](options.bundle, mix, options.rate, seconds)
        results[name] = {"rate_per_s": options.rate} | found
        print(name, json.dumps(results[name]), flush=True)
        results |= {
            "texts": TEXTS, "host": describe_host(),
            "versions": versions(["rankdistill", "onnxruntime", "uvicorn"]),
        }  # fmt: skip
        write_atomic(options.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
