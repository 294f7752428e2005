"""From 1,000 events to the updated student that answers: each step's seconds, and the service's latency meanwhile.

python scripts/bench/update_time.py --run RUN --out update_time.json

`ranker serve` answers requests that come by chance (open loop, from a process of its own) before, while a worker of
`distill-update --follow` updates, and after. The events are lists of the run's training split with their grades as
outcomes: what is learned from them is not asked here. Other work on the machine that can pause is paused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from load import Load, Mix, Sample, percentile, poisson
from service import Process, serving

from rankdistill.data.records import RankingData
from rankdistill.export import machine_lock
from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.runtime.event_log import EventLog
from rankdistill.models.model_files import RUN

TEXTS = 20  # items of a request
SHOWN = 8  # items of an event
OUTCOMES = ("skip", "click", "purchase")
TURN_S = 5.0  # of calls that are drawn at a time
COMMAND = "from rankdistill.__main__ import update; update()"
ENOUGH_S = 900.0


def data_of(run: Path) -> RankingData:
    """Return the data set of a run, with whole texts."""
    stages = json.loads((run / RUN).read_text(encoding="utf-8"))["stages"]
    return RankingData.open(run / stages["data"])


def make_events(data: RankingData, count: int, seed: int) -> list[dict[str, Any]]:
    """Return events of training lists: a user was shown some of a query's candidates and did what their grades say."""
    split, rng = data.splits["train"], np.random.default_rng(seed)
    ids, now, events = data.items.ids(), time.time(), []
    queries = data.queries.ids()
    for number, row in enumerate(rng.integers(len(split.query), size=count)):
        pairs = np.arange(split.offsets[row], split.offsets[row + 1])
        pairs = rng.permutation(pairs)[:SHOWN]
        texts = data.items.texts(split.item[pairs])
        items = [
            {"id": ids[item], "text": text, "position": place, "outcome": OUTCOMES[min(int(grade), 2)]}
            for place, (item, text, grade) in enumerate(
                zip(split.item[pairs].tolist(), texts, split.grade[pairs], strict=True), start=1
            )
        ]
        query = int(split.query[row])
        text = data.queries.texts([query])[0]
        user = queries[query]
        events.append({"id": f"e{number}", "time": now, "user": user, "query": {"text": text}, "items": items})
    return events


def make_mix(data: RankingData, seed: int) -> Mix:
    """Return requests for the queries of the test split."""
    split, rng = data.splits["test"], np.random.default_rng(seed)
    queries, items = [], []
    for row, query in enumerate(split.query.tolist()):
        pairs = rng.permutation(np.arange(split.offsets[row], split.offsets[row + 1]))[:TEXTS]
        queries.append(data.queries.texts([query])[0])
        items.append(data.items.texts(split.item[pairs]))
    return Mix(queries, items, np.full(len(queries), 1 / len(queries)))


class Traffic:
    """Calls that come by chance, drawn for some seconds at a time."""

    def __init__(self, process: Process, mix: Mix, rate: float) -> None:
        self._process, self._mix, self._rate, self._seed = process, mix, rate, 0

    def turn(self) -> list[Sample]:
        """Make the calls of `TURN_S` seconds and wait for their answers."""
        self._seed += 1
        calls = poisson(self._rate, TURN_S, self._mix, self._seed)
        return Load(self._process.address, "/rerank", self._mix.bodies(), calls).samples()

    def until(self, done: Any, most_s: float) -> list[Sample]:
        """Make calls until something is so, or for so long."""
        end, found = time.monotonic() + most_s, []
        while not done() and time.monotonic() < end:
            found += self.turn()
        return found


def served_key(process: Process) -> str:
    """Return the key of the model that answers."""
    address = f"http://{process.address[0]}:{process.address[1]}/info"
    with urllib.request.urlopen(address, timeout=60) as answer:
        return str(json.load(answer)["model_sha"])


def told(samples: list[Sample]) -> dict[str, Any]:
    """Return counts and percentiles in milliseconds."""
    found: dict[str, Any] = {f"p{p}_ms": round(1000 * percentile(samples, p), 2) for p in (50, 95, 99)}
    return {"requests": len(samples), "failed": sum(sample.status != 200 for sample in samples), **found}


class Swap:
    """Looks for the instant from which another model answers.

    Attributes:
        after_s: seconds from the beginning to then; None before.
    """

    def __init__(self, process: Process, old: str) -> None:
        self.after_s: float | None = None
        self._process, self._old, self._begin = process, old, time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # the service has ended
            while served_key(self._process) == self._old:
                time.sleep(0.25)
            self.after_s = round(time.monotonic() - self._begin, 1)


class Worker:
    """`distill-update --follow` in a process and a session of its own, as a service manager starts it."""

    def __init__(self, run: Path, folder: Path, more: list[str]) -> None:
        self.log = folder / "worker.log"
        paths = [f"events='{folder / 'events'}'", f"published='{folder / 'published'}'"]
        command = [sys.executable, "-c", COMMAND, str(run), *paths, "--follow", *more]
        # locks of its own: what this measurement keeps away must not be what it measures
        environment = os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )  # fmt: skip

    def wait(self, what: str) -> None:
        """Wait until it says something.

        Raises:
            SystemExit: if it ends, or says nothing of the kind for long.
        """
        end = time.monotonic() + ENOUGH_S
        while not re.search(what, self.log.read_text()):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"no {what!r} of the worker:\n{self.log.read_text()}")
            time.sleep(0.2)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def _served(worker: Worker, current: Path, settings: dict[str, Any]) -> Iterator[Process]:
    worker.wait("following ")  # from then on there is something to serve
    with serving(current, settings) as process:
        yield process


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Serve, ask, update, ask."""
    run = options.run.resolve()
    data = data_of(run)
    mix, events = make_mix(data, 0), make_events(data, options.events, 0)
    (folder / "events").mkdir()
    current = folder / "published" / "current"
    settings = {"cache": {"mb": 0}, "reload": {"watch": str(current), "interval_s": 1.0, "share": options.share}}
    with Worker(run, folder, options.more) as worker, _served(worker, current, settings) as process:
        traffic = Traffic(process, mix, options.rate)
        traffic.turn()  # warms
        before = traffic.until(lambda: False, options.calm)
        old, cpu = served_key(process), process.cpu_s()
        EventLog(folder / "events").append(events)
        swap = Swap(process, old)
        during = traffic.until(lambda: swap.after_s is not None or "not published" in worker.log.read_text(), ENOUGH_S)
        cpu = process.cpu_s() - cpu
        after = traffic.until(lambda: False, options.calm)
    record = json.loads((current.resolve().parent / "version.json").read_text(encoding="utf-8"))
    calm = percentile(before + after, 99)
    return {
        "events": options.events,
        "served_after_s": swap.after_s,
        "update_s": round(sum(record.get("seconds", {}).values()), 1),
        "steps_s": record.get("seconds"),
        "cpu_s": record.get("cpu_seconds"),  # what the steps would take on an idle core, about
        "version": record["version"],
        "change": record.get("change"),
        "before": told(before),
        "during": told(during),
        "after": told(after),
        "p99_ratio": round(percentile(during, 99) / calm, 3),
        "p50_ratio": round(percentile(during, 50) / percentile(before + after, 50), 3),
        "service_cpu_s_during": round(cpu, 1),
        "worker_said": worker.log.read_text().splitlines(),
    }


def main() -> None:
    """Measure and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second, of 20 items each")
    parser.add_argument("--calm", type=float, default=60.0, help="seconds of calls before and after")
    parser.add_argument("--share", type=float, default=0.0, help="reload.share of the service: of requests in a trial")
    parser.add_argument("--beside", action="store_true", help="do not wait for other work on the machine to pause")
    parser.add_argument("--out", type=Path)
    parser.add_argument("more", nargs="*", help="options of distill-update")
    options = parser.parse_args()
    os.environ.pop("RANKER_TOKENS", None)
    with tempfile.TemporaryDirectory() as folder, contextlib.nullcontext() if options.beside else machine_lock.alone():
        found = measure(options, Path(folder))
    print(json.dumps(found, indent=2))
    if options.out:
        host = {"host": describe_host(), "versions": versions(["rankdistill", "torch", "onnxruntime"])}
        settings = {"beside_other_work": options.beside, "rate": options.rate, "texts": TEXTS, "options": options.more}
        write_atomic(options.out, json.dumps({**host, **settings, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
