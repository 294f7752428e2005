"""kill -9 of a worker that follows a log and of who writes the log, at random instants and while it publishes.

python scripts/bench/update_kill.py --model RUN_OR_BUNDLE --kills 100 --out update_kill.json

A small model (experiment=tiny) is enough. After every kill what is served must be a whole version, and at the end every
acknowledged event must have been used exactly once. Processes are forked from one that has loaded the libraries, which
saves their seconds of starting up and nothing else. A thread looks at what is served all the time, as a service does.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankdistill.commands import update, update_report
from rankdistill.export.bundle.successor import problems
from rankdistill.export.files import write_atomic
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.runtime.event_log import EventLog
from rankdistill.export.runtime.manifest import SUMS
from rankdistill.online.follow import follow
from rankdistill.online.origin import Origin
from rankdistill.online.update import Published, first_version, open_published, run_update
from rankdistill.online.version_state import State

WORDS = "red blue green small large old new fast slow round flat soft hard warm cold car boat lamp chair table".split()
BATCH, SHOWN = 5, 4
# labels are drawn, so what an update learns is nothing and what it must keep is left open; it is whole all the same
OPTIONS = [
    "update=head", "update.min_events=10", "update.min_agreement=0", "update.max_forgetting=1",
    "update.max_int8_drop=1", "update.confidence=0.999999", "update.resamples=100", "update.learning_rate=1e-5",
    "update.memory=1000000", "update.replay_lists=0.1", "follow.count=10", "follow.poll_s=0.02", "follow.nice=0",
    "keep=3",
]  # fmt: skip
AIMED = ("bundle", "state", "version.json", "folder")  # what of a version is there when an aimed kill strikes


def event(name: str, rng: random.Random) -> dict[str, Any]:
    """Return an event of drawn words."""
    items = [
        {"id": str(place), "text": " ".join(rng.sample(WORDS, 3)), "outcome": rng.choice(["click", "skip"])}
        for place in range(SHOWN)
    ]
    return {
        "id": name,
        "time": time.time(),
        "user": name,
        "query": {"text": " ".join(rng.sample(WORDS, 2))},
        "items": items,
    }


def forked(work: Callable[[], None]) -> int:
    """Run something in a process of its own; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        work()
        os._exit(0)
    except BaseException as error:  # nothing of the parent's may go on here
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def write_on(log: Path, acknowledged: Path, prefix: str, seed: int) -> None:
    """Append events without end, and note those that are on disk."""
    rng, writer, number = random.Random(seed), EventLog(log, segment_bytes=100_000), 0
    with acknowledged.open("ab", buffering=0) as file:
        while True:
            names = [f"{prefix}-{number + place}" for place in range(BATCH)]
            writer.append([event(name, rng) for name in names])
            file.write(("\n".join(names) + "\n").encode())
            number += BATCH
            time.sleep(0.2)


class Watcher:
    """Looks at what is served, as a service does: whatever it sees at any instant must be whole."""

    def __init__(self, published: Published) -> None:
        self.looks, self.seen, self.wrong = 0, set(), []
        self._link = published.folder / "current"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.looks += 1
            try:
                bundle = self._link.resolve(strict=True)
                if bundle in self.seen:
                    continue
                if broken := torn(bundle):
                    self.wrong.append(f"{bundle.parent.name}: {broken}")
                self.seen.add(bundle)
            except OSError as error:
                self.wrong.append(str(error))


def torn(bundle: Path) -> str | None:
    """Return what of a bundle is not as its sums say."""
    for line in (bundle / SUMS).read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        if hashlib.sha256((bundle / name).read_bytes()).hexdigest() != wanted:
            return name
    return None


def stands(published: Published) -> tuple[int, str]:
    """Return the number of the served version, and what there is of the next one."""
    current = published.current()
    number = -1 if current is None else current.number
    if (published.versions / f"{number + 1:04d}").exists():
        return number, "folder"
    for work in published.versions.glob(f".{number + 1:04d}.*"):
        try:
            there = {path.name for path in work.iterdir()}
        except FileNotFoundError:  # it was renamed to the version's own name since, or taken away
            return stands(published)
        return number, next(
            (name for name in ("version.json", "state", "bundle", "graphs", "trainer") if name in there), "begun"
        )
    return number, "nothing"


def strike(pids: list[int]) -> list[int]:
    """Kill processes; returns the exit codes of those that had ended by themselves."""
    ended = []
    for pid in pids:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended.append(os.waitstatus_to_exitcode(status))
            continue
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return ended


def kill(published: Published, work: list[Callable[[], None]], aim: str | None, after: float) -> dict[str, Any]:
    """Start worker and writer, kill both, and look at what is left."""
    before = stands(published)[0]
    pids, ended = [forked(each) for each in work], []
    end = time.monotonic() + 120
    try:
        if aim is not None:
            while stands(published)[1] != aim and stands(published)[0] == before and time.monotonic() < end:
                time.sleep(0.0005)
            after = random.Random(after).uniform(0, 0.01)
        time.sleep(after)
    finally:  # they would outlive this process, and whoever waits for what they print
        ended = strike(pids)
    number, there = stands(published)
    result = {"aimed_at": aim, "after_s": round(after, 3), "published": number - before, "next_version": there}
    current = published.current()
    assert current is not None
    State.load(current.state)
    return result | {"whole": not torn(current.bundle) and not ended, "ended_by_themselves": ended}


def used_once(published: Published, acknowledged: Path) -> dict[str, Any]:
    """Compare the events that versions learned from with those that were acknowledged."""
    current = published.current()
    assert current is not None
    state = State.load(current.state)
    used = [each.id for each in [*state.memory, *state.held]]
    told = [line for line in acknowledged.read_text().split("\n")[:-1] if line]
    counts = collections.Counter(used)
    return {
        "acknowledged": len(told),
        "used": len(used),
        "lost": len(set(told) - set(used)),
        "used_twice": sum(count > 1 for count in counts.values()),
        "unacknowledged_used": len(set(used) - set(told)),
        "set_aside": sum(version.record["kind"] == "set aside" for version in published.all()),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill again and again; then let an update end in peace and count."""
    log, acknowledged = folder / "log", folder / "acknowledged"
    log.mkdir()
    acknowledged.touch()
    paths = [f"events='{log}'", f"published='{folder / 'published'}'"]
    config = update.convert(update.composed(str(options.model), [*paths, *OPTIONS]))
    origin = Origin.find(options.model)
    published = open_published(config, origin)
    with published.locked():
        first_version(published, origin, config.feedback.remembered)
    watcher, rng, results = Watcher(published), random.Random(options.seed), []
    usual = options.usual
    for number in range(options.kills):
        aim = AIMED[number // 2 % len(AIMED)] if number % 2 else None
        work = [
            lambda: follow(config, origin, published, lambda _: None),
            lambda n=number: write_on(log, acknowledged, str(n), n),
        ]
        begin = time.monotonic()
        results.append(kill(published, work, aim, rng.uniform(0, usual)))
        if aim in ("version.json", "folder"):
            usual = 0.5 * usual + 0.5 * (time.monotonic() - begin)  # of an update, as busy as the machine is
        print(f"{number + 1}/{options.kills} {results[-1]}", flush=True)
    EventLog(log).append([event(f"last-{number}", rng) for number in range(20)])
    with acknowledged.open("a") as file:
        file.write("".join(f"last-{number}\n" for number in range(20)))
    with published.locked():
        update_report.print_outcome(run_update(config, origin, published, threads=1))
    watcher.stop()
    found = used_once(published, acknowledged)
    found["looks_at_what_is_served"], found["wrong_of_them"] = watcher.looks, watcher.wrong
    found["versions"] = published.all()[-1].number + 1
    found["verify"] = [wrong for version in published.all() for wrong in problems(version.bundle)]
    found["chain"] = chained(published)
    return found | {"kills": results}


def chained(published: Published) -> bool:
    """Return whether each version goes on where the one before it ended."""
    records = [version.record["events"] for version in published.all() if "events" in version.record]
    return all(after["after"] == before["to"] for before, after in itertools.pairwise(records))


def main() -> None:
    """Kill, count, and say whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="run or bundle of a small student")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--usual", type=float, default=4.0, help="seconds that an update takes, to begin with")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("distill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        found = run(options, Path(folder))
    kills = found.pop("kills")
    found["killed"] = len(kills)
    found["after_kill_whole"] = sum(each["whole"] for each in kills)
    found["struck"] = dict(collections.Counter(each["next_version"] for each in kills))
    good = found["after_kill_whole"] == len(kills) and found["chain"]
    good &= not (
        found["lost"] or found["used_twice"] or found["set_aside"] or found["wrong_of_them"] or found["verify"]
    )
    print(json.dumps(found, indent=2))
    if options.out:
        host = {"host": describe_host(), "versions": versions(["rankdistill", "torch", "transformers", "onnxruntime"])}
        write_atomic(options.out, json.dumps({**host, **found, "kills": kills}, indent=2) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
